"""The training loop of a classifier on one device.

All that training changes lives in the model, the optimizer and the step
counter; which examples a step sees follows from `(seed, step)` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or NaN."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """An indexable set of examples.

    Args:
        size: number of examples, at least 1.
        gather: maps int64 indices `(batch,)` to `(token_ids, labels)`,
            int32 `(batch, length)` and `(batch,)`, always of the same length.
    """

    size: int
    gather: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """Means over the steps since the last log; the rate leaves out compiling.

    `learning_rate` is that of the last step made. `examples_per_second` is
    None as long as nothing but the compiling step was timed.
    """

    step: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    examples_per_second: float | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result over a whole set; `predictions` are int32 `(num_examples,)`."""

    loss: float
    num_correct: int
    num_examples: int
    predictions: np.ndarray

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `Loop.train` leaves: the best weights, where, and how fast."""

    step: int
    interrupted: bool
    examples_per_second: float | None
    best_step: int | None
    best_evaluation: Evaluation | None
    best_weights: list[np.ndarray] | None


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def batch_indices(
    step: int, size: int, batch_size: int, seed: int
) -> np.ndarray:
    """Which examples a training step sees, a pure function of its arguments.

    Epochs follow each other without a gap, each in an order of its own: a
    batch may hold the end of one and the start of the next, so that every
    example comes exactly once per epoch and every batch is full.

    Args:
        step: number of the step, from 0.
        size: number of examples.
        batch_size: examples per step.
        seed: seed of the order, not negative.

    Returns:
        int64 indices `(batch_size,)`.

    Example:

    >>> first = batch_indices(step=0, size=4, batch_size=4, seed=0)
    >>> sorted(first.tolist())
    [0, 1, 2, 3]
    """
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // size
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        order = _permutation(size, seed, int(epoch))
        indices[chosen] = order[positions[chosen] % size]
    return indices


class Loop:
    """Trains and evaluates a classifier, one compiled step at a time.

    The loss is the mean cross-entropy of the batch in float32, plus what the
    model's layers add as regularization.

    Args:
        model: maps int32 token ids `(batch, length)` to logits
            `(batch, classes)`.
        optimizer: a Keras optimizer, not yet used elsewhere.
        jit_compile: whether XLA compiles the steps.

    Example:

    ```python
    loop = Loop(model, keras.optimizers.AdamW(1e-3))
    result = loop.train(train, batch_size=64, train_steps=1000,
                        validation=validation, eval_every=100)
    model.set_weights(result.best_weights)
    print(loop.evaluate(test, batch_size=64).accuracy)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        jit_compile: bool = True,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Running sums stay on the device; the host reads them only at a log.
        self._loss_sum = tf.Variable(0.0, trainable=False)
        self._correct = tf.Variable(0.0, trainable=False)
        self._count = tf.Variable(0.0, trainable=False)
        self._learning_rate = tf.Variable(0.0, trainable=False)
        self._bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
        compiled = functools.partial(tf.function, jit_compile=jit_compile)
        self._train_step = compiled(self._train_step_body)
        self._evaluation_step = compiled(self._evaluation_step_body)

    def _train_step_body(self, token_ids: tf.Tensor, labels: tf.Tensor) -> None:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(token_ids, training=True), tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, logits
            )
            mean_loss = tf.reduce_mean(losses)
            objective = tf.add_n([mean_loss, *self.model.losses])
            scaled = self.optimizer.scale_loss(objective)
        pairs = [
            # Keras' optimizers square the pieces of a sparse gradient one by
            # one, so repeated tokens would get a wrong second moment.
            (tf.convert_to_tensor(gradient), variable)
            for gradient, variable in zip(
                tape.gradient(scaled, variables), variables, strict=True
            )
            # A weight that the loss does not reach is no mistake of the
            # user's here, and Keras would warn at every trace.
            if gradient is not None
        ]
        self._learning_rate.assign(
            tf.cast(self.optimizer.learning_rate, tf.float32)
        )
        self.optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
        self._add(losses, logits, labels, tf.ones_like(losses))
        failed = tf.logical_not(tf.math.is_finite(mean_loss))
        first = tf.logical_and(failed, self._bad_step < 0)
        self._bad_step.assign(tf.where(first, self.step, self._bad_step))
        self.step.assign_add(1)

    def _evaluation_step_body(
        self, token_ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        logits = tf.cast(self.model(token_ids, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return self._add(losses, logits, labels, weights)

    def _add(
        self,
        losses: tf.Tensor,
        logits: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor,
    ) -> tf.Tensor:
        predictions = tf.argmax(logits, axis=-1, output_type=labels.dtype)
        correct = tf.cast(tf.equal(predictions, labels), tf.float32)
        self._loss_sum.assign_add(tf.reduce_sum(losses * weights))
        self._correct.assign_add(tf.reduce_sum(correct * weights))
        self._count.assign_add(tf.reduce_sum(weights))
        return predictions

    def _take_sums(self) -> tuple[float, int, int]:
        """Waits for the device; returns loss sum, correct, count; clears."""
        sums = (self._loss_sum, self._correct, self._count)
        loss, correct, count = (float(s.numpy()) for s in sums)
        for s in sums:
            s.assign(0.0)
        return loss, round(correct), round(count)

    def _prepare(self, token_ids: np.ndarray) -> None:
        """Creates all variables, which a compiled step must not do."""
        if not self.model.built:
            self.model(token_ids[:1], training=False)
        if not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)

    def evaluate(self, examples: Examples, batch_size: int) -> Evaluation:
        """Scores every example exactly once.

        The last batch is filled up to `batch_size` with copies of weight
        zero, so that one compiled step serves for all.

        Args:
            examples: what to score.
            batch_size: examples per step.

        Returns:
            An `Evaluation`.
        """
        predictions = []
        for start in range(0, examples.size, batch_size):
            wanted = np.arange(start, start + batch_size)
            weights = (wanted < examples.size).astype(np.float32)
            indices = np.minimum(wanted, examples.size - 1)
            token_ids, labels = _as_int32(examples.gather(indices))
            if start == 0:
                self._prepare(token_ids)
            predictions.append(
                self._evaluation_step(token_ids, labels, weights)
            )
        loss, correct, count = self._take_sums()
        joined = np.concatenate([p.numpy() for p in predictions])
        return Evaluation(loss / count, correct, count, joined[:count])

    def train(
        self,
        examples: Examples,
        *,
        batch_size: int,
        train_steps: int,
        validation: Examples,
        eval_every: int,
        seed: int = 0,
        steps_per_loop: int = 50,
        on_log: Callable[[TrainingLog], Any] | None = None,
        on_evaluation: Callable[[int, Evaluation, bool], Any] | None = None,
    ) -> TrainingResult:
        """Trains up to a step, keeping the weights that validate best.

        The best has the highest validation accuracy, among equals the lowest
        loss. An interrupt (Ctrl-C) ends training early but in order.

        Args:
            examples: what to train on.
            batch_size: examples per step, also in validation.
            train_steps: step at which to stop.
            validation: what to choose the best weights by.
            eval_every: steps between two validations; one more at the end.
            seed: seed of the data order.
            steps_per_loop: steps between two logs, which wait for the device.
            on_log: called with every `TrainingLog`.
            on_evaluation: called with the step, the `Evaluation` and whether
                it is the best so far, while the model holds those weights.

        Returns:
            A `TrainingResult`; the model keeps the last weights.

        Raises:
            NonFiniteLossError: at the first log after the loss was not
                finite, naming the step.
        """
        step = int(self.step.numpy())
        best: tuple[int, Evaluation, list[np.ndarray]] | None = None
        timed_examples, seconds = 0, 0.0
        first, interrupted = True, False
        try:
            while step < train_steps:
                stop = min(
                    train_steps,
                    _next_multiple(step, steps_per_loop),
                    _next_multiple(step, eval_every),
                )
                started, timed = time.perf_counter(), stop - step
                while step < stop:
                    self._train_one(examples, step, batch_size, seed)
                    step += 1
                    if first:  # compiles, which is no part of the rate
                        self._count.numpy()
                        started, timed = time.perf_counter(), timed - 1
                        first = False
                log = self._log(step * batch_size / examples.size)
                elapsed = time.perf_counter() - started
                if timed:
                    timed_examples += timed * batch_size
                    seconds += elapsed
                    log = dataclasses.replace(
                        log, examples_per_second=timed * batch_size / elapsed
                    )
                if on_log:
                    on_log(log)
                if step % eval_every == 0 or step == train_steps:
                    now = self.evaluate(validation, batch_size)
                    is_best = best is None or _rank(now) > _rank(best[1])
                    if is_best:
                        best = (step, now, self.model.get_weights())
                    if on_evaluation:
                        on_evaluation(step, now, is_best)
        except KeyboardInterrupt:
            interrupted = True
            self._take_sums()  # of a validation cut short
            step = int(self.step.numpy())
        best_step, best_evaluation, best_weights = best or (None, None, None)
        return TrainingResult(
            step=step,
            interrupted=interrupted,
            examples_per_second=timed_examples / seconds if seconds else None,
            best_step=best_step,
            best_evaluation=best_evaluation,
            best_weights=best_weights,
        )

    def _train_one(
        self, examples: Examples, step: int, batch_size: int, seed: int
    ) -> None:
        indices = batch_indices(step, examples.size, batch_size, seed)
        token_ids, labels = _as_int32(examples.gather(indices))
        if not (self.model.built and self.optimizer.built):
            self._prepare(token_ids)
        self._train_step(token_ids, labels)

    def _log(self, epoch: float) -> TrainingLog:
        loss, correct, count = self._take_sums()
        bad_step = int(self._bad_step.numpy())
        if bad_step >= 0:
            raise NonFiniteLossError(
                f"the loss was not finite at step {bad_step + 1}. A lower "
                "learning rate, a longer warm-up, gradient clipping or "
                "float32 in place of mixed precision may help."
            )
        return TrainingLog(
            step=int(self.step.numpy()),
            epoch=epoch,
            loss=loss / count,
            accuracy=correct / count,
            learning_rate=float(self._learning_rate.numpy()),
            examples_per_second=None,
        )


def _next_multiple(step: int, interval: int) -> int:
    return (step // interval + 1) * interval


def _rank(evaluation: Evaluation) -> tuple[int, float]:
    return evaluation.num_correct, -evaluation.loss


def _as_int32(
    batch: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    token_ids, labels = batch
    return np.asarray(token_ids, np.int32), np.asarray(labels, np.int32)
