"""What a trainer tells the loop: a model and the losses of its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
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


def _count_tokens(token_ids: tf.Tensor, padding_id: int | None) -> tf.Tensor:
    if padding_id is None:
        return tf.cast(tf.size(token_ids), tf.float32)
    padding = tf.cast(padding_id, token_ids.dtype)
    real = tf.cast(tf.not_equal(token_ids, padding), tf.float32)
    return tf.reduce_sum(real)


class Classification:
    """One label per sequence: cross-entropy and accuracy over examples.

    Batches hold `token_ids`, int32 `(batch, length)`, or another input of the
    model, and `labels`, int32 `(batch,)`.

    Args:
        model: maps that input to logits `(batch, classes)`.
        padding_id: token that is not counted in tokens per second; None
            counts all.
        input_name: name of the input in batches.

    Example:

    >>> import keras
    >>> import tensorflow as tf
    >>> dense = keras.layers.Dense(2, kernel_initializer="zeros")
    >>> task = Classification(keras.Sequential([dense]), None, "pixels")
    >>> batch = {"pixels": tf.ones([8, 3]), "labels": tf.ones([8], tf.int32)}
    >>> batch["example_weights"] = tf.ones([8])
    >>> scores = task(batch, training=False)
    >>> float(scores.tokens), scores.losses.numpy()[:3].round(3)
    (24.0, array([0.693, 0.693, 0.693], dtype=float32))
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        model: keras.Model,
        padding_id: int | None = 0,
        input_name: str = "token_ids",
    ) -> None:
        self.model = model
        self.padding_id = padding_id
        self.input_name = input_name

    def __call__(self, batch: Batch, training: bool) -> Scores:
        inputs = batch[self.input_name]
        logits = self._outputs(inputs, training)
        losses, hits, predictions = _cross_entropy(batch["labels"], logits)
        return Scores(
            losses=losses,
            weights=batch["example_weights"],
            metrics={"accuracy": hits},
            tokens=_count_tokens(inputs, self.padding_id),
            predictions=predictions,
        )

    def _outputs(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return self.model(inputs, training=training)


class TextClassification(Classification):
    """`Classification` by a model that takes a padding mask too.

    Args:
        model: maps `{"token_ids": …, "padding_mask": …}` to logits
            `(batch, classes)`, as KerasHub's text classifiers do.
        padding_id: id that fills rows.
    """

    def __init__(self, model: keras.Model, padding_id: int = 0) -> None:
        super().__init__(model, padding_id)

    def _outputs(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        mask = tf.cast(tf.not_equal(inputs, self.padding_id), tf.int32)
        return self.model(
            {"token_ids": inputs, "padding_mask": mask}, training=training
        )


class TextRegression:
    """One number per text: squared error, and the absolute one as metric.

    Batches hold `token_ids`, int32 `(batch, length)`, and `labels`, float32
    `(batch,)`.

    Args:
        model: maps `{"token_ids": …, "padding_mask": …}` to `(batch, 1)`.
        padding_id: id that fills rows.
    """

    metrics: tuple[str, ...] = ("absolute_error",)

    def __init__(self, model: keras.Model, padding_id: int = 0) -> None:
        self.model = model
        self.padding_id = padding_id

    def __call__(self, batch: Batch, training: bool) -> Scores:
        inputs = batch["token_ids"]
        mask = tf.cast(tf.not_equal(inputs, self.padding_id), tf.int32)
        outputs = self.model(
            {"token_ids": inputs, "padding_mask": mask}, training=training
        )
        predictions = tf.cast(outputs[:, 0], tf.float32)
        errors = predictions - batch["labels"]
        return Scores(
            losses=tf.square(errors),
            weights=batch["example_weights"],
            metrics={"absolute_error": tf.abs(errors)},
            tokens=_count_tokens(inputs, self.padding_id),
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
        model: maps `{"token_ids": …, "padding_mask": …, "mask_positions": …}`
            to logits `(batch, masks, vocabulary)`, as KerasHub's masked
            language models do.
        padding_id: id that fills rows.
        token_bytes: int `(vocabulary,)`, bytes of text that each token stands
            for. With it there is the metric `bytes`, the mean over the hidden
            tokens: loss / log(2) / bytes is in bits per byte, which compares
            models of different vocabularies.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.models import LunaBackbone, LunaByteTokenizer, LunaMaskedLM
    >>> backbone = LunaBackbone(
    ...     vocabulary_size=256, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> sizes = LunaByteTokenizer().token_bytes()
    >>> task = MaskedTokens(LunaMaskedLM(backbone), token_bytes=sizes)
    >>> scores = task({
    ...     "token_ids": tf.constant([[76, 255, 110, 97]]),
    ...     "mask_positions": tf.constant([[1]]),
    ...     "mask_weights": tf.ones([1, 1]),
    ...     "labels": tf.constant([[117]]),
    ...     "example_weights": tf.ones([1]),
    ... }, training=False)
    >>> tuple(scores.losses.shape), scores.metrics["bytes"].numpy()
    ((1, 1), array([[1.]], dtype=float32))
    """

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        model: keras.Model,
        padding_id: int = 0,
        token_bytes: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.padding_id = padding_id
        self.token_bytes = None
        if token_bytes is not None:
            self.metrics = ("accuracy", "bytes")
            self.token_bytes = np.asarray(token_bytes, np.float32)

    def __call__(self, batch: Batch, training: bool) -> Scores:
        token_ids, labels = batch["token_ids"], batch["labels"]
        is_real = tf.not_equal(token_ids, self.padding_id)
        logits = self.model(
            {
                "token_ids": token_ids,
                "padding_mask": tf.cast(is_real, tf.int32),
                "mask_positions": batch["mask_positions"],
            },
            training=training,
        )
        losses, _, hits = smoothed_cross_entropy(labels, logits, 0.0)
        weights = batch["mask_weights"] * batch["example_weights"][:, None]
        metrics = {"accuracy": hits}
        if self.token_bytes is not None:
            metrics["bytes"] = tf.gather(self.token_bytes, labels)
        return Scores(
            losses=losses,
            weights=weights,
            metrics=metrics,
            tokens=tf.reduce_sum(tf.cast(is_real, tf.float32)),
            predictions=tf.argmax(logits, axis=-1, output_type=labels.dtype),
        )


class Translation:
    """Sentences to sentences: cross-entropy of every target token.

    Batches hold int32 `encoder_token_ids` `(batch, source_length)`, and
    `decoder_token_ids` and `labels` `(batch, target_length)`: the target
    behind a start token, and the target with an end token. The loss is the
    mean over all target tokens of all replicas; padding has no part in it.

    In training, labels are smoothed as in the official code:
    `(1 - ε) · nll + ε · mean over the vocabulary of -log p`.
    In evaluation the loss is the `nll` alone, so that runs with other
    smoothing can be compared; its exponential is the perplexity.

    Args:
        model: maps `encoder_token_ids`, `encoder_padding_mask`,
            `decoder_token_ids` and `decoder_padding_mask` to logits
            `(batch, target_length, vocabulary)`.
        label_smoothing: ε, from 0 to less than 1.
        padding_id: id that fills rows.

    Raises:
        ValueError: `label_smoothing` is out of range.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
    >>> backbone = LunaSeq2SeqBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> task = Translation(LunaSeq2SeqLM(backbone), label_smoothing=0.1)
    >>> scores = task({
    ...     "encoder_token_ids": tf.constant([[5, 6, 2]]),
    ...     "decoder_token_ids": tf.constant([[2, 7, 1]]),
    ...     "labels": tf.constant([[7, 2, 1]]),
    ...     "example_weights": tf.ones([1]),
    ... }, training=True)
    >>> scores.weights.numpy()  # none for padding
    array([[1., 1., 0.]], dtype=float32)
    """

    metrics: tuple[str, ...] = ("accuracy", "nll")

    def __init__(
        self,
        model: keras.Model,
        label_smoothing: float = 0.0,
        padding_id: int = 1,
    ) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                "label_smoothing must be at least 0 and less than 1. "
                f"Received: {label_smoothing}"
            )
        self.model = model
        self.label_smoothing = label_smoothing
        self.padding_id = padding_id

    def __call__(self, batch: Batch, training: bool) -> Scores:
        source, target = batch["encoder_token_ids"], batch["decoder_token_ids"]
        labels = batch["labels"]
        logits = self.model(
            {
                "encoder_token_ids": source,
                "encoder_padding_mask": self._mask(source),
                "decoder_token_ids": target,
                "decoder_padding_mask": self._mask(target),
            },
            training=training,
        )
        losses, nll, hits = smoothed_cross_entropy(
            labels, logits, self.label_smoothing if training else 0.0
        )
        real = tf.cast(self._mask(labels), tf.float32)
        weights = real * batch["example_weights"][:, None]
        source_tokens = _count_tokens(source, self.padding_id)
        return Scores(
            losses=losses,
            weights=weights,
            metrics={"accuracy": hits, "nll": nll},
            tokens=source_tokens + tf.reduce_sum(real),
            predictions=tf.reduce_sum(nll * weights, axis=1),
        )

    def _mask(self, token_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.not_equal(token_ids, self.padding_id), tf.int32)


def smoothed_cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, smoothing: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cross-entropy with a gradient that costs one tensor like the logits.

    For large vocabularies that tensor is the largest of a training step, and
    automatic differentiation keeps several of them.

    Args:
        labels: int32 `(batch, length)`.
        logits: `(batch, length, vocabulary)`.
        smoothing: ε, the weight of the uniform distribution.

    Returns:
        Three float32 tensors `(batch, length)`: the smoothed loss; the
        negative log-likelihood of the labels, in nats; and 1 where the label
        has the highest logit.
    """
    logits = tf.cast(logits, tf.float32)
    size = int(logits.shape[-1])

    @tf.custom_gradient
    def scores(logits: tf.Tensor) -> Any:
        total = tf.reduce_logsumexp(logits, axis=-1)
        nll = total - tf.gather(logits, labels, axis=-1, batch_dims=2)
        uniform = total - tf.reduce_mean(logits, axis=-1)
        loss = (1.0 - smoothing) * nll + smoothing * uniform

        def gradient(of_loss: tf.Tensor, of_nll: tf.Tensor) -> tf.Tensor:
            every = (of_loss + of_nll)[..., None]
            uniform = (of_loss * smoothing / size)[..., None]
            label = (of_loss * (1.0 - smoothing) + of_nll)[..., None]
            softmax = tf.exp(logits - total[..., None])
            is_label = labels[..., None] == tf.range(size)
            return softmax * every - tf.where(
                is_label, label + uniform, uniform
            )

        return (loss, nll), gradient

    losses, nll = scores(logits)
    best = tf.argmax(logits, axis=-1, output_type=labels.dtype)
    return losses, nll, tf.cast(tf.equal(best, labels), tf.float32)
