"""Which files make up a corpus, and whether they can be one."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

KINDS = ("text", "json", "tfrecord")
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_PROBE_BYTES = 2**18
_MOST_BYTES = 2**24


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the place."""


@dataclasses.dataclass(frozen=True)
class CorpusFiles:
    """Files of one kind.

    Args:
        paths: for `tf.io.gfile`, sorted; those that end in `.gz` are
            compressed.
        kind: one of `KINDS`.
        bytes: size of every file on disk.
        changed: when every file was changed last, in nanoseconds.
    """

    paths: tuple[str, ...]
    kind: str
    bytes: tuple[int, ...]
    changed: tuple[int, ...] = ()


def find_files(
    patterns: str | Sequence[str], skip_malformed: bool = False
) -> CorpusFiles:
    """Finds the files of a corpus and looks into the beginning of each.

    Args:
        patterns: names and globs, `gs://` included; in a string with commas
            between them. What ends in `.jsonl`, `.json` or `.ndjson` has one
            JSON object per line, `.tfrecord` has `tf.train.Example`s, all
            else is text; `.gz` may follow.
        skip_malformed: whether text that is not UTF-8 will be left out, so
            that only binary files are refused.

    Returns:
        The files, each once.

    Raises:
        CorpusError: nothing matches a pattern; files are of several kinds; a
            file is empty or cannot be read; text is binary or not in UTF-8.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.corpus import find_files
    >>> Path("books").mkdir()
    >>> for name in ("books/b.txt", "books/a.txt", "news.txt"):
    ...     _ = Path(name).write_text("Some text.")
    >>> files = find_files("news.txt, books/*.txt")
    >>> files.kind, files.paths
    ('text', ('books/a.txt', 'books/b.txt', 'news.txt'))
    """
    import tensorflow as tf

    if isinstance(patterns, str):
        patterns = [part.strip() for part in patterns.split(",")]
    patterns = [pattern for pattern in patterns if pattern]
    if not patterns:
        raise CorpusError("a corpus needs the name of at least one file.")
    paths: set[str] = set()
    for pattern in patterns:
        try:
            matches = tf.io.gfile.glob(pattern)
        except (tf.errors.OpError, OSError) as error:
            raise CorpusError(f"{pattern}: {error}") from error
        matches = [m for m in matches if not tf.io.gfile.isdir(m)]
        if not matches:
            hint = ""
            if tf.io.gfile.exists(pattern):
                hint = f" It is a folder: allowed is {pattern.rstrip('/')}/*."
            raise CorpusError(f"{pattern} matches no file.{hint}")
        paths.update(matches)
    ordered = sorted(paths)
    kinds = {path: kind_of(path) for path in ordered}
    if len(set(kinds.values())) > 1:
        firsts = {kind: path for path, kind in reversed(kinds.items())}
        listed = ", ".join(f"{p} is {k}" for k, p in sorted(firsts.items()))
        raise CorpusError(
            f"the files of a corpus must be of one kind, but {listed}."
        )
    found = [_probe(path, kinds[path], skip_malformed) for path in ordered]
    sizes, changed = zip(*found, strict=True)
    return CorpusFiles(tuple(ordered), kinds[ordered[0]], sizes, changed)


def kind_of(path: str) -> str:
    """Returns which of `KINDS` a file is, by its name."""
    name = path.rpartition("/")[2].lower().removesuffix(".gz")
    _, dot, suffix = name.rpartition(".")
    return _SUFFIXES.get(dot + suffix, "text")


def _probe(path: str, kind: str, skip_malformed: bool) -> tuple[int, int]:
    """Reads the beginning of a file; returns its size and time of change."""
    import tensorflow as tf

    try:
        status = tf.io.gfile.stat(path)
        with tf.io.gfile.GFile(path, "rb") as file:
            start = file.read(_PROBE_BYTES)
    except (tf.errors.OpError, OSError) as error:
        first = str(error).partition("\n")[0]
        raise CorpusError(f"{path} cannot be read: {first}") from error
    if not start:
        raise CorpusError(f"{path} is empty.")
    is_whole = len(start) == status.length
    if path.lower().endswith(".gz"):
        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            start = reader.decompress(start, _PROBE_BYTES)
            is_whole = reader.eof
        except zlib.error as error:
            raise CorpusError(
                f"{path} is not compressed by gzip: {error}."
            ) from error
        if not start:
            raise CorpusError(f"{path} holds no text.")
    if kind != "tfrecord":
        check_text(start, path, is_whole, skip_malformed)
    return status.length, status.mtime_nsec


def check_whole(path: str) -> None:
    """Raises if a file is compressed and cut off: TensorFlow reads on silently.

    Args:
        path: of the file; without `.gz` nothing is read.
    """
    import tensorflow as tf

    if not path.lower().endswith(".gz"):
        return
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            while rest := file.read(_PROBE_BYTES):
                while rest:
                    if reader.eof:  # Another member, or padding.
                        rest = rest.lstrip(b"\0")
                        if not rest:
                            break
                        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    reader.decompress(rest, _MOST_BYTES)
                    rest = reader.unused_data or reader.unconsumed_tail
    except (tf.errors.OpError, OSError, zlib.error) as error:
        first = str(error).partition("\n")[0]
        raise CorpusError(f"{path} is damaged: {first}.") from error
    if not reader.eof:
        raise CorpusError(
            f"{path} is cut off: its compressed data have no end."
        )


def check_text(
    start: bytes, path: str, is_whole: bool, skip_malformed: bool = False
) -> None:
    """Raises unless the beginning of a file is text in UTF-8.

    Args:
        start: the beginning, at least one byte.
        path: of the file.
        is_whole: whether that is all; else a character may be cut at its end.
        skip_malformed: whether only bytes that no text has are refused.
    """
    if b"\0" in start:
        raise CorpusError(
            f"{path} is not text: byte {start.index(0):,} is 0. Allowed are "
            "text, JSON lines and TFRecord files."
        )
    if skip_malformed:
        return
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if not is_whole and error.start >= len(start) - 3:
            return
        line = start.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}, line {line:,} is not UTF-8: byte {error.start:,} is "
            f"0x{start[error.start]:02x}. Convert it, or have such "
            "documents left out."
        ) from None
