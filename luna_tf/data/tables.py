"""Labelled texts from one file of comma- or tab-separated columns."""

import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luna_tf.data.lra.labelled import Problems

SUFFIXES = (".csv", ".tsv")
# The csv module keeps its limit in a C long, which has 32 bits on Windows.
_NO_LIMIT = 2**31 - 1


class Table(NamedTuple):
    """Texts and labels in the order of a file.

    Args:
        texts: UTF-8, as they are in the file, less its quoting.
        labels: their labels, as they are spelt in the file.
        pairs: the second text of each, or nothing.
    """

    texts: list[bytes]
    labels: list[str]
    pairs: list[bytes]


def read_table(
    path: str | os.PathLike,
    text_column: str = "text",
    label_column: str = "label",
    where: str | None = None,
    classes: Sequence[str] | None = None,
    skip_malformed: bool = False,
    pair_column: str | None = None,
    has_header: bool = True,
) -> Table:
    """Reads a file, whose first line usually names its columns.

    In a file `*.csv` columns are separated by commas, and quotes protect
    commas and line ends as usual. In a file `*.tsv` they are separated by
    tabs, and quotes mean nothing.

    Args:
        path: the file, in UTF-8.
        text_column: the column of the text.
        label_column: the column of the label, a word or an integer.
        where: `"column=value"` to read only the rows of that value.
        classes: the labels that may occur; None for any.
        skip_malformed: leave malformed rows out, and say so in one warning
            that counts them and names the first few, instead of raising.
        pair_column: the column of a second text, or None.
        has_header: False for a file without such a line; columns are then
            numbers from `"1"`.

    Returns:
        The examples of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is malformed (the message names file, line and
            problem), or the file has no such column or no examples.

    Example:

    >>> from pathlib import Path
    >>> lines = ["text,label,source", '"Dull, dull.",0,imdb', "Superb!,1,blog"]
    >>> _ = Path("reviews.csv").write_text("\\n".join(lines))
    >>> read_table("reviews.csv", where="source=imdb")
    Table(texts=[b'Dull, dull.'], labels=['0'], pairs=[])
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} must end in {' or '.join(SUFFIXES)}, which says how its "
            "columns are separated."
        )
    wanted = {"text_column": text_column, "label_column": label_column}
    if pair_column is not None:
        wanted["pair_column"] = pair_column
    value = None
    if where is not None:
        column, equals, value = where.partition("=")
        if not equals:
            raise ValueError(
                f"where must be 'column=value'. Received: where={where!r}."
            )
        wanted["where"] = column
    problems = Problems(path, skip_malformed)
    table = Table([], [], [])
    # Bytes that are not UTF-8 survive as surrogates, to be found by row.
    with (
        open(
            path, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as file,
        _no_field_limit(),
    ):
        is_csv = path.suffix == ".csv"
        reader = csv.reader(
            file,
            delimiter="," if is_csv else "\t",
            quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            header = next(reader)
        except StopIteration:
            raise ValueError(f"{path} is empty.") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line 1: {error}.") from None
        first = None
        if not has_header:
            first, header = header, [str(i + 1) for i in range(len(header))]
        places = {n: _place(path, header, n, c) for n, c in wanted.items()}
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader) if first is None else first
                if first is not None:
                    line, first = 1, None
            except StopIteration:
                break
            except csv.Error as error:
                problems.add(f"line {line}", str(error))
                continue
            if not row:  # An empty line, which csv files may end with.
                continue
            if len(row) != len(header):
                problems.add(
                    f"line {line}",
                    f"{len(row)} columns, where the first line has "
                    f"{len(header)}",
                )
                continue
            if value is not None and row[places["where"]] != value:
                continue
            text = row[places["text_column"]]
            label = row[places["label_column"]].strip()
            try:
                encoded = _encode(text, label, classes)
                if pair_column is not None:
                    pair = _encode(row[places["pair_column"]], label, None)
                    table.pairs.append(pair)
            except ValueError as error:
                problems.add(f"line {line}", str(error))
                continue
            table.texts.append(encoded)
            table.labels.append(label)
    if where is not None and not table.texts:
        raise ValueError(f"{path} has no rows with {where}.")
    problems.warn(len(table.texts))
    return table


def _encode(text: str, label: str, classes: Sequence[str] | None) -> bytes:
    try:
        encoded = text.encode()
        label.encode()
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) & 0xFF
        raise ValueError(f"byte 0x{byte:02x} is not UTF-8") from None
    for name, content in (("text", text), ("label", label)):
        if not content.strip():
            raise ValueError(f"the {name} is empty")
    if classes is not None and label not in classes:
        raise ValueError(
            f"label {label!r} is not one of {', '.join(map(repr, classes))}"
        )
    return encoded


def _place(path: Path, header: list[str], argument: str, column: str) -> int:
    if header.count(column) != 1:
        raise ValueError(
            f"{path} must have one column {column!r} ({argument}). Its first "
            f"line has {', '.join(map(repr, header))}."
        )
    return header.index(column)


@contextlib.contextmanager
def _no_field_limit() -> Iterator[None]:
    """Lifts the limit of the csv module, which all its users share."""
    limit = csv.field_size_limit(_NO_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
