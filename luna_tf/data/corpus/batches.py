"""Batches of masked rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from luna_tf.data.corpus.masking import Masking


def gather_rows(
    rows: np.ndarray,
) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """Returns what picks rows in memory by index.

    Args:
        rows: integers `(rows, length)`.

    Returns:
        A function of int64 indices `(B,)` that returns `token_ids`, int32
        `(B, length)`, by operations of TensorFlow.
    """
    table = tf.constant(rows)

    def gather(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"token_ids": tf.cast(tf.gather(table, indices), tf.int32)}

    return gather


def mask_rows(
    masking: Masking, seed: int
) -> Callable[[Mapping[str, tf.Tensor], tf.Tensor], Mapping[str, tf.Tensor]]:
    """Returns what masks a batch of `gather_rows`.

    Args:
        masking: how.
        seed: of the training.

    Returns:
        A function of the batch and of int64 positions `(B,)`, see `Masking`,
        that returns what `Masking` returns.
    """

    def mask(
        batch: Mapping[str, tf.Tensor], positions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return masking(batch["token_ids"], positions, seed)

    return mask


def masked_stream(
    rows: tf.data.Dataset,
    masking: Masking,
    batch_size: int,
    seed: int,
    shuffled_rows: int,
    worker: int = 0,
    num_workers: int = 1,
) -> tf.data.Dataset:
    """Endless batches of masked rows.

    Args:
        rows: int32 `(length,)`, those of this worker; if they end, they begin
            anew, in another order.
        masking: how to mask.
        batch_size: rows of a batch.
        seed: of order and masks.
        shuffled_rows: rows among which the next one is drawn.
        worker, num_workers: which of how many this is: others mask otherwise.

    Returns:
        A dataset of what `Masking` returns, all shapes static. TensorFlow can
        save the state of its iterators.
    """
    # In this order, or few rows were read many times to fill the buffer.
    order = rows.shuffle(shuffled_rows, seed=seed).repeat()
    batches = order.batch(batch_size, drop_remainder=True).enumerate()

    def mask(number: tf.Tensor, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        first = number * batch_size
        positions = first + tf.range(batch_size, dtype=tf.int64)
        return masking(ids, positions * num_workers + worker, seed)

    return batches.map(
        mask, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
