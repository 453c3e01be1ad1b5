"""Pathfinder pictures as TFRecord files, generated once and then read.

A data set is a folder with one file for each chunk of the generator,
`dataset.json`, which says what was generated, and `SHA256SUMS`, which lists
the files that are whole (`sha256sum --check SHA256SUMS` does, too). Any
TFRecord reader can use the files: a record is a `tf.train.Example` with the
features `image` (one string: a byte per pixel, row by row) and `label`
(int64).

A run that is killed loses the files that it was at; the next one goes on with
these, and the outcome is the same.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from luna_tf.data.lra.data_cache import sha256
from luna_tf.data.lra.pathfinder_disk import (
    DESCRIPTION,
    claim,
    replacing,
    split_by_position,
    write_chunks,
)
from luna_tf.data.lra.pathfinder_generator import (
    CHUNK_SIZE,
    GENERATOR_VERSION,
    Chunk,
    PathfinderConfig,
)
from luna_tf.data.lra.splits import ImageSplit

FORMAT_VERSION = 1
_SUMS = "SHA256SUMS"


def load_or_generate_pathfinder(
    cache_dir: str | os.PathLike,
    config: PathfinderConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ImageSplit]:
    """Returns the pictures of a configuration, generated if need be.

    They are kept in a folder of their own in `cache_dir`, whose name is
    derived from the configuration. What an interrupted run has left there is
    used; a damaged file is made anew, with a warning that names it.

    Args:
        cache_dir: a local folder; made if need be.
        config: what to load or generate.
        num_workers, progress: see `pathfinder_generator.generate`; without
            effect if the data are there already.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`: the first 80 %, the
        next 10 % and the last 10 % of the pictures.

    Raises:
        OSError: `cache_dir` cannot be written to.
        ValueError: `cache_dir` is a URL, or `num_workers` is below 1.

    Example:

    >>> from luna_tf.data import lra
    >>> config = lra.PathfinderConfig(32, "hard", num_examples=20)
    >>> splits = lra.load_or_generate_pathfinder("cache", config)
    >>> {name: split.pixels.shape for name, split in splits.items()}
    {'train': (16, 32, 32), 'validation': (2, 32, 32), 'test': (2, 32, 32)}
    """
    text = json.dumps(_description(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"pathfinder{config.image_size}-{config.difficulty}-{digest}"
    if "://" in os.fspath(cache_dir):
        raise ValueError(
            "cache_dir must be a local folder. "
            f"Received: cache_dir={cache_dir!r}."
        )
    folder = Path(cache_dir).expanduser() / name
    write_pathfinder_records(folder, config, num_workers, progress)
    return split_by_position(*_read(folder, config))


def write_pathfinder_records(
    folder: str | os.PathLike,
    config: PathfinderConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generates what is not there yet of a data set.

    Args:
        folder: where to; made if need be.
        config: what to generate.
        num_workers: see `pathfinder_generator.generate`.
        progress: called as `progress(done, total)` with numbers of pictures,
            at once if some are there and after each file.

    Raises:
        OSError: `folder` cannot be written to.
        ValueError: it holds another data set, or `num_workers` is below 1.

    Example:

    >>> import os
    >>> from luna_tf.data.lra import PathfinderConfig
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> write_pathfinder_records("pictures", config)
    >>> sorted(os.listdir("pictures"))
    ['SHA256SUMS', 'dataset.json', 'pictures-00000-of-00001.tfrecord']
    """
    folder = Path(folder).expanduser()
    claim(folder, _description(config))
    missing = _missing(folder, config)

    def write(chunk: Chunk) -> None:
        path = folder / _name(config, chunk.index)
        with replacing(path) as partial:
            _write_records(partial, chunk)
            digest = sha256(partial)
        # Listed last: what is listed is whole.
        _add_line(folder / _SUMS, f"{digest}  {path.name}\n")

    write_chunks(config, missing, write, num_workers, progress)


def read_pathfinder_records(
    folder: str | os.PathLike,
) -> dict[str, ImageSplit]:
    """Reads a data set that is there, whole and undamaged.

    Args:
        folder: where `write_pathfinder_records` has put it.

    Returns:
        The splits of `load_or_generate_pathfinder`.

    Raises:
        FileNotFoundError: there is no `dataset.json` in the folder, or a file
            was not written yet.
        ValueError: a file is not what it was when it was written, or was made
            by another version of the generator.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> write_pathfinder_records("pictures", config)
    >>> read_pathfinder_records("pictures")["test"].labels
    array([0], dtype=int32)
    """
    folder = Path(folder).expanduser()
    config = records_config(folder)
    if config is None:
        raise FileNotFoundError(
            f"There is no {DESCRIPTION} in {folder.absolute()}: it is no "
            "folder of write_pathfinder_records."
        )
    sums = _sums(folder)
    for index in range(config.num_chunks):
        problem = _problem(folder / _name(config, index), sums)
        if problem is not None:
            kind = ValueError if problem else FileNotFoundError
            raise kind(
                f"{folder / _name(config, index)} "
                f"{problem or 'is not there'}. write_pathfinder_records"
                f"({str(folder)!r}, {config}) makes it."
            )
    return split_by_position(*_read(folder, config))


def records_config(folder: str | os.PathLike) -> PathfinderConfig | None:
    """What a folder of records was generated as.

    Args:
        folder: any folder.

    Returns:
        The configuration, or None where `write_pathfinder_records` has put
        nothing.

    Raises:
        ValueError: it was made by another version, or is damaged.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig
    >>> records_config("nowhere") is None
    True
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> write_pathfinder_records("pictures", config)
    >>> records_config("pictures").difficulty
    'easy'
    """
    path = Path(folder).expanduser() / DESCRIPTION
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_text())
        config = PathfinderConfig(**description["config"])
        if description != _description(config):
            raise ValueError("it is of another version")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}.") from error
    return config


def _description(config: PathfinderConfig) -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "generator_version": GENERATOR_VERSION,
        "config": config.describe(),
    }


def _name(config: PathfinderConfig, index: int) -> str:
    return f"pictures-{index:05d}-of-{config.num_chunks:05d}.tfrecord"


def _add_line(path: Path, line: str) -> None:
    # What a kill may have cut off must not become a part of this line.
    cut = path.exists() and not path.read_text().endswith("\n")
    with open(path, "a") as file:
        file.write("\n" * cut + line)


def _sums(folder: Path) -> dict[str, str]:
    """Returns the checksums of the files that are whole."""
    path = folder / _SUMS
    if not path.exists():
        return {}
    # Of a line that was cut off by a kill, a part of the name is missing.
    lines = (line.split() for line in path.read_text().splitlines())
    return {line[1]: line[0] for line in lines if len(line) == 2}


def _problem(path: Path, sums: dict[str, str]) -> str | None:
    """What is wrong with a file: nothing, "" if it is missing, or words."""
    if path.name not in sums or not path.exists():
        return ""
    if sha256(path) != sums[path.name]:
        return (
            f"is damaged: its {path.stat().st_size} bytes do not match {_SUMS}"
        )
    return None


def _missing(folder: Path, config: PathfinderConfig) -> list[int]:
    sums = _sums(folder)
    missing = []
    for index in range(config.num_chunks):
        path = folder / _name(config, index)
        problem = _problem(path, sums)
        if problem:
            warnings.warn(
                f"{path} {problem}. It will be made anew.", stacklevel=4
            )
        if problem is not None:
            missing.append(index)
    return missing


def _write_records(path: Path, chunk: Chunk) -> None:
    # Here, so that nobody who only generates waits for this import.
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for picture, label in zip(
            chunk.pixels, chunk.labels.tolist(), strict=True
        ):
            example = tf.train.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(picture.tobytes())
            feature["label"].int64_list.value.append(label)
            # Else the order of the features is another in every process.
            writer.write(example.SerializeToString(deterministic=True))


def _read(
    folder: Path, config: PathfinderConfig
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    size = config.image_size
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    pixels = np.empty((config.num_examples, size, size), np.uint8)
    labels = np.empty(config.num_examples, np.int32)
    files = [
        str(folder / _name(config, index)) for index in range(config.num_chunks)
    ]
    start = 0
    for batch in tf.data.TFRecordDataset(files).batch(CHUNK_SIZE):
        parsed = tf.io.parse_example(batch, features)
        images = b"".join(parsed["image"].numpy().tolist())
        part = slice(start, start + len(batch))
        pixels[part] = np.frombuffer(images, np.uint8).reshape(-1, size, size)
        labels[part] = parsed["label"].numpy()
        start = part.stop
    return pixels, labels
