"""A whole training: data in, checkpoints and measurements out.

The `Loop` makes steps; this decides how many at a time, feeds them, and does
between them what a run needs: logs, validations, checkpoints, profiles, and
stopping in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from .checkpoints import Checkpoints, Restored
from .loop import Loop
from .records import (
    Evaluation,
    Schedule,
    TrainingLog,
    TrainingResult,
    WorkerLostError,
)
from .run import Group, Run
from .sources import (
    BucketedSource,
    IndexableSource,
    IndexedSource,
    Share,
    Source,
    StreamSource,
    as_buckets,
    check_static,
    evaluation_dataset,
    evaluation_steps,
    training_dataset,
)
from .stopping import StopSignals
from .strategy import Meeting


class Trainer:
    """Trains and evaluates the task of a loop on sources of examples.

    Args:
        loop: makes the steps; its model need not be built yet.
        batch_size: examples per step, over all replicas; a `BucketedSource`
            brings its own.
        seed: seed of the data order.
        rank: what makes one validation better than another; higher is
            better. By default the first metric of the task, then the loss.
        data_service: address of a tf.data service for training batches.
        num_workers: processes that train together.

    Raises:
        ValueError: the batch cannot be divided among the replicas and the
            parts of gradient accumulation.

    Example:

    >>> import keras
    >>> import tensorflow as tf
    >>> from luna_tf.training.loop import Loop
    >>> from luna_tf.training.records import Schedule
    >>> from luna_tf.training.sources import IndexedSource
    >>> from luna_tf.training.tasks import Classification
    >>> def gather(i):  # is a number odd?
    ...     bits = tf.cast(i[:, None] % 2, tf.float32)
    ...     return {"bits": bits, "labels": i % 2}
    >>> data = IndexedSource(100, gather)
    >>> model = keras.Sequential([keras.layers.Dense(2)])
    >>> task = Classification(model, padding_id=None, input_name="bits")
    >>> loop = Loop(task, keras.optimizers.AdamW(0.1), jit_compile=False)
    >>> trainer = Trainer(loop, batch_size=20)
    >>> result = trainer.train(data, Schedule(100, eval_every=50), data)
    >>> result.step, trainer.evaluate(data).metrics["accuracy"]
    (100, 1.0)
    """

    def __init__(
        self,
        loop: Loop,
        batch_size: int,
        seed: int = 0,
        rank: Callable[[Evaluation], Any] | None = None,
        data_service: str | None = None,
        num_workers: int = 1,
    ) -> None:
        check_batch_size(batch_size, loop.num_replicas, loop.accumulation_steps)
        self.loop = loop
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank or self._default_rank
        self._data_service = data_service
        self._num_workers = num_workers
        self.meeting = Meeting(loop.strategy, num_workers)
        # Plain iterators of a stream, by input pipeline: their state is saved.
        self.streams: dict[str, Any] = {}

    def _default_rank(self, evaluation: Evaluation) -> tuple[float, float]:
        first = self.loop.task.metrics[0]
        return evaluation.metrics[first], -evaluation.loss

    # ----------------------------------------------------------------- data

    def _share(
        self, context: tf.distribute.InputContext, batch_size: int
    ) -> Share:
        local = context.num_replicas_in_sync // context.num_input_pipelines
        return Share(
            batch_size,
            context.num_replicas_in_sync,
            context.input_pipeline_id * local,
            local,
        )

    def _distribute(
        self,
        make: Callable[[tf.distribute.InputContext, Share], tf.data.Dataset],
        batch_size: int,
    ) -> Any:
        strategy = self.loop.strategy
        return iter(
            strategy.distribute_datasets_from_function(
                lambda context: make(context, self._share(context, batch_size))
            )
        )

    def training_iterator(
        self,
        source: Source,
        first_step: int,
        last_step: int,
        batch_size: int | None = None,
    ) -> Any:
        """Batches of all replicas, on their devices, ahead of use.

        Args:
            source: what to train on: examples of one shape. A stream goes on
                where it was.
            first_step: step to start with, from 0; a stream disregards it.
            last_step: step to end before.
            batch_size: rows of the global batch; those of the trainer when
                None. A stream disregards it.

        Returns:
            An iterator with one element per step.

        Raises:
            TypeError: `source` is a `BucketedSource`, each bucket of which
                has an iterator of its own.
        """
        if isinstance(source, BucketedSource):
            raise TypeError(
                "a BucketedSource has no single iterator: give one of its "
                "sources, with its batch size."
            )
        if isinstance(source, IndexedSource):
            return self._distribute(
                lambda _, share: training_dataset(
                    source,
                    share,
                    self.seed,
                    first_step,
                    last_step,
                    self._data_service,
                ),
                batch_size or self.batch_size,
            )
        steps = last_step - first_step
        streams = self._open_streams(source)

        def take(
            context: tf.distribute.InputContext, share: Share
        ) -> tf.data.Dataset:
            # No more than what these steps use may leave the plain iterator,
            # or a checkpoint after them would lose it.
            stream = streams[f"pipeline_{context.input_pipeline_id}"]
            elements = tf.data.Dataset.range(steps * share.local_replicas)
            return elements.map(lambda _: next(stream))

        return self._distribute(take, self.batch_size)

    def _open_streams(self, source: Any) -> dict[str, Any]:
        if self.streams:
            return self.streams

        def open_one(
            context: tf.distribute.InputContext, share: Share
        ) -> tf.data.Dataset:
            dataset = source.make_dataset(share)
            check_static(dataset)
            dataset = dataset.map(_with_weights).prefetch(tf.data.AUTOTUNE)
            key = f"pipeline_{context.input_pipeline_id}"
            self.streams[key] = iter(dataset)
            return dataset

        self.loop.strategy.distribute_datasets_from_function(
            lambda context: open_one(
                context, self._share(context, self.batch_size)
            )
        )
        return self.streams

    def build(
        self,
        source: IndexedSource | StreamSource,
        batch_size: int | None = None,
    ) -> None:
        """Creates all variables by the shapes of one replica's batch."""
        replicas = self.loop.num_replicas
        batch_size = batch_size or self.batch_size
        check_batch_size(batch_size, replicas, self.loop.accumulation_steps)
        share = Share(batch_size, replicas, 0, replicas)
        if isinstance(source, IndexedSource):
            dataset = evaluation_dataset(source, share)
        else:
            dataset = source.make_dataset(share)
            check_static(dataset)
            dataset = dataset.map(_with_weights)
        zeros = {
            name: tf.zeros(spec.shape, spec.dtype)
            for name, spec in dataset.element_spec.items()
        }
        self.loop.build(zeros)

    # ----------------------------------------------------------- evaluation

    def evaluate(self, source: IndexableSource) -> Evaluation:
        """Scores every example exactly once.

        Args:
            source: what to score.

        Returns:
            An `Evaluation` with predictions.

        Raises:
            ValueError: a batch cannot be divided among the replicas.
        """
        buckets = as_buckets(source, self.batch_size)
        self.loop.take_measurements()  # of an evaluation cut short
        predictions = [
            self._predict(bucket, rows)
            for bucket, rows in zip(
                buckets.sources, buckets.batch_sizes, strict=True
            )
        ]
        sums = self.loop.take_measurements()
        return Evaluation(
            sums.loss, sums.metrics, sums.weight, np.concatenate(predictions)
        )

    def _predict(self, source: IndexedSource, batch_size: int) -> np.ndarray:
        self.build(source, batch_size)
        iterator = self._distribute(
            lambda _, share: evaluation_dataset(source, share), batch_size
        )
        steps = evaluation_steps(source, batch_size)
        predictions = [self.loop.evaluate_step(iterator) for _ in range(steps)]
        return np.concatenate([p.numpy() for p in predictions])[: source.size]

    # ------------------------------------------------------------- training

    def make_checkpoints(
        self,
        folder: str,
        keep: int = 3,
        worker: int = 0,
        every: int = 1,
        count: int = 0,
    ) -> Checkpoints:
        """Checkpoints of all that this trainer changes.

        Args:
            folder: where they lie, gs:// paths included.
            keep: how many of the newest are kept.
            worker: number of this process.
            every: see `Checkpoints`.
            count: see `Checkpoints`.

        Returns:
            For `train`.
        """
        loop = self.loop
        return Checkpoints(
            folder,
            {
                "model": loop.model,
                "optimizer": loop.optimizer,
                "step": loop.step,
            },
            keep,
            every,
            count,
            worker,
            self._num_workers,
            self.meeting.wait,
        )

    def train(
        self,
        source: Source,
        schedule: Schedule,
        validation: IndexableSource,
        checkpoints: Checkpoints | None = None,
        *,
        on_resume: Callable[[Restored], Any] | None = None,
        on_log: Callable[[TrainingLog], Any] | None = None,
        on_evaluation: Callable[[int, Evaluation, bool], Any] | None = None,
        on_save: Callable[[int], Any] | None = None,
        profile_dir: str | None = None,
        max_seconds: float | None = None,
    ) -> TrainingResult:
        """Trains up to a step; goes on from the newest checkpoint, if any.

        SIGTERM and a first SIGINT end training after the running loop, with a
        checkpoint.

        Args:
            source: what to train on.
            schedule: when to do what.
            validation: what to choose the best weights by.
            checkpoints: from `make_checkpoints`; None: nothing is kept.
            on_resume: called once when a checkpoint was read.
            on_log: called with every `TrainingLog`.
            on_evaluation: called with the step, the `Evaluation` and whether
                it is the best so far, while the model holds those weights,
                and before the checkpoint that knows of it.
            on_save: called with the step before a checkpoint is written.
            profile_dir: TensorBoard folder for `schedule.profile_steps`.
            max_seconds: end training, as at its last step, after so much time
                spent on steps; neither compiling nor validations count.

        Returns:
            A `TrainingResult`; the model keeps the last weights.

        Raises:
            NonFiniteLossError: at the first log after it happened. The last
                checkpoint is one from before.
            WorkerLostError: another worker stopped answering.
            CheckpointError: a checkpoint cannot be written or read, or is one
                of other buckets.
            ValueError: a batch cannot be divided among the replicas.
        """
        run = Run(self, source, schedule, validation, checkpoints, on_save)
        if checkpoints is not None:
            restored = checkpoints.restore(
                (lambda: Group(self._open_streams(source)))
                if isinstance(source, StreamSource)
                else None
            )
            if restored is not None:
                run.take_up(restored)
                if on_resume:
                    on_resume(restored)
        with StopSignals() as stop:
            try:
                return run.go(
                    stop, on_log, on_evaluation, profile_dir, max_seconds
                )
            except _LOST as error:
                if self._num_workers == 1:
                    raise
                raise WorkerLostError(
                    "another worker stopped answering at about step "
                    f"{run.step:,}: {str(error).splitlines()[0]}. Start all "
                    "workers again with the same command; they go on from "
                    "the newest checkpoint."
                ) from error


# What collective operations end with when a peer is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def check_batch_size(
    batch_size: int, num_replicas: int, accumulation_steps: int = 1
) -> None:
    """Refuses a batch that cannot be divided evenly.

    Raises:
        ValueError: naming the sizes that are possible next to it.
    """
    divisor = num_replicas * accumulation_steps
    if batch_size < 1 or batch_size % divisor:
        near = max(1, math.floor(batch_size / divisor)) * divisor
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of {divisor} "
            f"({num_replicas} replicas times {accumulation_steps} "
            f"accumulation steps), such as {near} or {near + divisor}."
        )


def _with_weights(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    rows = next(iter(batch.values())).shape[0]
    return {**batch, "example_weights": tf.ones([rows])}
