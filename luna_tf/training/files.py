"""Files of a run, local or remote (gs://), by TensorFlow's file systems.

What is written appears whole or not at all: first under another name, then
renamed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any


def _gfile() -> Any:
    # Takes seconds, which a program's --help should not wait for.
    import tensorflow as tf

    return tf.io.gfile


def is_remote(path: str) -> bool:
    """Whether a path names its file system, as `gs://bucket/run` does."""
    return "://" in str(path)


def join(folder: str, *names: str) -> str:
    """Appends names to a folder by `/`, which all file systems understand."""
    return "/".join([str(folder).rstrip("/"), *names])


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    return _gfile().exists(path)


def read_text(path: str) -> str:
    """Reads a file as UTF-8."""
    with _gfile().GFile(path, "rb") as file:
        return file.read().decode("utf-8")


def read_bytes(path: str) -> bytes:
    """The content of a file."""
    with _gfile().GFile(path, "rb") as file:
        return file.read()


def write_text(path: str, text: str) -> None:
    """Writes a file as UTF-8; a kill leaves the old one or the new one."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file; a kill leaves the old one or the new one."""
    unfinished = f"{path}.unfinished"
    with _gfile().GFile(unfinished, "wb") as file:
        file.write(content)
    _gfile().rename(unfinished, path, overwrite=True)


def write_by(path: str, write: Callable[[str], None]) -> None:
    """Writes a file by a function that knows local files only.

    Args:
        path: the file; a kill leaves the old one or the new one.
        write: given the path of a local file with the same ending, writes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        write(local)
        unfinished = f"{path}.unfinished"
        _gfile().copy(local, unfinished, overwrite=True)
    _gfile().rename(unfinished, path, overwrite=True)


def write_folder_by(path: str, write: Callable[[str], None]) -> None:
    """Writes a folder by a function that knows local folders only.

    Args:
        path: the folder; there must be none yet.
        write: given the path of a local folder, fills it.
    """
    if not is_remote(path):
        unfinished = f"{path}.unfinished"
        remove(unfinished)
        write(unfinished)
        _gfile().rename(unfinished, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        for here, _, names in os.walk(folder):
            below = os.path.relpath(here, folder)
            there = path if below == "." else join(path, *below.split(os.sep))
            _gfile().makedirs(there)
            for name in names:
                _gfile().copy(os.path.join(here, name), join(there, name))


def read_folder_by(path: str, read: Callable[[str], Any]) -> Any:
    """What a function returns that reads a folder and knows local ones only."""
    if not is_remote(path):
        return read(path)
    with tempfile.TemporaryDirectory() as folder:
        for there, _, names in _gfile().walk(path):
            below = there.rstrip("/")[len(path.rstrip("/")) :].strip("/")
            here = os.path.join(folder, *below.split("/"))
            os.makedirs(here, exist_ok=True)
            for name in names:
                _gfile().copy(join(there, name), os.path.join(here, name))
        return read(folder)


def is_new_folder(path: str) -> bool:
    """Whether there is nothing, or an empty folder."""
    if is_remote(path):
        return not exists(path) or _gfile().listdir(path) == []
    # TensorFlow takes seconds to import.
    if os.path.isdir(path):
        return not os.listdir(path)
    return not os.path.lexists(path)


def folder_size(path: str) -> int:
    """Bytes of all files in a folder."""
    return sum(
        _gfile().stat(join(folder, name)).length
        for folder, _, names in _gfile().walk(path)
        for name in names
    )


def read_by(path: str, read: Callable[[str], None]) -> None:
    """Reads a file by a function that knows local files only."""
    if not is_remote(path):
        read(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(path))
        _gfile().copy(path, local)
        read(local)


def remove(path: str) -> None:
    """Removes a file or a folder with all in it, if there is one."""
    if not exists(path):
        return
    if _gfile().isdir(path):
        _gfile().rmtree(path)
    else:
        _gfile().remove(path)


def prepare_folder(folder: str) -> None:
    """Makes a folder and proves that files can be written to it.

    Raises:
        OSError: they cannot: a read-only or full disk, a missing bucket, a
            file in the way.
    """
    import tensorflow as tf

    probe = join(folder, ".writable")
    try:
        _gfile().makedirs(folder)
        write_bytes(probe, b"1")
        _gfile().remove(probe)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
