"""Token rows of one length from documents of any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

PACKINGS = ("document", "full")
# Documents that are tokenized at a time.
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """How documents become rows.

    Args:
        length: tokens of a row, start and end token included.
        start_id, end_id, pad_id: special tokens.
        packing: `"document"`: a row holds tokens of one document, a longer
            document gives several rows, and the rest of a row is padding;
            `"full"`: documents follow each other, an end token between them,
            and no row but the last has padding.

    In a `"full"` row the documents are not kept apart: all tokens of a row
    share one packed sequence, so that Luna attention has no mask that could
    do it.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.
    """

    length: int
    start_id: int
    end_id: int
    pad_id: int
    packing: str = "document"

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(
                "length must be at least 3: a token between start and end. "
                f"Received: {self.length}"
            )
        if self.packing not in PACKINGS:
            raise ValueError(
                f"packing must be one of {', '.join(PACKINGS)}. "
                f"Received: {self.packing!r}"
            )


def token_rows(
    documents: tf.data.Dataset,
    tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
    form: RowFormat,
) -> tf.data.Dataset:
    """Tokenizes documents, on all cores, and cuts them into rows.

    Args:
        documents: dictionaries with a scalar `text`.
        tokenize: strings `(batch,)` to ragged integer ids, by operations of
            TensorFlow, such as a tokenizer of `luna_tf.models`.
        form: how to cut.

    Returns:
        A dataset of int32 `(form.length,)`, in the order of the documents.

    Example:

    >>> import tensorflow as tf
    >>> texts = tf.data.Dataset.from_tensor_slices({"text": ["abcdef", "gh"]})
    >>> def letters(texts):
    ...     return tf.strings.unicode_decode(texts, "UTF-8")
    >>> form = RowFormat(6, start_id=2, end_id=3, pad_id=0)
    >>> for row in token_rows(texts, letters, form):
    ...     print(row.numpy())
    [  2  97  98  99 100   3]
    [  2 101 102   3   0   0]
    [  2 103 104   3   0   0]
    """

    def ids_of(texts: tf.Tensor) -> tf.RaggedTensor:
        return tf.cast(tokenize(texts), tf.int32)

    batches = documents.map(lambda d: d["text"]).batch(_BATCH)
    ragged = batches.map(
        ids_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if form.packing == "document":
        found = ragged.map(
            lambda ids: document_rows(ids, form),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    else:
        found = _full_rows(ragged, form)
    return found.unbatch()


def document_rows(ids: tf.RaggedTensor, form: RowFormat) -> tf.Tensor:
    """Cuts each document into rows of its own.

    Args:
        ids: int32 `(documents, None)`.
        form: how to cut.

    Returns:
        int32 `(rows, form.length)`. An empty document gives none.
    """
    body = form.length - 2
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    starts = tf.cast(ids.row_starts(), tf.int32)
    counts = (lengths + body - 1) // body
    row = tf.ragged.range(counts).values * body
    first = tf.repeat(starts, counts) + row
    left = tf.minimum(tf.repeat(lengths, counts) - row, body)
    return _framed(ids.values, first, left, form)


def _framed(
    values: tf.Tensor, first: tf.Tensor, lengths: tf.Tensor, form: RowFormat
) -> tf.Tensor:
    """Rows of `lengths` values from `first` on, between start and end."""
    columns = tf.range(form.length)[None] - 1
    lengths = lengths[:, None]
    # One value more: where there is none, something must be looked up.
    values = tf.concat([values, [form.pad_id]], axis=0)
    places = tf.clip_by_value(
        first[:, None] + columns, 0, tf.shape(values)[0] - 1
    )
    rows = tf.gather(values, places)
    rows = tf.where(columns < lengths, rows, form.pad_id)
    rows = tf.where(columns == lengths, form.end_id, rows)
    return tf.where(columns < 0, form.start_id, rows)


def _full_rows(ragged: tf.data.Dataset, form: RowFormat) -> tf.data.Dataset:
    body = form.length - 2
    nothing = tf.zeros([0], tf.int32)

    def append_end(ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A document without tokens leaves no trace.
        ids = tf.ragged.boolean_mask(ids, ids.row_lengths() > 0)
        ends = tf.fill([ids.nrows(), 1], form.end_id)
        return tf.concat([ids, ends], axis=1).values, tf.constant(False)

    def step(state: tf.Tensor, element: Any) -> Any:
        more, is_last = element
        values = tf.concat([state, more], axis=0)
        # Without the end token of the last document, which the frame has.
        size = tf.size(values) - tf.cast(is_last, tf.int32)
        size = tf.maximum(size, 0)
        count = tf.where(is_last, (size + body - 1) // body, size // body)
        first = tf.range(count) * body
        rows = _framed(values, first, tf.minimum(size - first, body), form)
        return values[tf.minimum(count * body, tf.size(values)) :], rows

    elements = ragged.map(append_end).concatenate(
        tf.data.Dataset.from_tensors((nothing, tf.constant(True)))
    )
    return elements.scan(nothing, step)
