"""Data sets on disk: whole or not there, and checked when they are read.

A cache is a folder with a file for each split and `dataset.json`, which holds
what the data were made from and the size, SHA-256 and number of examples of
every file. The folder gets its name only when everything in it is on disk, so
that a run that is killed leaves nothing that looks whole; several processes
may make the same one at the same time.
"""

import contextlib
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
from typing import Any, NamedTuple, TypeVar

import numpy as np

from luna_tf.data.lra.labelled import LabelledSplits
from luna_tf.data.lra.splits import ImageSplit

FORMAT_VERSION = 1

SplitsT = TypeVar("SplitsT", bound=dict)

_DESCRIPTION = "dataset.json"
_SPLITS = ("train", "validation", "test")
_NAME_IS_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
# No run takes that long to write: what is older was left by a killed one.
_LEFTOVER_SECONDS = 24 * 60 * 60


class FileFormat(NamedTuple):
    """How a split becomes a file.

    Args:
        suffix: of the file's name, such as `".npz"`.
        write: `write(path, split)`.
        read: `read(path)` returns the split.
    """

    suffix: str
    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]


class _BrokenCacheError(Exception):
    """The message says what is wrong with the cache."""


def load_or_parse(
    cache_dir: str | os.PathLike | None,
    name: str,
    sources: list[Path],
    options: dict,
    parse: Callable[[], SplitsT],
) -> SplitsT:
    """Returns pictures from files, or from the cache if they were read before.

    That is worth while for many small files. Texts are read from their files
    faster than their checksums can be computed.

    Args:
        cache_dir: a local folder, made if need be; None keeps nothing.
        name: start of the name of the cache.
        sources: the files and folders that are parsed. Those of another size
            or time of change are parsed anew, as are folders with other
            files.
        options: what else decides the result, fit for JSON.
        parse: makes the splits, of `ImageSplit`.

    Returns:
        What `parse` returns.

    Raises:
        OSError: a source cannot be read, or `cache_dir` not be written to.
        ValueError: `cache_dir` is a URL.

    A cache that is incomplete or does not match its checksums is replaced,
    with a warning that names it.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.lra import ImageSplit
    >>> folder = Path("pictures")
    >>> folder.mkdir()
    >>> def read():
    ...     print("reading")
    ...     return {"train": ImageSplit([[[0, 255]]], labels=[3])}
    >>> for _ in range(2):
    ...     found = load_or_parse("cache", "image", [folder], {}, read)
    reading
    >>> found["train"].labels
    array([3], dtype=int32)
    """
    if cache_dir is None:
        return parse()
    cache = Path(cache_dir).expanduser()
    parameters = {
        "format_version": FORMAT_VERSION,
        "options": options,
        "sources": [_fingerprint(path, cache) for path in sources],
    }
    arrays = FileFormat(".npz", _write_pictures, _read_pictures)
    return load_or_make(cache_dir, name, parameters, arrays, parse, 4)


def load_or_make(
    cache_dir: str | os.PathLike,
    name: str,
    parameters: dict,
    file_format: FileFormat,
    make: Callable[[], SplitsT],
    stacklevel: int = 3,
) -> SplitsT:
    """Returns the data of these parameters, from the cache if they are there.

    Args:
        cache_dir: a local folder; made if need be.
        name: start of the name of the cache; the rest follows from
            `parameters`.
        parameters: what decides the result, fit for JSON.
        file_format: of the files of the cache.
        make: makes the splits, by name.
        stacklevel: whose line warnings name, as in `warnings.warn`.

    Returns:
        What `make` returns, now or when the cache was written.

    Raises:
        OSError: `cache_dir` cannot be written to.
        ValueError: `cache_dir` is a URL.

    Example:

    >>> from pathlib import Path
    >>> text = FileFormat(".txt", Path.write_text, Path.read_text)
    >>> def make():
    ...     print("making")
    ...     return {"train": "abc"}
    >>> for _ in range(2):
    ...     found = load_or_make("cache", "letters", {"seed": 0}, text, make)
    making
    >>> found
    {'train': 'abc'}
    """
    if "://" in os.fspath(cache_dir):
        raise ValueError(
            "cache_dir must be a local folder. "
            f"Received: cache_dir={cache_dir!r}."
        )
    # As it will be read again: JSON knows no tuples.
    parameters = json.loads(json.dumps(parameters))
    text = json.dumps(parameters, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = Path(cache_dir).expanduser() / f"{name}-{digest}"
    if os.path.lexists(folder):
        try:
            return _read(folder, parameters, file_format)
        except _BrokenCacheError as error:
            warnings.warn(
                f"The cache {folder} is broken and will be made anew: {error}.",
                stacklevel=stacklevel,
            )
    # Fail before the work, not after it.
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    splits = make()
    _write(folder, parameters, file_format, splits)
    return splits


def sha256(path: Path) -> str:
    """Returns the checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _fingerprint(source: Path, cache_dir: Path) -> dict:
    """What changes when a file, or a file in a folder, does."""
    root = os.fspath(source)
    paths = [root]
    if source.is_dir():
        paths = []
        for folder, folders, names in os.walk(root, onerror=_raise):
            # The cache may be in the folder that it is made from.
            if cache_dir.exists():
                folders[:] = [
                    name
                    for name in folders
                    if not cache_dir.samefile(os.path.join(folder, name))
                ]
            paths += [os.path.join(folder, name) for name in names]
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = os.stat(path)
        digest.update(
            f"{path[len(root) :]}\0{status.st_size}\0{status.st_mtime_ns}\n"
            # Names need not be text.
            .encode(errors="surrogateescape")
        )
    return {
        "name": source.name,
        "files": len(paths),
        "sha256": digest.hexdigest(),
    }


def _raise(error: OSError) -> None:
    raise error


def _write(
    folder: Path, parameters: dict, file_format: FileFormat, splits: dict
) -> None:
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        files = {}
        for name, split in splits.items():
            file = partial / f"{name}{file_format.suffix}"
            file_format.write(file, split)
            _flush(file)
            files[file.name] = {
                "num_examples": len(split),
                "num_bytes": file.stat().st_size,
                "sha256": sha256(file),
            }
        contents: dict[str, Any] = {**parameters, "files": files}
        if isinstance(splits, LabelledSplits):
            contents["class_names"] = splits.class_names
        description = partial / _DESCRIPTION
        description.write_text(json.dumps(contents, indent=2) + "\n")
        _flush(description)
        _flush(partial)
        _install(partial, folder, parameters, file_format)
        _flush(folder.parent)
    finally:
        # After a success there is nothing left of that name.
        shutil.rmtree(partial, ignore_errors=True)


def _install(
    partial: Path, folder: Path, parameters: dict, file_format: FileFormat
) -> None:
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
            _read(folder, parameters, file_format)
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


def _read(folder: Path, parameters: dict, file_format: FileFormat) -> Any:
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        files = description.pop("files")
        class_names = description.pop("class_names", None)
        if description != parameters:
            raise _BrokenCacheError(f"{_DESCRIPTION} is of another dataset")
        splits = {}
        for name in _SPLITS:
            file = folder / f"{name}{file_format.suffix}"
            # Every data set has something to train on.
            if name == "train" or file.name in files:
                splits[name] = _read_verified(file, files, file_format)
        if class_names is None:
            return splits
        return LabelledSplits(splits, class_names)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _BrokenCacheError(f"{type(error).__name__}: {error}") from error


def _read_verified(file: Path, files: dict, file_format: FileFormat) -> Any:
    expected = files[file.name]
    num_bytes = file.stat().st_size
    if num_bytes != expected["num_bytes"]:
        raise _BrokenCacheError(
            f"{file.name} has {num_bytes} bytes, not {expected['num_bytes']}"
        )
    if sha256(file) != expected["sha256"]:
        raise _BrokenCacheError(f"{file.name} does not match its checksum")
    split = file_format.read(file)
    if len(split) != expected["num_examples"]:
        raise _BrokenCacheError(
            f"{file.name} holds {len(split)} examples, "
            f"not {expected['num_examples']}"
        )
    return split


def _write_pictures(path: Path, split: ImageSplit) -> None:
    np.savez(path, pixels=split.pixels, labels=split.labels)


def _read_pictures(path: Path) -> ImageSplit:
    with np.load(path) as arrays:
        return ImageSplit(arrays["pixels"], arrays["labels"])
