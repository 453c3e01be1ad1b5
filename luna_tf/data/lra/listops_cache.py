"""Keeps generated ListOps data on disk, and finds the released files.

A cache is a folder of three TFRecord files and `dataset.json`, which holds
the generator's parameters and the size, SHA-256 and number of examples of
every file. Any TFRecord reader can use it: a record is a `tf.train.Example`
with the features `tokens` (one string: a byte per token, its id in
`listops.VOCABULARY`) and `label` (int64).
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from luna_tf.data.lra.listops import Split, read_tsv
from luna_tf.data.lra.listops_generator import (
    GENERATOR_VERSION,
    ListOpsConfig,
    generate,
)

FORMAT_VERSION = 1

_DESCRIPTION = "dataset.json"
_PARSE_BATCH = 4096
_NAME_IS_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
# No run takes that long to write: what is older was left by a killed one.
_LEFTOVER_SECONDS = 24 * 60 * 60
_TSV_NAMES = {
    "train": "basic_train.tsv",
    "validation": "basic_val.tsv",
    "test": "basic_test.tsv",
}


class _BrokenCacheError(Exception):
    """The message says what is wrong with the cache."""


def load_or_generate(
    cache_dir: str | os.PathLike,
    config: ListOpsConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Split]:
    """Returns the data of a configuration, from the cache if it is there.

    Otherwise the data are generated and written to a folder of their own in
    `cache_dir`, whose name is derived from the configuration. The folder gets
    that name only when everything in it is on disk, so that a run that is
    killed leaves nothing that looks whole; several processes may do this at
    the same time.

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

    Example: `load_or_generate("~/.cache/luna_tf", ListOpsConfig())["test"]`
    """
    parameters = {
        "format_version": FORMAT_VERSION,
        "generator_version": GENERATOR_VERSION,
        "config": dataclasses.asdict(config),
    }
    name = f"{config.min_length}-{config.max_length}-seed{config.seed}"
    return _load_or_make(
        cache_dir,
        name,
        parameters,
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

    Example: `load_tsv_folder("lra_release/lra_release/listops-1000")["test"]`
    """
    folder = Path(path).expanduser()
    files = {name: folder / file for name, file in _TSV_NAMES.items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file.name} in {folder.absolute()}. The folder "
                f"must hold {', '.join(_TSV_NAMES.values())}, as does "
                "lra_release/lra_release/listops-1000 of the unpacked Long "
                "Range Arena release; load_or_generate makes such data "
                "without it."
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
        "tsv_sha256": {name: _sha256(file) for name, file in files.items()},
    }
    return _load_or_make(cache_dir, "tsv", parameters, read)


def _load_or_make(
    cache_dir: str | os.PathLike,
    name: str,
    parameters: dict,
    make: Callable[[], dict[str, Split]],
) -> dict[str, Split]:
    if "://" in os.fspath(cache_dir):
        raise ValueError(
            "cache_dir must be a local folder. "
            f"Received: cache_dir={cache_dir!r}."
        )
    text = json.dumps(parameters, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = Path(cache_dir).expanduser() / f"listops-{name}-{digest}"
    if os.path.lexists(folder):
        try:
            return _read(folder, parameters)
        except _BrokenCacheError as error:
            warnings.warn(
                f"The ListOps cache {folder} is broken and will be made "
                f"anew: {error}.",
                stacklevel=3,
            )
    # Fail before the work, not after it.
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    splits = make()
    _write(folder, parameters, splits)
    return splits


def _write(folder: Path, parameters: dict, splits: dict[str, Split]) -> None:
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        files = {}
        for name, split in splits.items():
            file = partial / f"{name}.tfrecord"
            _write_records(file, split)
            _flush(file)
            files[file.name] = {
                "num_examples": len(split),
                "num_bytes": file.stat().st_size,
                "sha256": _sha256(file),
            }
        description = partial / _DESCRIPTION
        description.write_text(
            json.dumps({**parameters, "files": files}, indent=2) + "\n"
        )
        _flush(description)
        _flush(partial)
        _install(partial, folder, parameters)
        _flush(folder.parent)
    finally:
        # After a success there is nothing left of that name.
        shutil.rmtree(partial, ignore_errors=True)


def _install(partial: Path, folder: Path, parameters: dict) -> None:
    """Gives the finished folder its name, unless a whole one has it by now."""
    while True:
        try:
            # Fails if there is a folder that is not empty.
            os.rename(partial, folder)
            return
        except OSError as error:
            if error.errno not in _NAME_IS_TAKEN:
                raise
        try:
            _read(folder, parameters)
            return
        except _BrokenCacheError:
            discarded = partial.with_suffix(".broken")
            # Another process may do the same and be faster.
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, discarded)
            _remove(discarded)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read(folder: Path, parameters: dict) -> dict[str, Split]:
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        files = description.pop("files")
        if description != parameters:
            raise _BrokenCacheError(f"{_DESCRIPTION} is of another dataset")
        return {
            name: _read_verified(folder / f"{name}.tfrecord", files)
            for name in _TSV_NAMES
        }
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _BrokenCacheError(f"{type(error).__name__}: {error}") from error


def _read_verified(file: Path, files: dict) -> Split:
    expected = files[file.name]
    num_bytes = file.stat().st_size
    if num_bytes != expected["num_bytes"]:
        raise _BrokenCacheError(
            f"{file.name} has {num_bytes} bytes, not {expected['num_bytes']}"
        )
    if _sha256(file) != expected["sha256"]:
        raise _BrokenCacheError(f"{file.name} does not match its checksum")
    split = _read_records(file)
    if len(split) != expected["num_examples"]:
        raise _BrokenCacheError(
            f"{file.name} holds {len(split)} examples, "
            f"not {expected['num_examples']}"
        )
    return split


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
