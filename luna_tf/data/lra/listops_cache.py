"""Keeps generated ListOps data on disk, and finds the released files.

A cache is a folder as in `data_cache`, with three TFRecord files and the
parameters of the generator. Any TFRecord reader can use it: a record is a
`tf.train.Example` with the features `tokens` (one string: a byte per token,
its id in `listops.VOCABULARY`) and `label` (int64).
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from luna_tf.data.lra.data_cache import FileFormat, load_or_make, sha256
from luna_tf.data.lra.listops import Split, read_tsv
from luna_tf.data.lra.listops_generator import (
    GENERATOR_VERSION,
    ListOpsConfig,
    generate,
)

FORMAT_VERSION = 1

_PARSE_BATCH = 4096
_TSV_NAMES = {
    "train": "basic_train.tsv",
    "validation": "basic_val.tsv",
    "test": "basic_test.tsv",
}


def load_or_generate(
    cache_dir: str | os.PathLike,
    config: ListOpsConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Split]:
    """Returns the data of a configuration, from the cache if it is there.

    Otherwise the data are generated and written to a folder of their own in
    `cache_dir`, whose name is derived from the configuration.

    Args:
        cache_dir: a local folder; made if need be.
        config: what to load or generate.
        num_workers, progress: see `listops_generator.generate`; without
            effect if the data are there already.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`.

    Raises:
        OSError: `cache_dir` cannot be written to.
        ValueError: `cache_dir` is a URL, or as `listops_generator.generate`.
        RuntimeError: as `listops_generator.generate`.

    A cache that is incomplete or does not match its checksums is replaced,
    with a warning that names it.

    Example:

    >>> from luna_tf.data.lra import ListOpsConfig, load_or_generate
    >>> config = ListOpsConfig(80, 10, 10, min_length=9, max_length=51)
    >>> splits = load_or_generate("cache", config)
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 80, 'validation': 10, 'test': 10}
    """
    parameters = {
        "format_version": FORMAT_VERSION,
        "generator_version": GENERATOR_VERSION,
        "config": dataclasses.asdict(config),
    }
    name = f"listops-{config.min_length}-{config.max_length}-seed{config.seed}"
    return load_or_make(
        cache_dir,
        name,
        parameters,
        _records(),
        lambda: generate(config, num_workers, progress),
    )


def load_tsv_folder(
    path: str | os.PathLike,
    skip_malformed: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, Split]:
    """Reads the ListOps files of the Long Range Arena release.

    Args:
        path: the folder that holds `basic_train.tsv`, `basic_val.tsv` and
            `basic_test.tsv`; in the release this is `listops-1000`.
        skip_malformed: see `listops.read_tsv`.
        cache_dir: a local folder, made if need be, that keeps what was read:
            parsing 100,000 expressions takes half a minute. Other files, by
            their checksums, are read anew. None keeps nothing.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`.

    Raises:
        FileNotFoundError: one of the files is missing.
        OSError: `cache_dir` cannot be written to.
        ValueError: a line is malformed, and `skip_malformed` is not set.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.lra import load_tsv_folder
    >>> Path("listops-1000").mkdir()
    >>> for name in ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv"):
    ...     path = Path("listops-1000", name)
    ...     _ = path.write_text("Source\\tTarget\\n( ( [MAX 4 ) ] )\\t4\\n")
    >>> load_tsv_folder("listops-1000")["test"].labels
    array([4], dtype=uint8)
    """
    folder = Path(path).expanduser()
    files = {name: folder / file for name, file in _TSV_NAMES.items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file.name} in {folder.absolute()}. The folder "
                f"must hold {', '.join(_TSV_NAMES.values())}, as does "
                "lra_release/lra_release/listops-1000 of the unpacked Long "
                "Range Arena release (github.com/google-research/"
                "long-range-arena). Without it such data can be generated: "
                "luna-lra does without --data_dir, and load_or_generate."
            )

    def read() -> dict[str, Split]:
        return {
            name: read_tsv(file, skip_malformed) for name, file in files.items()
        }

    if cache_dir is None:
        return read()
    parameters = {
        "format_version": FORMAT_VERSION,
        "skip_malformed": skip_malformed,
        "tsv_sha256": {name: sha256(file) for name, file in files.items()},
    }
    return load_or_make(cache_dir, "listops-tsv", parameters, _records(), read)


def _records() -> FileFormat:
    return FileFormat(".tfrecord", _write_records, _read_records)


def _write_records(path: Path, split: Split) -> None:
    # Here, so that nobody who only generates waits for this import.
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, label in enumerate(split.labels.tolist()):
            example = tf.train.Example()
            feature = example.features.feature
            feature["tokens"].bytes_list.value.append(
                split.example(i).tobytes()
            )
            feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())


def _read_records(path: Path) -> Split:
    import tensorflow as tf

    features = {
        "tokens": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    rows: list[np.ndarray] = []
    labels: list[int] = []
    for batch in tf.data.TFRecordDataset(str(path)).batch(_PARSE_BATCH):
        parsed = tf.io.parse_example(batch, features)
        rows += [
            np.frombuffer(row, np.uint8) for row in parsed["tokens"].numpy()
        ]
        labels += parsed["label"].numpy().tolist()
    return Split.from_rows(rows, labels)
