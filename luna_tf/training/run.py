"""One run of a `Trainer`: what changes while a training goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .checkpoints import CheckpointError, Checkpoints, Restored
from .loop import Measurements
from .records import (
    Evaluation,
    NonFiniteLossError,
    Rates,
    Schedule,
    TrainingLog,
    TrainingResult,
)
from .sources import (
    BlockOrder,
    BucketedSource,
    IndexableSource,
    Source,
    StreamSource,
    as_buckets,
)
from .stopping import StopSignals

if TYPE_CHECKING:
    from .trainer import Trainer


class Group(tf.Module):
    """Iterators as one thing to save."""

    def __init__(self, iterators: dict[str, Any]) -> None:
        super().__init__()
        for name, iterator in iterators.items():
            setattr(self, name, iterator)


class Run:
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
                wants_stop = self.trainer.meeting.any(stop.received is not None)
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
        return self.trainer.meeting.any(self._spent() >= max_seconds)

    def _evaluate(
        self, report: Callable[[int, Evaluation, bool], Any] | None
    ) -> None:
        schedule = self.schedule
        if self.step % schedule.eval_every and not self.ends:
            return
        now, rank = self.trainer.evaluate(self.validation), self.trainer.rank
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
        streams = self.trainer.streams
        self.checkpoints.save(
            self.step, notes, Group(streams) if streams else None
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


def _rates(timed: np.ndarray) -> Rates | None:
    seconds, *counts = timed
    if seconds <= 0.0:
        return None
    return Rates(*(float(count / seconds) for count in counts))
