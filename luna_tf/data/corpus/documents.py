"""Documents of a corpus, one after the other, as a `tf.data.Dataset`."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from luna_tf.data.corpus.files import CorpusError, CorpusFiles

SEPARATORS = ("blank_line", "line", "file")
# Longer documents of many lines are cut behind a line.
MAX_DOCUMENT_BYTES = 2**23
# Lines are gathered in a buffer of that size before they join the document,
# so that a long document is not copied with every line.
_BUFFER_BYTES = 2**14
_NOT_UTF8 = "not UTF-8"
_NO_FIELD = "no text in the given field"
_NOT_TEXT = "not text, a byte is 0"


def read_documents(
    files: CorpusFiles,
    separator: str = "blank_line",
    text_field: str = "text",
    skip_malformed: bool = False,
) -> tf.data.Dataset:
    """Reads the documents of a corpus in the order of its files.

    Args:
        files: from `find_files`.
        separator: what ends a document of a text file: `"blank_line"`, one
            or more of them; `"line"`, every line is one; or `"file"`.
        text_field: the field of a JSON object, or the feature of a
            `tf.train.Example`, that holds a document.
        skip_malformed: leave out what is not UTF-8 or has no such field,
            instead of stopping there.

    Returns:
        A dataset of dictionaries of scalars: `text`, without white space
        around it and never empty, and `place`, such as `news.txt, line 7`.
        Reading it raises `tf.errors.InvalidArgumentError` where a document is
        malformed and `tf.errors.DataLossError` where a TFRecord file is cut
        off; `explained` turns both into a `CorpusError`. TensorFlow does not
        notice that a gzip file is cut off: `prepare` does.

    Raises:
        ValueError: there is no such separator.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.corpus import find_files, read_documents
    >>> _ = Path("news.txt").write_text("Two\\nlines.\\n\\nOne line.")
    >>> for document in read_documents(find_files("news.txt")):
    ...     print(document["place"].numpy(), document["text"].numpy())
    b'news.txt, line 1' b'Two\\nlines.'
    b'news.txt, line 4' b'One line.'
    """
    if separator not in SEPARATORS:
        raise ValueError(
            f"separator must be one of {', '.join(SEPARATORS)}. "
            f"Received: {separator!r}"
        )

    def of_file(path: tf.Tensor) -> tf.data.Dataset:
        is_gzip = tf.strings.regex_full_match(path, r"(?i).*\.gz")
        compression = tf.where(is_gzip, "GZIP", "")
        if files.kind == "tfrecord":
            found = _examples(path, compression, text_field)
        elif files.kind == "json":
            found = _objects(path, compression, text_field)
        elif separator == "file":
            found = _whole_file(path, is_gzip)
        else:
            found = _lines(path, compression)
            if separator == "blank_line":
                found = _paragraphs(found)
        return found.map(
            lambda text, number: (_stripped(text), _place(path, number))
        )

    paths = tf.data.Dataset.from_tensor_slices(list(files.paths))
    return _checked(paths.flat_map(of_file), skip_malformed)


def _place(path: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    return tf.strings.join([path, ", line ", tf.strings.as_string(number)])


def _stripped(text: tf.Tensor) -> tf.Tensor:
    """Text without white space around it, or a byte order mark before it."""
    return tf.strings.strip(tf.strings.regex_replace(text, "^\ufeff", ""))


def _lines(path: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
    lines = tf.data.TextLineDataset(path, compression_type=compression)
    return lines.enumerate(1).map(
        lambda number, line: (tf.strings.strip(line), number)
    )


def _whole_file(path: tf.Tensor, is_gzip: tf.Tensor) -> tf.data.Dataset:
    content = tf.io.read_file(path)
    content = tf.cond(
        is_gzip,
        lambda: tf.io.decode_compressed(content, "GZIP"),
        lambda: content,
    )
    return tf.data.Dataset.from_tensors((content, tf.constant(1, tf.int64)))


def _paragraphs(lines: tf.data.Dataset) -> tf.data.Dataset:
    """Joins lines up to a blank one."""
    none = tf.constant("")
    zero = tf.constant(0, tf.int64)

    def step(state: Any, element: Any) -> Any:
        whole, buffer, first = state
        line, number = element
        is_end = tf.equal(line, "")
        size = tf.strings.length(whole)
        is_long = size > MAX_DOCUMENT_BYTES
        ends = tf.logical_or(is_end, is_long)
        is_full = tf.strings.length(buffer) > _BUFFER_BYTES
        moves = tf.logical_or(ends, is_full)
        # Seldom: this copies all of the document so far.
        joined = tf.cond(
            moves, lambda: tf.strings.join([whole, buffer]), lambda: whole
        )
        is_empty = tf.logical_and(tf.equal(whole, ""), tf.equal(buffer, ""))
        appended = tf.where(is_end, none, tf.strings.join([line, "\n"]))
        state = (
            tf.where(ends, none, joined),
            tf.where(moves, appended, tf.strings.join([buffer, appended])),
            # What follows the document that ends here.
            tf.where(tf.logical_or(ends, is_empty), number, first),
        )
        return state, (tf.where(ends, joined, none), first)

    last = tf.data.Dataset.from_tensors((none, zero))
    return lines.concatenate(last).scan((none, none, zero), step)


def _objects(
    path: tf.Tensor, compression: tf.Tensor, field: str
) -> tf.data.Dataset:
    """The texts of JSON objects, one per line."""

    def parse(line: bytes) -> bytes:
        try:
            value = json.loads(line)
            text = value[field] if isinstance(value, dict) else None
        except UnicodeDecodeError:
            return line  # `_checked` says so
        except (ValueError, KeyError, RecursionError):
            text = None
        # A byte that no text has: `_checked` finds it.
        return text.encode(errors="replace") if isinstance(text, str) else b"\0"

    def of_line(line: tf.Tensor, number: tf.Tensor) -> Any:
        # Without state, or the pipeline could not be saved.
        text = tf.numpy_function(parse, [line], tf.string, stateful=False)
        text.set_shape([])
        return tf.where(tf.equal(line, ""), "", text), number

    return _lines(path, compression).map(
        of_line, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _examples(
    path: tf.Tensor, compression: tf.Tensor, field: str
) -> tf.data.Dataset:
    """The texts of `tf.train.Example`s."""
    features = {field: tf.io.FixedLenFeature([], tf.string, default_value="\0")}
    records = tf.data.TFRecordDataset(path, compression_type=compression)
    return records.enumerate(1).map(
        lambda number, record: (
            tf.io.parse_single_example(record, features)[field],
            number,
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _checked(
    documents: tf.data.Dataset, skip_malformed: bool
) -> tf.data.Dataset:
    """Leaves out empty documents; stops at, or leaves out, malformed ones."""

    def problem(text: tf.Tensor) -> tf.Tensor:
        """What is wrong with a text, or an empty string."""
        clean = tf.strings.unicode_transcode(
            text, "UTF-8", "UTF-8", errors="replace"
        )
        has_zero = tf.strings.regex_full_match(clean, r"(?s).*\x00.*")
        found = tf.where(has_zero, _NOT_TEXT, "")
        found = tf.where(tf.equal(clean, text), found, _NOT_UTF8)
        return tf.where(tf.equal(text, "\0"), _NO_FIELD, found)

    def check(text: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
        reason = problem(text)
        assertion = tf.debugging.Assert(
            tf.equal(reason, ""), [reason, "at", place]
        )
        with tf.control_dependencies([assertion]):
            return {"text": tf.identity(text), "place": place}

    documents = documents.filter(lambda text, _: tf.not_equal(text, ""))
    if skip_malformed:
        documents = documents.filter(
            lambda text, _: tf.equal(problem(text), "")
        )
    return documents.map(
        check, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


@contextlib.contextmanager
def explained(files: CorpusFiles | None = None) -> Iterator[None]:
    """Turns what reading a corpus raises into a `CorpusError`.

    Args:
        files: the files that are read, for the message.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.corpus import explained, find_files, read_documents
    >>> _ = Path("news.jsonl").write_text('{"text": "Good."}\\n{"body": "?"}')
    >>> files = find_files("news.jsonl")
    >>> with explained(files):  # doctest: +ELLIPSIS
    ...     texts = [d["text"].numpy() for d in read_documents(files)]
    Traceback (most recent call last):
        ...
    luna_tf.data.corpus.files.CorpusError: news.jsonl, line 2: ...
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        found = re.search(
            rf"\[({_NOT_UTF8}|{_NO_FIELD}|{_NOT_TEXT})\] \[at\] "
            r"\[(.*, line \d+)\]",
            str(error),
        )
        if found is None:
            # What TensorFlow says of a record that is no `tf.train.Example`.
            first = str(error).partition("\n")[0]
            raise CorpusError(
                f"a record cannot be read{_which(files)}: {first}"
            ) from error
        reason, place = found[1], found[2]
        raise CorpusError(
            f"{place}: {reason}. Mend it, or have such documents left out."
        ) from error
    except tf.errors.DataLossError as error:
        first = str(error).partition("\n")[0]
        raise CorpusError(
            f"a file is cut off or damaged{_which(files)}: {first}"
        ) from error


def _which(files: CorpusFiles | None) -> str:
    return "" if files is None else f" in one of {', '.join(files.paths)}"


def divide(
    documents: tf.data.Dataset, fractions: Mapping[str, float]
) -> dict[str, tf.data.Dataset]:
    """Divides documents into those to train on and those held out.

    A hash of its text decides, so a document that occurs twice is never on
    both sides, and the division does not depend on order or workers.

    Args:
        documents: from `read_documents`.
        fractions: name to share of the documents, together below 1.

    Returns:
        Name to dataset; `"train"` is what remains.

    Raises:
        ValueError: the shares are not possible.
    """
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(
            "fractions must not be negative, and together be below 1. "
            f"Received: {dict(fractions)}"
        )
    buckets = 10_000
    ends = np.round(np.cumsum([0, *fractions.values()]) * buckets)

    def part(first: float, last: float) -> tf.data.Dataset:
        def is_in(document: dict[str, tf.Tensor]) -> tf.Tensor:
            bucket = tf.strings.to_hash_bucket_strong(
                document["text"], buckets, key=[1, 2]
            )
            return (bucket >= int(first)) & (bucket < int(last))

        return documents.filter(is_in)

    parts = {
        name: part(*limits)
        for name, limits in zip(
            fractions, itertools.pairwise(ends), strict=True
        )
    }
    return {"train": part(ends[-1], buckets), **parts}
