"""A whole training: data in, checkpoints and measurements out.

The `Loop` makes steps; this decides how many at a time, feeds them, and does
between them what a run needs: logs, validations, checkpoints, profiles, and
stopping in order.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from .checkpoints import CheckpointError, Checkpoints, Restored
from .loop import Loop, Measurements
from .sources import (
    BlockOrder,
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


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient became infinite or NaN.

    Args:
        step: number of the step, from 0.
        indices: examples of its batch, numbered through all buckets; None
            for a stream.
    """

    def __init__(self, step: int, indices: np.ndarray | None) -> None:
        self.step = step
        self.indices = indices
        if indices is None:
            batch = f"batch {step + 1} of the stream"
        else:
            shown = ", ".join(map(str, indices[:16]))
            more = f" and {len(indices) - 16} more" if len(indices) > 16 else ""
            batch = f"examples {shown}{more}"
        super().__init__(
            f"loss or gradient was not finite at step {step + 1} ({batch}). A "
            "lower learning rate, a longer warm-up, gradient clipping or "
            "float32 in place of mixed precision may help."
        )


class WorkerLostError(RuntimeError):
    """Another worker of a multi-worker run stopped answering."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """Speed over some steps, compiling left out."""

    steps_per_second: float
    examples_per_second: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """Means over the steps since the last log.

    Of a bucketed source every log is about a single bucket. `learning_rate`
    and `gradient_norm` (before clipping) are those of the last step. `epoch`
    is None for streams, `rates` as long as nothing but the compiling step was
    timed.
    """

    step: int
    seconds: float
    epoch: float | None
    loss: float
    metrics: dict[str, float]
    learning_rate: float
    gradient_norm: float
    rates: Rates | None

    def scalars(self) -> dict[str, float]:
        """All numbers but the step, by name, for tables and TensorBoard."""
        values: dict[str, float | None] = {
            "seconds": self.seconds,
            "epoch": self.epoch,
            "loss": self.loss,
            **self.metrics,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            **(dataclasses.asdict(self.rates) if self.rates else {}),
        }
        return {k: v for k, v in values.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result over a whole set.

    Args:
        loss: mean over all scored items.
        metrics: name to mean over the same.
        weight: scored items.
        predictions: of all examples in order, bucket after bucket, or None
            when read from a checkpoint.
    """

    loss: float
    metrics: dict[str, float]
    weight: float
    predictions: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `Trainer.train` leaves.

    Args:
        step: steps done, by this process and those before it.
        seconds: time spent on them, compiling left out.
        stopped_by: SIGTERM or SIGINT, or None when training came to its end.
        rates: speed of this process, None when too short to tell.
        best_step: step of the best validation, also one before a restart.
        best_evaluation: its result.
        best_weights: weights then, only without checkpoints.
    """

    step: int
    seconds: float
    stopped_by: signal.Signals | None
    rates: Rates | None
    best_step: int | None
    best_evaluation: Evaluation | None
    best_weights: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a training does what, in steps.

    Args:
        train_steps: step at which to stop.
        eval_every: steps between validations; one more at the end.
        steps_per_loop: steps that the devices make between two logs, without
            coming back to Python. A stop is obeyed, and a loss that is not
            finite is noticed, at the end of them.
        checkpoint_every: steps between checkpoints; one more with every
            validation.
        profile_steps: first step to profile and the one to stop before.

    Raises:
        ValueError: a number is below 1, or steps_per_loop does not divide
            eval_every and checkpoint_every.
    """

    train_steps: int
    eval_every: int
    steps_per_loop: int = 50
    checkpoint_every: int | None = None
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("train_steps", "eval_every", "steps_per_loop"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. "
                    f"Received: {getattr(self, name)}"
                )
        for name in ("eval_every", "checkpoint_every"):
            interval = getattr(self, name)
            if interval is not None and interval % self.steps_per_loop:
                raise ValueError(
                    f"steps_per_loop={self.steps_per_loop} must divide {name}. "
                    f"Received: {name}={interval}"
                )
        if self.profile_steps is not None:
            first, last = self.profile_steps
            if not 0 <= first < last:
                raise ValueError(
                    "profile_steps must be two rising steps. Received: "
                    f"{first}, {last}"
                )

    def next_stop(self, step: int) -> int:
        """The step before which the devices need not come back to Python."""
        intervals = [self.steps_per_loop, self.eval_every]
        stops = [(step // i + 1) * i for i in intervals] + [self.train_steps]
        if self.profile_steps is not None:
            stops += [s for s in self.profile_steps if s > step]
        return min(stops)


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

    ```python
    trainer = Trainer(Loop(Classification(model), optimizer), batch_size=64)
    result = trainer.train(train, Schedule(1000, eval_every=100), validation)
    print(trainer.evaluate(test).metrics["accuracy"])
    ```
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
        self._rank = rank or self._default_rank
        self._data_service = data_service
        self._num_workers = num_workers
        self._meeting = Meeting(loop.strategy, num_workers)
        # Plain iterators of a stream, by input pipeline: their state is saved.
        self._streams: dict[str, Any] = {}

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
        if self._streams:
            return self._streams

        def open_one(
            context: tf.distribute.InputContext, share: Share
        ) -> tf.data.Dataset:
            dataset = source.make_dataset(share)
            check_static(dataset)
            dataset = dataset.map(_with_weights).prefetch(tf.data.AUTOTUNE)
            key = f"pipeline_{context.input_pipeline_id}"
            self._streams[key] = iter(dataset)
            return dataset

        self.loop.strategy.distribute_datasets_from_function(
            lambda context: open_one(
                context, self._share(context, self.batch_size)
            )
        )
        return self._streams

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
        self, folder: str, keep: int = 3, worker: int = 0
    ) -> Checkpoints:
        """Checkpoints of all that this trainer changes.

        Args:
            folder: where they lie, gs:// paths included.
            keep: how many of the newest are kept.
            worker: number of this process.

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
            worker,
            self._num_workers,
            self._meeting.wait,
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
        run = _Run(self, source, schedule, validation, checkpoints, on_save)
        if checkpoints is not None:
            restored = checkpoints.restore(
                (lambda: _Group(self._open_streams(source)))
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


class _Group(tf.Module):
    """Iterators as one thing to save."""

    def __init__(self, iterators: dict[str, Any]) -> None:
        super().__init__()
        for name, iterator in iterators.items():
            setattr(self, name, iterator)


class _Run:
    """One call of `Trainer.train`: what changes while it goes."""

    def __init__(
        self,
        trainer: Trainer,
        source: Source,
        schedule: Schedule,
        validation: IndexableSource,
        checkpoints: Checkpoints | None,
        on_save: Callable[[int], Any] | None,
    ) -> None:
        self.trainer = trainer
        self.loop = trainer.loop
        self.source = source
        self.schedule = schedule
        self.validation = validation
        self.checkpoints = checkpoints
        self.on_save = on_save
        self.step = int(self.loop.step.read_value().numpy())
        self.saved_step: int | None = None
        self.best: tuple[int, Evaluation] | None = None
        self.best_weights: list[np.ndarray] | None = None
        self.timed = np.zeros(4)  # seconds, steps, examples, tokens
        self.seconds = 0.0  # of earlier processes
        self.ends = False
        self.iterators: dict[int, Any] = {}  # by bucket
        self.compiled: set[int] = set()  # buckets
        self.profiling = False
        self.buckets: BucketedSource | None = None
        if not isinstance(source, StreamSource):
            self.buckets = as_buckets(source, trainer.batch_size)
            self.order = BlockOrder(
                self.buckets, schedule.steps_per_loop, trainer.seed
            )
            # All of them now, so that no shape fails hours later.
            for bucket in range(len(self.buckets.sources)):
                self._build(bucket)
        else:
            trainer.build(source)

    def _build(self, bucket: int) -> None:
        assert self.buckets is not None
        self.trainer.build(
            self.buckets.sources[bucket], self.buckets.batch_sizes[bucket]
        )

    def take_up(self, restored: Restored) -> None:
        self._check_order(restored)
        self.step = self.saved_step = restored.step
        self.seconds = restored.notes.get("seconds", 0.0)
        best = restored.notes.get("best")
        if best is not None:
            self.best = (
                best["step"],
                Evaluation(best["loss"], best["metrics"], best["weight"]),
            )

    def _order_notes(self) -> dict[str, Any] | None:
        """What a bucketed run must find unchanged when it goes on."""
        source = self.source
        if not isinstance(source, BucketedSource):
            return None
        return {
            "sizes": [bucket.size for bucket in source.sources],
            "batch_sizes": list(source.batch_sizes),
            "steps_per_loop": self.schedule.steps_per_loop,
        }

    def _check_order(self, restored: Restored) -> None:
        before, now = restored.notes.get("buckets"), self._order_notes()
        if before != now:
            raise CheckpointError(
                f"the checkpoint of step {restored.step:,} is one of a run "
                f"with the buckets {before}, not {now}: its place among the "
                "examples cannot be found again."
            )

    def go(
        self,
        stop: StopSignals,
        on_log: Callable[[TrainingLog], Any] | None,
        on_evaluation: Callable[[int, Evaluation, bool], Any] | None,
        profile_dir: str | None,
        max_seconds: float | None,
    ) -> TrainingResult:
        schedule, stopped_by = self.schedule, None
        self.loop.take_measurements()  # of an earlier training
        try:
            while not self._is_over(max_seconds):
                self._profile(profile_dir)
                log = self._steps(schedule.next_stop(self.step))
                if on_log:
                    on_log(log)
                self.ends = self._is_over(max_seconds)
                self._evaluate(on_evaluation)
                wants_stop = self.trainer._meeting.any(
                    stop.received is not None
                )
                if wants_stop or self._is_due():
                    self.save()
                if wants_stop:
                    stopped_by = stop.received or signal.SIGTERM
                    break
        finally:
            if self.profiling:
                tf.profiler.experimental.stop()
        return TrainingResult(
            step=self.step,
            seconds=self._spent(),
            stopped_by=stopped_by,
            rates=_rates(self.timed),
            best_step=self.best[0] if self.best else None,
            best_evaluation=self.best[1] if self.best else None,
            best_weights=self.best_weights,
        )

    def _steps(self, stop: int) -> TrainingLog:
        """Trains up to a step; returns what was measured on the way."""
        timed = np.zeros(4)
        total: list[Measurements] = []
        first = self.step
        # A stop is never beyond the end of a block, hence of one bucket.
        bucket, rows = 0, self.trainer.batch_size
        if self.buckets is not None:
            bucket = self.order.bucket(first)
            rows = self.buckets.batch_sizes[bucket]
        while self.step < stop:
            # The first step of a process on a bucket compiles, which is no
            # part of a rate.
            compiled = bucket in self.compiled
            until = stop if compiled else self.step + 1
            started = time.perf_counter()
            steps = until - self.step
            self.loop.run_steps(
                self._batches(bucket, until), tf.constant(steps, tf.int64)
            )
            if not compiled:
                self.loop.step.read_value().numpy()  # waits
                self.compiled.add(bucket)
            else:
                timed[:3] += 0.0, steps, steps * rows
                total = [self.loop.take_measurements()]
                timed[0] = time.perf_counter() - started
            self.step = until
        sums = total[0] if total else self.loop.take_measurements()
        if sums.bad_step is not None:
            self._fail(sums.bad_step)
        timed[3] = sums.tokens * timed[1] / (stop - first)
        self.timed += timed
        epoch = None
        if self.buckets is not None:
            epoch = self.order.examples(self.step) / self.buckets.size
        return TrainingLog(
            step=self.step,
            seconds=self._spent(),
            epoch=epoch,
            loss=sums.loss,
            metrics=sums.metrics,
            learning_rate=sums.learning_rate,
            gradient_norm=sums.gradient_norm,
            rates=_rates(timed),
        )

    def _batches(self, bucket: int, until: int) -> Any:
        if isinstance(self.source, StreamSource):
            return self.trainer.training_iterator(self.source, self.step, until)
        assert self.buckets is not None
        if bucket not in self.compiled:
            # Evaluation has other shapes, and so have other buckets.
            self._build(bucket)
        if bucket not in self.iterators:
            # Opened once and read on; each counts its own steps.
            last_step = self.schedule.train_steps
            first, last = (
                int(self.order.steps(step)[bucket])
                for step in (self.step, last_step)
            )
            self.iterators[bucket] = self.trainer.training_iterator(
                self.buckets.sources[bucket],
                first,
                last,
                self.buckets.batch_sizes[bucket],
            )
        return self.iterators[bucket]

    def _fail(self, step: int) -> None:
        indices = None
        if self.buckets is not None:
            indices = self.order.indices(step)
        raise NonFiniteLossError(step, indices)

    def _spent(self) -> float:
        return self.seconds + float(self.timed[0])

    def _is_over(self, max_seconds: float | None) -> bool:
        if self.step >= self.schedule.train_steps:
            return True
        if max_seconds is None:
            return False
        # Clocks differ: all workers end at the same step.
        return self.trainer._meeting.any(self._spent() >= max_seconds)

    def _evaluate(
        self, report: Callable[[int, Evaluation, bool], Any] | None
    ) -> None:
        schedule = self.schedule
        if self.step % schedule.eval_every and not self.ends:
            return
        now, rank = self.trainer.evaluate(self.validation), self.trainer._rank
        is_best = self.best is None or rank(now) > rank(self.best[1])
        if is_best:
            self.best = (self.step, now)
            if self.checkpoints is None:
                self.best_weights = self.loop.model.get_weights()
        if report:
            report(self.step, now, is_best)

    def _is_due(self) -> bool:
        schedule = self.schedule
        intervals = (schedule.eval_every, schedule.checkpoint_every)
        return self.ends or any(
            interval and self.step % interval == 0 for interval in intervals
        )

    def save(self) -> None:
        if self.checkpoints is None or self.saved_step == self.step:
            return
        if self.on_save:
            self.on_save(self.step)
        notes: dict[str, Any] = {"seconds": self._spent()}
        if self.best is not None:
            step, evaluation = self.best
            notes["best"] = {
                "step": step,
                "loss": evaluation.loss,
                "metrics": evaluation.metrics,
                "weight": evaluation.weight,
            }
        buckets = self._order_notes()
        if buckets is not None:
            notes["buckets"] = buckets
        streams = self.trainer._streams
        self.checkpoints.save(
            self.step, notes, _Group(streams) if streams else None
        )
        self.saved_step = self.step

    def _profile(self, folder: str | None) -> None:
        if self.schedule.profile_steps is None or folder is None:
            return
        first, last = self.schedule.profile_steps
        if first <= self.step < last and not self.profiling:
            tf.profiler.experimental.start(folder)
            self.profiling = True
        elif self.step >= last and self.profiling:
            tf.profiler.experimental.stop()
            self.profiling = False


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


def _rates(timed: np.ndarray) -> Rates | None:
    seconds, *counts = timed
    if seconds <= 0.0:
        return None
    return Rates(*(float(count / seconds) for count in counts))
