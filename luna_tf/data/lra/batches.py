"""Batches of the Long Range Arena, made by TensorFlow alone.

A `tf.data` pipeline runs these functions without Python, in parallel, or on
the machines of a tf.data service.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from .listops_expressions import CLS_ID, EOS_ID, PAD_ID, VOCABULARY
from .splits import ImageSplit, Sequences

Gather = Callable[[tf.Tensor], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """How stored bytes become the token ids of a model.

    Args:
        size: number of ids.
        offset: id of the byte 0.
        first_id: id of the mark of the start.
        last_id: id of the mark of the end.
        padding_id: id that fills rows, or None where all rows are full.
    """

    size: int
    offset: int
    first_id: int
    last_id: int
    padding_id: int | None


LISTOPS = TokenIds(len(VOCABULARY), 0, CLS_ID, EOS_ID, PAD_ID)
# The ids of the JAX code, and two marks behind them.
BYTES = TokenIds(259, 1, 257, 258, 0)
PIXELS = TokenIds(258, 0, 256, 257, None)


def gather_sequences(
    documents: Sequence[Sequences],
    labels: np.ndarray,
    sequence_length: int,
    ids: TokenIds,
    add_cls: bool = True,
    add_eos: bool = True,
) -> Gather:
    """Makes the function that turns indices into a batch of sequences.

    Longer sequences are cut to their first `sequence_length` ids, as the
    official code does, the mark of the start counted; the cut loses the mark
    of the end first. Shorter ones are padded on the right.

    Args:
        documents: one set of sequences for every document of an example.
        labels: `(examples,)`.
        sequence_length: length of all rows.
        ids: token ids.
        add_cls: start each row with the mark of the start.
        add_eos: put the mark of the end behind the last token.

    Returns:
        Maps int64 indices `(rows,)` to `token_ids`, int32 `(rows,
        sequence_length)`, or `(rows, documents, sequence_length)` if there
        are several, and `labels`, int32 `(rows,)`.

    Raises:
        ValueError: `sequence_length` is below 1, or rows would have to be
            padded where `ids` has no padding.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from luna_tf.data.lra import Sequences
    >>> texts = Sequences.from_rows([b"packed", b"unpacked"])
    >>> gather = gather_sequences([texts], np.array([0, 1]), 10, BYTES)
    >>> gather(tf.constant([0], tf.int64))["token_ids"].numpy()
    array([[257, 113,  98, 100, 108, 102, 101, 258,   0,   0]], dtype=int32)
    """
    _check_length(sequence_length)
    marks = int(add_cls) + int(add_eos)
    for sequences in documents:
        shortest = int(sequences.lengths.min(initial=sequence_length))
        if ids.padding_id is None and shortest + marks < sequence_length:
            raise ValueError(
                "sequence_length must be at most "
                f"{shortest + marks}, where nothing is padding. "
                f"Received: sequence_length={sequence_length}."
            )
    parts = [
        _rows(sequences, sequence_length, ids, int(add_cls), add_eos)
        for sequences in documents
    ]
    with_labels = _labels(labels)

    def batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = [part(indices) for part in parts]
        token_ids = rows[0] if len(rows) == 1 else tf.stack(rows, axis=1)
        return {"token_ids": token_ids, "labels": with_labels(indices)}

    return batch


def gather_pixel_ids(
    split: ImageSplit,
    sequence_length: int,
    add_cls: bool = True,
    add_eos: bool = True,
) -> Gather:
    """Makes the function that turns indices into pictures as token ids.

    Pixels come row by row, their grey value is their id (`PIXELS`).

    Args:
        split: the pictures.
        sequence_length, add_cls, add_eos: see `gather_sequences`. Official
            models of 1,024 positions cut the mark of the end and, with a mark
            of the start, the last pixel.

    Returns:
        As `gather_sequences`.

    Raises:
        ValueError: `sequence_length` is not between 1 and what a picture and
            its marks fill.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from luna_tf.data.lra import ImageSplit
    >>> split = ImageSplit(np.arange(8).reshape(2, 2, 2), [0, 1])
    >>> gather = gather_pixel_ids(split, 5, add_eos=False)
    >>> gather(tf.constant([1], tf.int64))["token_ids"].numpy()
    array([[256,   4,   5,   6,   7]], dtype=int32)
    """
    count, height, width = split.pixels.shape
    row_splits = np.arange(count + 1, dtype=np.int64) * (height * width)
    sequences = Sequences(split.pixels.reshape(-1), row_splits)
    return gather_sequences(
        [sequences], split.labels, sequence_length, PIXELS, add_cls, add_eos
    )


def gather_pixel_values(split: ImageSplit, mean: float, std: float) -> Gather:
    """Makes the function that turns indices into pictures as real numbers.

    Args:
        split: the pictures.
        mean: grey level, from 0 to 1, that becomes 0.
        std: distance of grey levels that becomes 1.

    Returns:
        Maps int64 indices `(rows,)` to `pixel_values`, float32 `(rows,
        height * width)`, and `labels`, int32 `(rows,)`.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from luna_tf.data.lra import ImageSplit
    >>> split = ImageSplit(np.array([[[0, 255]]]), [1])
    >>> gather = gather_pixel_values(split, 0.5, 0.5)  # the official scale
    >>> gather(tf.constant([0], tf.int64))["pixel_values"].numpy()
    array([[-1.,  1.]], dtype=float32)
    """
    count, height, width = split.pixels.shape
    with _on_the_host():
        pixels = tf.constant(split.pixels.reshape(count, height * width))
    with_labels = _labels(split.labels)

    def batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = tf.cast(tf.gather(pixels, indices), tf.float32) / 255.0
        return {
            "pixel_values": (grey - mean) / std,
            "labels": with_labels(indices),
        }

    return batch


def _rows(
    sequences: Sequences,
    sequence_length: int,
    ids: TokenIds,
    start: int,
    add_eos: bool,
) -> Callable[[tf.Tensor], tf.Tensor]:
    with _on_the_host():
        tokens = tf.constant(sequences.tokens)
        row_splits = tf.constant(sequences.row_splits)
    filler = 0 if ids.padding_id is None else ids.padding_id

    def rows(indices: tf.Tensor) -> tf.Tensor:
        starts = tf.gather(row_splits, indices)[:, None]
        ends = tf.gather(row_splits, indices + 1)[:, None]
        columns = tf.range(-start, sequence_length - start, dtype=tf.int64)
        places = starts + columns
        safe = tf.clip_by_value(places, 0, len(sequences.tokens) - 1)
        found = tf.cast(tf.gather(tokens, safe), tf.int32) + ids.offset
        found = tf.where(places < ends, found, filler)
        if add_eos:
            found = tf.where(places == ends, ids.last_id, found)
        return tf.where(places < starts, ids.first_id, found)

    return rows


def _labels(labels: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    with _on_the_host():
        values = tf.constant(np.asarray(labels, np.int32))
    return lambda indices: tf.gather(values, indices)


@contextlib.contextmanager
def _on_the_host() -> Iterator[None]:
    """Outside of any graph, whose pipelines capture the data, once."""
    with tf.init_scope(), tf.device("CPU:0"):
        yield


def _check_length(sequence_length: int) -> None:
    if sequence_length < 1:
        raise ValueError(
            "sequence_length must be at least 1. "
            f"Received: sequence_length={sequence_length}."
        )
