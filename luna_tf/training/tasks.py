"""What a trainer tells the loop: a model and the losses of its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import keras
import tensorflow as tf

Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a task says of one batch, all float32 but `predictions`.

    Args:
        losses: one per scored item, `(batch,)` or `(batch, items)`.
        weights: same shape; an item counts as often as its weight says, 0 for
            padding. The loss of a step is the sum of losses times weights
            over all replicas, divided by the sum of weights.
        metrics: name to values of the same shape, averaged in the same way.
        tokens: scalar, input tokens that are not padding.
        predictions: whatever evaluation shall collect, `(batch, ...)`.
    """

    losses: tf.Tensor
    weights: tf.Tensor
    metrics: Mapping[str, tf.Tensor]
    tokens: tf.Tensor
    predictions: tf.Tensor


class Task(Protocol):
    """A model and what to make of its outputs; the loop knows no more.

    A task must not create variables when called, and must keep all state in
    the variables of its model.
    """

    model: keras.Model
    metrics: tuple[str, ...]  # names, in the order in which logs show them

    def __call__(self, batch: Batch, training: bool) -> Scores:
        """Scores one batch of one replica.

        `batch` has the source's tensors and `example_weights`, float32
        `(batch,)`: 1, or 0 where a row only fills the last batch.
        """


def _cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Losses, hits (both float32, shaped like labels) and predictions."""
    logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    predictions = tf.argmax(logits, axis=-1, output_type=labels.dtype)
    return (
        losses,
        tf.cast(tf.equal(predictions, labels), tf.float32),
        predictions,
    )


def _count_tokens(token_ids: tf.Tensor, padding_id: int) -> tf.Tensor:
    real = tf.cast(tf.not_equal(token_ids, padding_id), tf.float32)
    return tf.reduce_sum(real)


class Classification:
    """One label per sequence: cross-entropy and accuracy over examples.

    Batches hold `token_ids`, int32 `(batch, length)`, and `labels`, int32
    `(batch,)`.

    Args:
        model: maps token ids to logits `(batch, classes)`.
        padding_id: token that is not counted in tokens per second.

    Example:

    ```python
    loop = Loop(Classification(model), keras.optimizers.AdamW(1e-3))
    ```
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(self, model: keras.Model, padding_id: int = 0) -> None:
        self.model = model
        self.padding_id = padding_id

    def __call__(self, batch: Batch, training: bool) -> Scores:
        logits = self.model(batch["token_ids"], training=training)
        losses, hits, predictions = _cross_entropy(batch["labels"], logits)
        return Scores(
            losses=losses,
            weights=batch["example_weights"],
            metrics={"accuracy": hits},
            tokens=_count_tokens(batch["token_ids"], self.padding_id),
            predictions=predictions,
        )


class MaskedTokens:
    """Tokens hidden from the model: cross-entropy over masked positions.

    Batches hold `token_ids`, int32 `(batch, length)`, `mask_positions`, int32
    `(batch, masks)`, `labels`, int32 of the same shape, and `mask_weights`,
    float32 of the same shape, 0 where a row has fewer masks than columns. The
    loss is the mean over all masked tokens of all replicas, not a mean of
    replicas' means.

    Args:
        model: maps `{"token_ids": …, "mask_positions": …}` to logits
            `(batch, masks, vocabulary)`, as KerasHub's masked language models
            do.
        padding_id: token that is not counted in tokens per second.
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(self, model: keras.Model, padding_id: int = 0) -> None:
        self.model = model
        self.padding_id = padding_id

    def __call__(self, batch: Batch, training: bool) -> Scores:
        inputs = {k: batch[k] for k in ("token_ids", "mask_positions")}
        logits = self.model(inputs, training=training)
        losses, hits, predictions = _cross_entropy(batch["labels"], logits)
        weights = batch["mask_weights"] * batch["example_weights"][:, None]
        return Scores(
            losses=losses,
            weights=weights,
            metrics={"accuracy": hits},
            tokens=_count_tokens(batch["token_ids"], self.padding_id),
            predictions=predictions,
        )
