"""Learning rate schedules.

Keras calls a schedule with `optimizer.iterations`: the number of updates that
are already done, so the first update is made at `schedule(0)`. The official
Luna recipes count in the same way, hence no shift by one anywhere here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="luna_tf")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then decay with the inverse square root of the step.

    With `u` updates done, the next one is made at

        initial + u · (learning_rate - initial) / warmup_steps   (u < warmup)
        learning_rate · sqrt(warmup_steps / u)                   (otherwise)

    Args:
        learning_rate: peak of the schedule, reached at `u = warmup_steps`.
        warmup_steps: updates of linear growth, at least 1 (the decay is
            scaled by it).
        initial_learning_rate: learning rate of the very first update.
        name: name of the schedule.

    Raises:
        ValueError: when an argument is out of range.

    Example:

    >>> import keras
    >>> schedule = InverseSquareRoot(1e-4, warmup_steps=1000)
    >>> optimizer = keras.optimizers.AdamW(schedule)
    >>> [f"{float(schedule(step)):.1e}" for step in (0, 500, 1000, 4000)]
    ['1.0e-07', '5.0e-05', '1.0e-04', '5.0e-05']
    """

    def __init__(
        self,
        learning_rate: float,
        warmup_steps: int,
        initial_learning_rate: float = 1e-7,
        name: str = "inverse_square_root",
    ) -> None:
        super().__init__()
        _check_positive("learning_rate", learning_rate)
        if warmup_steps < 1:
            raise ValueError(
                f"`warmup_steps` must be at least 1. Received: {warmup_steps}"
            )
        if initial_learning_rate < 0:
            raise ValueError(
                "`initial_learning_rate` must not be negative. "
                f"Received: {initial_learning_rate}"
            )
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.initial_learning_rate = initial_learning_rate
        self.name = name

    def __call__(self, step: Any) -> Any:
        done = ops.cast(step, "float32")
        slope = self.learning_rate - self.initial_learning_rate
        slope = slope / self.warmup_steps
        growing = self.initial_learning_rate + done * slope
        scale = self.learning_rate * math.sqrt(self.warmup_steps)
        decaying = scale * ops.rsqrt(ops.maximum(done, 1.0))
        return ops.where(done < self.warmup_steps, growing, decaying)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="luna_tf")
class Milestones(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant but for a few sudden drops.

    With `u` updates done, the next one is made at

        initial + u · (learning_rate - initial) / warmup_steps   (u < warmup)
        learning_rate · factor^(milestones that are at most u)   (otherwise)

    Args:
        learning_rate: peak of the schedule, reached at `u = warmup_steps`.
        milestones: rising updates from which on the learning rate is
            multiplied once more; none before the end of the warm-up.
        factor: what it is multiplied by, more than 0 and at most 1.
        warmup_steps: updates of linear growth, 0 for none.
        initial_learning_rate: learning rate of the very first update.
        name: name of the schedule.

    Raises:
        ValueError: when an argument is out of range.

    Example:

    >>> import keras
    >>> schedule = Milestones(0.1, [300_000, 450_000], 0.1, warmup_steps=1000)
    >>> optimizer = keras.optimizers.SGD(schedule)
    >>> [f"{float(schedule(step)):.1e}" for step in (500, 1000, 300_000)]
    ['5.0e-02', '1.0e-01', '1.0e-02']
    """

    def __init__(
        self,
        learning_rate: float,
        milestones: Sequence[int],
        factor: float = 0.1,
        warmup_steps: int = 0,
        initial_learning_rate: float = 1e-7,
        name: str = "milestones",
    ) -> None:
        super().__init__()
        _check_positive("learning_rate", learning_rate)
        if warmup_steps < 0:
            raise ValueError(
                f"`warmup_steps` must not be negative. Received: {warmup_steps}"
            )
        milestones = [int(milestone) for milestone in milestones]
        rising = sorted(set(milestones)) == milestones
        if not rising or (milestones and milestones[0] < max(warmup_steps, 1)):
            raise ValueError(
                "`milestones` must rise, from `warmup_steps` "
                f"({warmup_steps}) or later. Received: {milestones}"
            )
        if not 0.0 < factor <= 1.0:
            raise ValueError(
                "`factor` must be more than 0 and at most 1. "
                f"Received: {factor}"
            )
        if initial_learning_rate < 0:
            raise ValueError(
                "`initial_learning_rate` must not be negative. "
                f"Received: {initial_learning_rate}"
            )
        self.learning_rate = learning_rate
        self.milestones = milestones
        self.factor = factor
        self.warmup_steps = warmup_steps
        self.initial_learning_rate = initial_learning_rate
        self.name = name

    def __call__(self, step: Any) -> Any:
        done = ops.cast(step, "float32")
        slope = (self.learning_rate - self.initial_learning_rate) / max(
            self.warmup_steps, 1
        )
        rate = ops.where(
            done < self.warmup_steps,
            self.initial_learning_rate + slope * done,
            self.learning_rate,
        )
        for milestone in self.milestones:
            rate = ops.where(done < milestone, rate, rate * self.factor)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="luna_tf")
class CosineWithWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine down to the end of training.

    The warm-up reaches `learning_rate` with its last update and starts at
    `learning_rate / warmup_steps`, not at 0, so that no update is wasted.

    Args:
        learning_rate: peak of the schedule.
        train_steps: updates of the whole training, warm-up included.
        warmup_steps: updates of linear growth, 0 for none.
        final_fraction: what is left of `learning_rate` after `train_steps`
            updates and from then on, 0 to 1.
        name: name of the schedule.

    Raises:
        ValueError: when an argument is out of range.

    Example:

    >>> import keras
    >>> schedule = CosineWithWarmup(1e-3, train_steps=2000, warmup_steps=100)
    >>> optimizer = keras.optimizers.AdamW(schedule)
    >>> [f"{float(schedule(step)):.1e}" for step in (0, 99, 1050, 2000)]
    ['1.0e-05', '1.0e-03', '5.0e-04', '0.0e+00']
    """

    def __init__(
        self,
        learning_rate: float,
        train_steps: int,
        warmup_steps: int = 0,
        final_fraction: float = 0.0,
        name: str = "cosine_with_warmup",
    ) -> None:
        super().__init__()
        _check_positive("learning_rate", learning_rate)
        _check_steps(train_steps, warmup_steps)
        if not 0.0 <= final_fraction <= 1.0:
            raise ValueError(
                "`final_fraction` must lie between 0 and 1. "
                f"Received: {final_fraction}"
            )
        self.learning_rate = learning_rate
        self.train_steps = train_steps
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.name = name

    def __call__(self, step: Any) -> Any:
        done = ops.cast(step, "float32")
        growing = (done + 1.0) / max(self.warmup_steps, 1)
        falling_steps = max(self.train_steps - self.warmup_steps, 1)
        progress = (done - self.warmup_steps) / falling_steps
        cosine = ops.cos(math.pi * ops.clip(progress, 0.0, 1.0))
        share = self.final_fraction
        falling = share + (1.0 - share) * 0.5 * (1.0 + cosine)
        factor = ops.where(done < self.warmup_steps, growing, falling)
        return self.learning_rate * factor

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "train_steps": self.train_steps,
            "warmup_steps": self.warmup_steps,
            "final_fraction": self.final_fraction,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="luna_tf")
class Polynomial(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a power of the share of training that is left.

    With `u` updates done, the next one is made at

        u · learning_rate / warmup_steps                         (u <= warmup)
        learning_rate · (1 - (u - warmup) / (train - warmup)) ** power

    as in fairseq, whose recipes for GLUE use it with a power of 1.

    Args:
        learning_rate: peak of the schedule, reached at `u = warmup_steps`.
        train_steps: updates of the whole training, warm-up included; the rate
            is 0 from then on.
        warmup_steps: updates of linear growth, 0 for none.
        power: 1 is a straight line.
        name: name of the schedule.

    Raises:
        ValueError: when an argument is out of range.

    Example:

    >>> import keras
    >>> schedule = Polynomial(1e-4, train_steps=20_000, warmup_steps=1_000)
    >>> optimizer = keras.optimizers.AdamW(schedule)
    >>> [f"{float(schedule(step)):.1e}" for step in (500, 1000, 10_500, 20_000)]
    ['5.0e-05', '1.0e-04', '5.0e-05', '0.0e+00']
    """

    def __init__(
        self,
        learning_rate: float,
        train_steps: int,
        warmup_steps: int = 0,
        power: float = 1.0,
        name: str = "polynomial",
    ) -> None:
        super().__init__()
        _check_positive("learning_rate", learning_rate)
        _check_positive("power", power)
        _check_steps(train_steps, warmup_steps)
        self.learning_rate = learning_rate
        self.train_steps = train_steps
        self.warmup_steps = warmup_steps
        self.power = power
        self.name = name

    def __call__(self, step: Any) -> Any:
        done = ops.cast(step, "float32")
        growing = done / max(self.warmup_steps, 1)
        falling_steps = max(self.train_steps - self.warmup_steps, 1)
        progress = (done - self.warmup_steps) / falling_steps
        falling = (1.0 - ops.clip(progress, 0.0, 1.0)) ** self.power
        factor = ops.where(done < self.warmup_steps, growing, falling)
        return self.learning_rate * factor

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "train_steps": self.train_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
            "name": self.name,
        }


def _check_steps(train_steps: int, warmup_steps: int) -> None:
    if train_steps < 1:
        raise ValueError(
            f"`train_steps` must be at least 1. Received: {train_steps}"
        )
    if not 0 <= warmup_steps <= train_steps:
        raise ValueError(
            "`warmup_steps` must lie between 0 and `train_steps` "
            f"({train_steps}). Received: {warmup_steps}"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` must be positive. Received: {value}")
