"""Runs a function on every example of a source, on all replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from .sources import IndexedSource, Share, evaluation_dataset, evaluation_steps
from .strategy import may_jit_compile
from .tasks import Batch


class Predictor:
    """Collects what a function computes from batches.

    Args:
        function: maps one replica's batch, a dictionary of tensors
            `(rows, ...)`, to a structure of tensors `(rows, ...)` of static
            shape.
        strategy: where the replicas are; one device when None.
        jit_compile: whether XLA compiles the function when there is one
            replica on a CPU or GPU, where no TPU is. Worth it for what runs
            often.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.training.sources import IndexedSource
    >>> ids = tf.constant([[1, 2], [3, 4], [5, 6]])
    >>> source = IndexedSource(3, lambda i: {"token_ids": tf.gather(ids, i)})
    >>> predict = Predictor(lambda batch: tf.reduce_sum(batch["token_ids"], 1))
    >>> predict(source, batch_size=2)
    array([ 3,  7, 11], dtype=int32)
    """

    def __init__(
        self,
        function: Callable[[Batch], Any],
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
    ) -> None:
        self._function = function
        self._strategy: Any = strategy or tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        self._shapes: dict[str, tf.TensorShape] = {}
        self._body: Any = self.replica
        self.jit_compile = jit_compile and may_jit_compile(self._strategy)
        if self.jit_compile:
            self._body = tf.function(
                self.replica, jit_compile=True, autograph=False
            )
        # One for each shape: a function that is traced again and again would
        # warn of it.
        self._steps: dict[str, Any] = {}

    def __call__(self, source: IndexedSource, batch_size: int) -> Any:
        """Runs over a source.

        Args:
            source: the examples.
            batch_size: rows per step, over all replicas.

        Returns:
            The function's structure with numpy arrays `(source.size, ...)`,
            rows in the order of the source.
        """
        shares: list[Share] = []

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            shares.append(
                Share(
                    batch_size,
                    context.num_replicas_in_sync,
                    context.input_pipeline_id * local,
                    local,
                )
            )
            dataset = evaluation_dataset(source, shares[-1])
            self._shapes = {
                name: spec.shape for name, spec in dataset.element_spec.items()
            }
            return dataset

        iterator = iter(self._strategy.distribute_datasets_from_function(make))
        step = self._steps.setdefault(
            repr(self._shapes), tf.function(self._run, autograph=False)
        )
        steps = evaluation_steps(source, batch_size)
        results = [step(iterator) for _ in range(steps)]
        return tf.nest.map_structure(
            lambda *parts: np.concatenate(parts)[: source.size],
            *(tf.nest.map_structure(np.asarray, r) for r in results),
        )

    def _run(self, iterator: Any) -> Any:
        results = self._strategy.run(self._body, args=(next(iterator),))
        return tf.nest.map_structure(
            lambda x: self._strategy.experimental_local_results(x)[0], results
        )

    def replica(self, batch: Batch) -> Any:
        """What every replica does with its part of a batch.

        Args:
            batch: its part.

        Returns:
            The function's structure with the rows of all replicas.
        """
        for name, tensor in batch.items():  # several workers' input forgets
            tensor.set_shape(self._shapes.get(name))
        results = self._function(batch)
        if self._replicas == 1:
            return results
        context = tf.distribute.get_replica_context()
        return tf.nest.map_structure(
            lambda x: context.all_gather(x, axis=0), results
        )
