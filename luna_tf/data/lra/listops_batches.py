"""Batches of ListOps expressions, made by TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from .listops import CLS_ID, EOS_ID, PAD_ID, Split


def gather(
    split: Split, sequence_length: int
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes the function that turns indices into a batch.

    It does what `Split.padded` does, but as a graph of TensorFlow operations:
    so a `tf.data` pipeline runs it without Python, in parallel, or on the
    machines of a tf.data service.

    Args:
        split: the expressions.
        sequence_length: length of all rows; longer expressions are cut.

    Returns:
        Maps int64 indices `(rows,)` to `token_ids`, int32 `(rows,
        sequence_length)`, and `labels`, int32 `(rows,)`.

    Raises:
        ValueError: `sequence_length` is below 1.

    Example:

    ```python
    batch = gather(split, 52)(tf.constant([3, 1], tf.int64))
    batch["token_ids"].shape  # (2, 52)
    ```
    """
    if sequence_length < 1:
        raise ValueError(
            "sequence_length must be at least 1. "
            f"Received: sequence_length={sequence_length}."
        )
    # Outside of any graph: the pipeline captures them, once.
    with tf.init_scope():
        tokens = tf.constant(split.tokens)
        row_splits = tf.constant(split.row_splits)
        labels = tf.constant(split.labels)

    def batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        starts = tf.gather(row_splits, indices)[:, None]
        ends = tf.gather(row_splits, indices + 1)[:, None]
        # The first column is the mark of the start.
        places = starts + tf.range(-1, sequence_length - 1, dtype=tf.int64)
        safe = tf.clip_by_value(places, 0, len(split.tokens) - 1)
        ids = tf.cast(tf.gather(tokens, safe), tf.int32)
        ids = tf.where(places < ends, ids, PAD_ID)
        ids = tf.where(places == ends, EOS_ID, ids)
        ids = tf.where(places < starts, CLS_ID, ids)
        return {
            "token_ids": ids,
            "labels": tf.cast(tf.gather(labels, indices), tf.int32),
        }

    return batch
