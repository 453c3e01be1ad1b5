"""What a training is asked for, tells on the way and leaves at its end."""

from __future__ import annotations

import dataclasses
import signal

import numpy as np


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
