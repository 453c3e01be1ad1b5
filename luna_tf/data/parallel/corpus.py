"""Reads pairs of sentences from text files, and tells what is wrong in them.

All paths go through `tf.io.gfile`, so gs:// works everywhere. Whether a file
is gzipped is seen from its first bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

_GZIP = b"\x1f\x8b"
_ON_EMPTY = ("error", "skip")


class CorpusError(ValueError):
    """A file does not hold what was asked for; the message says where."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations.

    Args:
        sources: sentences of the one language.
        targets: their translations.
        groups: what each pair belongs to, such as its book; None without.
        skipped: pairs that were left out because one side was empty or their
            line had another number of columns than the first.
    """

    sources: list[str]
    targets: list[str]
    groups: list[str] | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.sources)


def read_tsv(
    paths: str | Sequence[str],
    source_column: str | int,
    target_column: str | int,
    group_column: str | int | None = None,
    on_empty: str = "error",
) -> Pairs:
    """Reads pairs from files of tab-separated columns.

    Columns are named as in the first line of each file, or numbered from 1,
    all of them in the same way; with numbers there is no header. Tabs have no
    other meaning, and neither have quotes.

    Args:
        paths: a file, a pattern such as `gs://bucket/train-*.tsv.gz`, or a
            list of these. Files of a pattern are read in the order of names.
        source_column: where the source sentence is.
        target_column: where its translation is.
        group_column: where the name of the pair's group is, if anywhere.
        on_empty: what becomes of pairs one side of which is empty, and of
            lines with another number of columns than the first: "error", or
            "skip" to leave them out and count them.

    Returns:
        `Pairs` in the order of the files.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a file lacks a column, or cannot be read as text.
        ValueError: an argument is not possible.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.parallel import read_tsv
    >>> lines = ["book\\ten\\tes", "Ruth\\tGo.\\tVe.", "Mark\\t\\tSí."]
    >>> _ = Path("verses.tsv").write_text("\\n".join(lines), encoding="utf8")
    >>> read_tsv("verses.tsv", "en", "es", group_column="book", on_empty="skip")
    Pairs(sources=['Go.'], targets=['Ve.'], groups=['Ruth'], skipped=1)
    """
    _check_choice("on_empty", on_empty, _ON_EMPTY)
    given = {
        "source_column": source_column,
        "target_column": target_column,
        "group_column": group_column,
    }
    columns = {n: _number(c) for n, c in given.items() if c is not None}
    named = [isinstance(c, str) for c in columns.values()]
    if any(named) and not all(named):
        raise ValueError(
            "source_column, target_column and group_column must be all names "
            f"or all numbers. Received: {list(columns.values())}"
        )
    collected = _Collected(on_empty, "group_column" in columns)
    for path in _find(paths):
        _read_tsv_file(path, columns, collected)
    return collected.pairs()


def read_aligned(
    source_paths: str | Sequence[str],
    target_paths: str | Sequence[str],
    on_empty: str = "error",
) -> Pairs:
    """Reads pairs from files whose n-th lines are translations of each other.

    Args:
        source_paths: files of source sentences, as in `read_tsv`.
        target_paths: as many files, in the same order, of their translations.
        on_empty: what becomes of pairs one side of which is empty, as in
            `read_tsv`.

    Returns:
        `Pairs` in the order of the files, without groups.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: files do not belong together, or cannot be read as text.
        ValueError: an argument is not possible.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.parallel import read_aligned
    >>> _ = Path("train.en").write_text("Go.\\nStay.\\n")
    >>> _ = Path("train.es").write_text("Ve.\\nQuédate.\\n", encoding="utf8")
    >>> pairs = read_aligned("train.en", "train.es")
    >>> pairs.targets
    ['Ve.', 'Quédate.']
    """
    _check_choice("on_empty", on_empty, _ON_EMPTY)
    files = _find(source_paths), _find(target_paths)
    if len(files[0]) != len(files[1]):
        raise CorpusError(
            f"{source_paths} are {len(files[0])} files, but {target_paths} "
            f"are {len(files[1])}; they must be aligned one to one."
        )
    collected = _Collected(on_empty, False)
    for source, target in zip(*files, strict=True):
        lines = itertools.zip_longest(_lines(source), _lines(target))
        number = 0
        for number, (one, other) in enumerate(lines, 1):
            if one is None or other is None:
                counts = [sum(1 for _ in _lines(p)) for p in (source, target)]
                raise CorpusError(
                    f"{source} has {counts[0]:,} lines, but {target} has "
                    f"{counts[1]:,}; they must be aligned line by line."
                )
            collected.add(one, other, None, f"{source} and {target}", number)
        if number == 0:
            raise CorpusError(f"{source} and {target} are empty.")
    return collected.pairs()


def split(
    pairs: Pairs,
    validation_groups: Sequence[str],
    test_groups: Sequence[str],
) -> tuple[Pairs, Pairs, Pairs]:
    """Holds out whole groups, so that no neighbour of a test pair is trained.

    Args:
        pairs: what to divide; it must have groups.
        validation_groups: names of the groups to validate on.
        test_groups: names of the groups to test on.

    Returns:
        Pairs for training, validation and test.

    Raises:
        ValueError: there are no groups, a name is unknown or in both lists,
            or nothing is left for training.

    Example:

    >>> from luna_tf.data.parallel import Pairs, split
    >>> books = ["John", "Ruth", "Mark"]
    >>> pairs = Pairs(["a", "b", "c"], ["A", "B", "C"], groups=books)
    >>> train, validation, test = split(pairs, ["Ruth"], ["Mark"])
    >>> train.sources, validation.sources, test.sources
    (['a'], ['b'], ['c'])
    """
    if pairs.groups is None:
        raise ValueError(
            "pairs cannot be split by groups that were not read: give "
            "group_column."
        )
    present = dict.fromkeys(pairs.groups)
    given = {
        "validation_groups": validation_groups,
        "test_groups": test_groups,
    }
    for name, groups in given.items():
        unknown = [g for g in groups if g not in present]
        if unknown:
            raise ValueError(
                f"{name} has {', '.join(map(repr, unknown))}; there are "
                f"{', '.join(present)}."
            )
    both = set(validation_groups) & set(test_groups)
    if both:
        raise ValueError(
            "validation_groups and test_groups both have "
            f"{', '.join(sorted(both))}."
        )
    held_out = {*validation_groups, *test_groups}
    rest = [group for group in present if group not in held_out]
    if not rest:
        raise ValueError(
            "validation_groups and test_groups leave nothing to train on."
        )
    return (
        _of_groups(pairs, rest),
        _of_groups(pairs, validation_groups),
        _of_groups(pairs, test_groups),
    )


def _of_groups(pairs: Pairs, wanted: Sequence[str]) -> Pairs:
    assert pairs.groups is not None
    names = set(wanted)
    kept = [i for i, group in enumerate(pairs.groups) if group in names]
    return Pairs(
        [pairs.sources[i] for i in kept],
        [pairs.targets[i] for i in kept],
        [pairs.groups[i] for i in kept],
    )


class _Collected:
    """Pairs as they are read."""

    def __init__(self, on_empty: str, has_groups: bool) -> None:
        self._skips = on_empty == "skip"
        self._sources: list[str] = []
        self._targets: list[str] = []
        self._groups: list[str] | None = [] if has_groups else None
        self._skipped = 0

    def add(
        self, source: str, target: str, group: str | None, path: str, line: int
    ) -> None:
        source, target = source.strip(), target.strip()
        if not source or not target:
            side = "target" if source else "source"
            self.refuse(path, line, f"the {side} is empty.")
            return
        self._sources.append(source)
        self._targets.append(target)
        if self._groups is not None and group is not None:
            self._groups.append(group)

    def refuse(self, path: str, line: int, problem: str) -> None:
        """Tells of a pair that cannot be used, or leaves it out."""
        if not self._skips:
            raise CorpusError(
                f"{path}, line {line:,}: {problem} "
                "on_empty='skip' leaves such pairs out."
            )
        self._skipped += 1

    def pairs(self) -> Pairs:
        if not self._sources:
            raise CorpusError(
                f"no pair is left: all {self._skipped:,} have an empty side "
                "or another number of columns than the first line."
            )
        return Pairs(self._sources, self._targets, self._groups, self._skipped)


def _read_tsv_file(
    path: str, columns: dict[str, str | int], collected: _Collected
) -> None:
    lines = enumerate(_lines(path), 1)
    header: list[str] = []
    if isinstance(columns["source_column"], str):
        _, first = next(lines, (0, ""))
        header = first.split("\t") if first else []
        places = {n: _place(path, header, n, c) for n, c in columns.items()}
    else:
        places = {n: int(c) - 1 for n, c in columns.items()}
    width, number = len(header), 0
    for number, line in lines:
        fields = line.split("\t")
        if not width:
            width = len(fields)
            if max(places.values()) >= width:
                name = max(places, key=lambda n: places[n])
                raise CorpusError(
                    f"{path} has {width} columns; {name} is {places[name] + 1}."
                )
        if len(fields) != width:
            problem = (
                f"{len(fields)} columns, where the first line has {width}."
            )
            collected.refuse(path, number, problem)
            continue
        group = places.get("group_column")
        collected.add(
            fields[places["source_column"]],
            fields[places["target_column"]],
            None if group is None else fields[group],
            path,
            number,
        )
    if number == 0:
        raise CorpusError(f"{path} is empty.")


def _place(path: str, header: list[str], name: str, column: Any) -> int:
    if not header:
        raise CorpusError(f"{path} is empty, or its first line is.")
    if column not in header:
        raise CorpusError(
            f"{path} has no column {column!r} ({name}); it has "
            f"{', '.join(map(repr, header))}."
        )
    return header.index(column)


def _number(column: str | int) -> str | int:
    """A column as it was meant: flags give numbers as text."""
    if isinstance(column, str) and not column.isdecimal():
        return column
    if int(column) < 1:
        raise ValueError(f"columns are numbered from 1. Received: {column}")
    return int(column)


def _find(paths: str | Sequence[str]) -> list[str]:
    """All files that are meant, those of every pattern in order."""
    import tensorflow as tf

    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        # A name may contain what a pattern would take for its own.
        if tf.io.gfile.exists(path):
            matches = [path]
        else:
            try:
                matches = sorted(tf.io.gfile.glob(path))
            except tf.errors.OpError:  # the folder is not there
                matches = []
        if not matches:
            raise FileNotFoundError(f"there is no file {path}.")
        for match in matches:
            if tf.io.gfile.isdir(match):
                raise CorpusError(f"{match} is a folder, not a file.")
        found += matches
    return found


def _lines(path: str) -> Iterator[str]:
    """Lines of a text file without their ends."""
    import tensorflow as tf

    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        if is_gzip:
            file = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))
        number = 0
        try:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{path}, line {number:,}: not UTF-8 ({error.reason} at byte "
                f"{error.start + 1} of the line)."
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorpusError(
                f"{path}, after line {number:,}: the gzip file is damaged "
                f"({error})."
            ) from error


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}. "
            f"Received: {value!r}"
        )
