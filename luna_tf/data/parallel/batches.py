"""Batches of sentence pairs, made by TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from luna_tf.data.parallel.buckets import Bucket
from luna_tf.data.parallel.tokens import TokenLists
from luna_tf.data.parallel.vocabulary import EOS_ID, PAD_ID


def gather(
    source: TokenLists,
    target: TokenLists,
    bucket: Bucket,
    start_id: int = EOS_ID,
    end_id: int = EOS_ID,
    padding_id: int = PAD_ID,
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes the function that turns places in a bucket into a batch.

    Sentences are padded on the right and cut where they are too long; the end
    token is never cut. As in the official code, the decoder starts from the
    end token unless `start_id` says otherwise.

    Args:
        source: ids of all source sentences, without special tokens.
        target: ids of all target sentences.
        bucket: which pairs, and the lengths of their rows.
        start_id: first id of the decoder's input.
        end_id: last id of every source and of every row of labels.
        padding_id: fills the rows.

    Returns:
        Maps int64 indices `(rows,)`, places in `bucket.indices`, to int32
        tensors: `encoder_token_ids` `(rows, source_length)`,
        `decoder_token_ids` and `labels` `(rows, target_length)`.

    Raises:
        ValueError: source and target are not as many.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from luna_tf.data.parallel import Bucket, Shape, TokenLists
    >>> source = TokenLists.of([[11, 12], [13]])
    >>> target = TokenLists.of([[21], [22, 23]])
    >>> bucket = Bucket(Shape(4, 4, rows=2), np.array([0, 1]))
    >>> batch = gather(source, target, bucket)(tf.constant([1], tf.int64))
    >>> for name, ids in batch.items():
    ...     print(name, ids.numpy())
    encoder_token_ids [[13  2  1  1]]
    decoder_token_ids [[ 2 22 23  1]]
    labels [[22 23  2  1]]
    """
    if len(source) != len(target):
        raise ValueError(
            "source and target must be as many sentences. Received: "
            f"{len(source)} and {len(target)}"
        )
    lengths = bucket.shape.source_length, bucket.shape.target_length
    sides = [
        _padded(tokens, bucket.indices, length, end_id, padding_id)
        for tokens, length in zip((source, target), lengths, strict=True)
    ]

    def batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        encoder, labels = (side(indices) for side in sides)
        # One place to the right, without the end token.
        kept = labels[:, :-1]
        kept = tf.where(labels[:, 1:] == padding_id, padding_id, kept)
        start = tf.fill([tf.shape(labels)[0], 1], start_id)
        decoder = tf.concat([start, kept], axis=1)
        return {
            "encoder_token_ids": encoder,
            "decoder_token_ids": tf.ensure_shape(decoder, labels.shape),
            "labels": labels,
        }

    return batch


def _padded(
    tokens: TokenLists,
    chosen: np.ndarray,
    length: int,
    end_id: int,
    padding_id: int,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Rows `(rows, length)` of sentences, ended and padded."""
    # Outside of any graph: the pipeline captures them, once.
    with tf.init_scope():
        starts = tf.constant(tokens.row_splits[chosen])
        counts = np.minimum(tokens.lengths[chosen], length - 1)
        ends = tf.constant(tokens.row_splits[chosen] + counts)
        # One more, as there may be no token at all.
        values = tf.constant(np.append(tokens.values, np.int32(padding_id)))

    def rows(indices: tf.Tensor) -> tf.Tensor:
        end = tf.gather(ends, indices)[:, None]
        places = tf.gather(starts, indices)[:, None]
        places += tf.range(length, dtype=tf.int64)
        ids = tf.gather(values, tf.minimum(places, len(tokens.values)))
        ids = tf.where(places == end, end_id, ids)
        return tf.where(places > end, padding_id, ids)

    return rows
