"""The steps of training and evaluation, right on any number of replicas.

What Keras' `fit` gets wrong under `tf.distribute` is done here by hand:
gradients are dense, are summed over replicas before they are clipped, and are
divided by the number of scored items of all replicas; every replica drops
other entries; the last batch of an evaluation is filled with rows of weight 0.

All that a training changes lives in the model's variables, the optimizer's and
the step counter. Random numbers follow from `(seed, step, replica)` alone, so
that these variables are all that a resumed run needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .strategy import may_jit_compile
from .tasks import Batch, Scores, Task

_SUM = tf.distribute.ReduceOp.SUM
# Of 31 bits, those that count steps; the rest count a generator's draws within
# one forward pass, up to 1,024.
_COUNT_BITS = 21
_SEED_PATH = "seed_generator_state"


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Sums over some steps and all replicas, and the state of the last step.

    Args:
        weight: scored items.
        loss: mean over them.
        metrics: name to mean over them.
        tokens: input tokens that are not padding.
        learning_rate: of the last training step.
        gradient_norm: of the last training step, before clipping.
        bad_step: first step whose loss or gradient was not finite, or None.
    """

    weight: float
    loss: float
    metrics: dict[str, float]
    tokens: float
    learning_rate: float
    gradient_norm: float
    bad_step: int | None


class Loop:
    """Runs a task's steps under a distribution strategy.

    Model and optimizer must have been made inside `strategy.scope()`. Clipping
    is asked for as usual, by `clipnorm`, `global_clipnorm` or `clipvalue` of
    the optimizer; here it acts on the gradient of the whole batch.

    Args:
        task: model and losses.
        optimizer: a Keras optimizer, not yet used elsewhere.
        strategy: where the replicas are; one device when None.
        accumulation_steps: parts into which every replica divides its batch,
            one after the other, to save memory. The result is the same.
        jit_compile: whether XLA compiles the steps when there is one replica
            on a CPU or GPU. Several replicas are never compiled by
            `jit_compile`: a TPUStrategy compiles by itself, the others cannot.

    Attributes:
        run_steps: `(iterator, steps)` makes that many training steps without
            coming back to Python in between; the iterator yields one batch
            per replica, `steps` is a scalar int64.
        evaluate_step: `(iterator)` scores one global batch and returns the
            predictions of all replicas, rows in order.
        step: steps done, int64 variable.

    Raises:
        ValueError: an argument is out of range or does not fit the others.

    Example:

    >>> import keras
    >>> import tensorflow as tf
    >>> from luna_tf.training.tasks import Classification
    >>> strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.layers.Dense(2)])
    ...     optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
    >>> task = Classification(model, padding_id=None, input_name="pixels")
    >>> loop = Loop(task, optimizer, strategy, jit_compile=False)
    >>> batch = {"pixels": tf.ones([8, 3]), "labels": tf.ones([8], tf.int32)}
    >>> batch["example_weights"] = tf.ones([8])
    >>> loop.build(batch)
    >>> data = tf.data.Dataset.from_tensors(batch).repeat()
    >>> batches = iter(strategy.experimental_distribute_dataset(data))
    >>> loop.run_steps(batches, tf.constant(100, tf.int64))
    >>> int(loop.step), loop.take_measurements().weight
    (100, 800.0)
    """

    def __init__(
        self,
        task: Task,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy | None = None,
        accumulation_steps: int = 1,
        jit_compile: bool = True,
    ) -> None:
        if accumulation_steps < 1:
            raise ValueError(
                "accumulation_steps must be at least 1. "
                f"Received: {accumulation_steps}"
            )
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "give accumulation_steps to the loop, not "
                "gradient_accumulation_steps to the optimizer, which counts "
                "every part as a step and cannot run on several replicas."
            )
        self.task = task
        self.model = task.model
        self.optimizer = optimizer
        self.strategy: Any = strategy or tf.distribute.get_strategy()
        self.accumulation_steps = accumulation_steps
        self.num_replicas = self.strategy.num_replicas_in_sync
        self.jit_compile = jit_compile and may_jit_compile(self.strategy)
        # Float16 scales the loss: an overflow is then part of the method, and
        # the inner optimizer clips after it has removed the scale.
        self._scales_loss = isinstance(
            optimizer, keras.optimizers.LossScaleOptimizer
        )
        inner = optimizer.inner_optimizer if self._scales_loss else optimizer
        _leave_to_loop(inner, "_all_reduce_sum_gradients", list)
        if not self._scales_loss:
            _leave_to_loop(inner, "_clip_gradients", list)
        self._shapes: dict[str, tf.TensorShape] = {}
        with self.strategy.scope():
            self.step = _counter("step", 0, tf.int64)
            self._sums = _counter("sums", [0.0] * (3 + len(task.metrics)))
            self._learning_rate = _counter("learning_rate", 0.0)
            self._gradient_norm = _counter("gradient_norm", 0.0)
            self._bad_step = _counter("bad_step", -1, tf.int64)
        compiled = functools.partial(
            tf.function, jit_compile=True, autograph=False
        )
        prepared = compiled if self.jit_compile else lambda body: body
        # One function each for every loop: as decorators all loops of a process
        # would share their traces.
        self.run_steps = tf.function(self._run_steps, autograph=False)
        self.evaluate_step = tf.function(self._evaluate_step, autograph=False)
        self._train_body = prepared(self.train_replica)
        self._evaluation_body = prepared(self.evaluate_replica)

    def build(self, batch: Batch) -> None:
        """Creates all variables, which no compiled step may do.

        Args:
            batch: any batch of one replica; only its shapes matter.
        """
        self._shapes = {name: t.shape for name, t in batch.items()}
        with self.strategy.scope():
            if not self.model.built:
                self.task(batch, training=False)
            if not self.optimizer.built:
                self.optimizer.build(self.model.trainable_variables)

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables that steps read or write."""
        layers = [*self.model.variables, *self.optimizer.variables]
        own = (
            self.step,
            self._sums,
            self._learning_rate,
            self._gradient_norm,
            self._bad_step,
        )
        # A sublayer shared by two layers is listed twice.
        unique = {id(v): v.value for v in layers}
        return [*unique.values(), *own]

    # ------------------------------------------------------------- training

    def _run_steps(self, iterator: Any, steps: tf.Tensor) -> None:
        def body(made: tf.Tensor) -> tuple[tf.Tensor]:
            self.strategy.run(self._train_body, args=(next(iterator),))
            return (made + 1,)

        tf.while_loop(
            lambda made: made < steps,
            body,
            (tf.zeros_like(steps),),
            parallel_iterations=1,
        )

    def train_replica(self, batch: Batch) -> None:
        """One replica's part of a training step, to be run by a strategy."""
        self._restore_shapes(batch)
        trainable = self.model.trainable_variables
        gradients, sums, static_weight, state = self._accumulated(batch)
        reached = [i for i, g in enumerate(gradients) if g is not None]
        tensors: Any = [*(gradients[i] for i in reached), sums]
        if self.num_replicas > 1:
            context = tf.distribute.get_replica_context()
            tensors = context.all_reduce(_SUM, tensors)
        *tensors, sums = tensors
        # The local objective was divided by the number of all items that the
        # shapes hold; this turns it into the number of those that count. It
        # is exactly 1 when all do.
        scale = tf.math.divide_no_nan(float(static_weight), sums[1])
        tensors = [gradient * scale for gradient in tensors]
        norm = self._global_norm(tensors)
        learning_rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        self._apply(tensors, [trainable[i] for i in reached], norm)
        for variable, value in state:
            variable.assign(value)
        self._learning_rate.assign(learning_rate)
        self._gradient_norm.assign(norm)
        self._sums.assign_add(sums)
        failed = tf.logical_not(tf.math.is_finite(sums[0]))
        if not self._scales_loss:
            failed = failed | tf.logical_not(tf.math.is_finite(norm))
        first = failed & (self._bad_step < 0)
        self._bad_step.assign(tf.where(first, self.step, self._bad_step))
        self.step.assign_add(1)

    def _restore_shapes(self, batch: Batch) -> None:
        """Tells TensorFlow the shapes that several workers' input forgets."""
        for name, tensor in batch.items():
            if name in self._shapes:
                tensor.set_shape(self._shapes[name])

    def _accumulated(
        self, batch: Batch
    ) -> tuple[
        list[tf.Tensor | None],
        tf.Tensor,
        int,
        list[tuple[keras.Variable, tf.Tensor]],
    ]:
        """Gradients and sums of all parts of this replica's batch."""
        trainable = self.model.trainable_variables
        others = self._other_state()
        state = [tf.convert_to_tensor(v.value) for v in others]
        bases = self._seed_bases()
        parts = self.accumulation_steps
        if parts == 1:
            gradients, sums, weight, state = self._part(
                [v.value for v in trainable],
                others,
                state,
                batch,
                self._seeds_of(bases, 0),
            )
            return (
                gradients,
                sums,
                weight,
                list(zip(others, state, strict=True)),
            )
        # All variables are read here, outside of the loop over the parts: a TPU
        # program with resources inside of loops is slower, and cannot be taken
        # apart by our tests.
        values = [tf.convert_to_tensor(v.value) for v in trainable]
        divided = {
            name: tf.reshape(t, [parts, _divide(name, t, parts), *t.shape[1:]])
            for name, t in batch.items()
        }
        reached: list[bool] = []
        weights: list[int] = []

        def body(
            index: tf.Tensor,
            totals: list[tf.Tensor],
            sums: tf.Tensor,
            state: list[tf.Tensor],
        ) -> tuple:
            part = {name: t[index] for name, t in divided.items()}
            gradients, added, weight, state = self._part(
                values, others, state, part, self._seeds_of(bases, index)
            )
            reached[:] = [g is not None for g in gradients]
            weights[:] = [weight]
            totals = [
                total if gradient is None else total + gradient
                for total, gradient in zip(totals, gradients, strict=True)
            ]
            return index + 1, totals, sums + added, state

        _, totals, sums, state = tf.while_loop(
            lambda index, *_: index < parts,
            body,
            (
                tf.constant(0),
                [tf.zeros_like(value) for value in values],
                tf.zeros_like(self._sums),
                state,
            ),
            maximum_iterations=parts,
            parallel_iterations=1,
        )
        gradients = [
            t if r else None for t, r in zip(totals, reached, strict=True)
        ]
        return (
            gradients,
            sums,
            weights[0],
            list(zip(others, state, strict=True)),
        )

    def _part(
        self,
        values: Sequence[tf.Tensor | tf.Variable],
        others: Sequence[keras.Variable],
        state: Sequence[tf.Tensor],
        batch: Batch,
        seeds: Sequence[tuple[keras.Variable, tf.Tensor]],
    ) -> tuple[list[tf.Tensor | None], tf.Tensor, int, list[tf.Tensor]]:
        """Gradients of one part of a batch, nothing written to variables.

        `values` are the trainable variables, or tensors in their place.
        """
        mapping = [*zip(others, state, strict=True), *seeds]
        with tf.GradientTape() as tape:
            if isinstance(values[0], tf.Tensor):
                tape.watch(values)
                trainable = self.model.trainable_variables
                mapping += zip(trainable, values, strict=True)
            with keras.StatelessScope(
                state_mapping=mapping, collect_losses=True
            ) as scope:
                scores = self.task(batch, training=True)
                # Not `model.losses`, which finds no value for weights that the
                # scope does not hold.
                penalties = [*scope.losses, *self._regularization()]
            sums = self._summed(scores)
            objective = sums[0]
            if penalties:
                # Every scored item brings the penalty along, so that the
                # division by their number leaves it once.
                objective += sums[1] * tf.cast(tf.add_n(penalties), tf.float32)
            static_weight = (
                scores.losses.shape.num_elements()
                * self.accumulation_steps
                * self.num_replicas
            )
            objective = self.optimizer.scale_loss(objective / static_weight)
        gradients = [
            # Keras' optimizers square the pieces of a sparse gradient one by
            # one, so repeated tokens would get a wrong second moment.
            None if g is None else tf.convert_to_tensor(g)
            for g in tape.gradient(objective, values)
        ]
        new_state = [
            tf.convert_to_tensor(_current(scope, v, old))
            for v, old in zip(others, state, strict=True)
        ]
        return gradients, sums, static_weight, new_state

    def _regularization(self) -> list[tf.Tensor]:
        return [
            tf.convert_to_tensor(v.regularizer(v))
            for v in self.model.trainable_variables
            if v.regularizer is not None
        ]

    def _summed(self, scores: Scores) -> tf.Tensor:
        """Loss, weight, tokens and metrics of a batch as one vector."""
        weighted = [scores.losses, *map(scores.metrics.get, self.task.metrics)]
        loss, *metrics = (tf.reduce_sum(v * scores.weights) for v in weighted)
        weight = tf.reduce_sum(scores.weights)
        return tf.stack([loss, weight, scores.tokens, *metrics])

    def _seed_variables(self) -> list[keras.Variable]:
        return [
            v
            for v in self.model.non_trainable_variables
            if v.path.endswith(_SEED_PATH)
        ]

    def _other_state(self) -> list[keras.Variable]:
        """What a forward pass changes besides seeds: moving averages."""
        return [
            v
            for v in self.model.non_trainable_variables
            if not v.path.endswith(_SEED_PATH)
        ]

    def _draw_seeds(
        self, part: tf.Tensor | int
    ) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Seeds of this step, replica and part for every generator.

        The variables are left alone. With Keras' own counting all replicas
        would drop the same entries, and a checkpoint would have to hold it.
        """
        return self._seeds_of(self._seed_bases(), part)

    def _seed_bases(
        self,
    ) -> tuple[tf.Tensor, list[tuple[keras.Variable, tf.Tensor]]]:
        """All that seeds need of variables: the step, and every state."""
        states = [
            (v, tf.convert_to_tensor(v.value)) for v in self._seed_variables()
        ]
        return self.step.read_value(), states

    def _seeds_of(
        self,
        bases: tuple[tf.Tensor, list[tuple[keras.Variable, tf.Tensor]]],
        part: tf.Tensor | int,
    ) -> list[tuple[keras.Variable, tf.Tensor]]:
        step, states = bases
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        count = step * self.accumulation_steps + tf.cast(part, tf.int64)
        # Bits in place of `%` and `//`: a TPU has no 64-bit integers, and
        # divides imitated ones at great length. Both words stay below 2^31,
        # as XLA keeps 32 bits of each.
        bitwise = tf.bitwise
        high = bitwise.right_shift(count, _COUNT_BITS)
        low = bitwise.left_shift(
            bitwise.bitwise_and(count, 2**_COUNT_BITS - 1), 31 - _COUNT_BITS
        )
        pairs = []
        for variable, seed in states:
            base = tf.cast(seed, tf.int64)
            words = tf.stack(
                [
                    base[0] + replica * 1_000_003 + high * 7_919,
                    base[1] + low,
                ]
            )
            words = bitwise.bitwise_and(words, 2**31 - 1)
            pairs.append((variable, tf.cast(words, seed.dtype)))
        return pairs

    def _global_norm(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        norm = tf.linalg.global_norm(
            [tf.cast(gradient, tf.float32) for gradient in gradients]
        )
        return norm / tf.cast(self.optimizer.scale_loss(1.0), tf.float32)

    def _apply(
        self,
        gradients: list[tf.Tensor],
        variables: list[keras.Variable],
        norm: tf.Tensor,
    ) -> None:
        optimizer = self.optimizer
        if self._scales_loss:
            # Gradients still carry the loss scale: the inner optimizer clips
            # after it was removed.
            optimizer.apply(gradients, variables)
            return
        if optimizer.clipnorm:
            gradients = [
                tf.clip_by_norm(g, optimizer.clipnorm) for g in gradients
            ]
        if optimizer.global_clipnorm:
            gradients, _ = tf.clip_by_global_norm(
                gradients, optimizer.global_clipnorm, use_norm=norm
            )
        if optimizer.clipvalue:
            limit = optimizer.clipvalue
            gradients = [tf.clip_by_value(g, -limit, limit) for g in gradients]
        optimizer.apply(gradients, variables)

    # ----------------------------------------------------------- evaluation

    def _evaluate_step(self, iterator: Any) -> tf.Tensor:
        results = self.strategy.run(
            self._evaluation_body, args=(next(iterator),)
        )
        return self.strategy.experimental_local_results(results)[0]

    def evaluate_replica(self, batch: Batch) -> tf.Tensor:
        """One replica's part of an evaluation step."""
        self._restore_shapes(batch)
        scores = self.task(batch, training=False)
        sums, predictions = self._summed(scores), scores.predictions
        if self.num_replicas > 1:
            context = tf.distribute.get_replica_context()
            sums = context.all_reduce(_SUM, sums)
            predictions = context.all_gather(predictions, axis=0)
        self._sums.assign_add(sums)
        return predictions

    # --------------------------------------------------------------- reading

    def take_measurements(self) -> Measurements:
        """Waits for the devices; returns the sums so far and clears them."""
        values = _read(self._sums)
        self._sums.assign(np.zeros_like(values))
        loss, weight, tokens, *metrics = (float(v) for v in values)
        share = weight or 1.0
        bad_step = int(_read(self._bad_step))
        return Measurements(
            weight=weight,
            loss=loss / share,
            metrics={
                name: value / share
                for name, value in zip(self.task.metrics, metrics, strict=True)
            },
            tokens=tokens,
            learning_rate=float(_read(self._learning_rate)),
            gradient_norm=float(_read(self._gradient_norm)),
            bad_step=None if bad_step < 0 else bad_step,
        )


def _counter(name: str, value: Any, dtype: Any = tf.float32) -> tf.Variable:
    # Without aggregation every replica updates its own copy. All write the
    # same number, so no communication is needed to keep them equal.
    return tf.Variable(
        value,
        name=name,
        dtype=dtype,
        trainable=False,
        aggregation=tf.VariableAggregation.NONE,
    )


def _read(variable: tf.Variable) -> np.ndarray:
    return variable.read_value().numpy()


def _divide(name: str, tensor: tf.Tensor, parts: int) -> int:
    rows = tensor.shape[0]
    if rows is None or rows % parts:
        raise ValueError(
            f"accumulation_steps={parts} must divide the rows per replica. "
            f"Received: {rows} rows of {name!r}"
        )
    return rows // parts


def _current(
    scope: keras.StatelessScope, variable: keras.Variable, old: tf.Tensor
) -> tf.Tensor:
    value = scope.get_current_value(variable)
    return old if value is None else value


def _leave_to_loop(
    optimizer: keras.optimizers.Optimizer, hook: str, result: Any
) -> None:
    """Switches off a stage of a Keras optimizer that the loop does itself."""
    # Keras has no public switch for them. `__dict__` is where an instance's
    # own attribute hides the method of its class, past Keras' tracking.
    if not callable(getattr(optimizer, hook, None)):
        raise TypeError(
            "optimizer must be a Keras optimizer of the TensorFlow backend "
            f"with a method {hook}. Received: {optimizer!r}"
        )
    optimizer.__dict__[hook] = result
