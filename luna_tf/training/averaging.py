"""The mean of the weights of several checkpoints, often better than the last.

Ott et al., 2018, and Vaswani et al., 2017, section 6.1, translate with such a
mean of the last few checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from .checkpoints import Checkpoints


def last_steps(folder: str, count: int, every: int = 1) -> list[int]:
    """Steps of the newest whole checkpoints of a run.

    A run that was stopped, or saves often, has checkpoints that an undisturbed
    one has not. With `every`, both give the same steps, as long as they keep
    them: see `every` of `Checkpoints`.

    Args:
        folder: that of `Checkpoints`; any path that `tf.io.gfile` knows.
        count: how many, at least 1.
        every: leave out steps that are no multiple of this, at least 1, but
            for the newest, at which the run ended.

    Returns:
        At most `count` steps, oldest first; damaged checkpoints and those
        that were never finished are passed over.

    Raises:
        ValueError: `count` or `every` is below 1.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.training.checkpoints import Checkpoints
    >>> state = {"step": tf.Variable(0)}
    >>> checkpoints = Checkpoints("run", state, keep=9)
    >>> for step in (1000, 1500, 2000, 2300):
    ...     checkpoints.save(step, notes={})
    >>> last_steps("run", 2), last_steps("run", 3, every=1000)
    ([2000, 2300], [1000, 2000, 2300])
    """
    for name, value in (("count", count), ("every", every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}")
    checkpoints = Checkpoints(folder, {})
    whole: list[int] = []
    for step in reversed(checkpoints.steps()):
        if len(whole) == count:
            break
        is_regular = not whole or step % every == 0
        if is_regular and not checkpoints.problem_of(step):
            whole.insert(0, step)
    return whole


def average_checkpoints(
    model: keras.Model, folder: str, steps: Sequence[int]
) -> None:
    """Gives a model the mean of its weights at some steps.

    Sums are taken in float64. Integers, such as the states of random
    generators, are those of the last step. The model is changed only when
    all has been read.

    Args:
        model: the model that was trained, built; it gets the mean.
        folder: that of `Checkpoints`; any path that `tf.io.gfile` knows.
        steps: whose checkpoints to read, such as from `last_steps`.

    Raises:
        ValueError: there are no steps.
        CheckpointError: a checkpoint is not there or not whole, or is one of
            another model.

    Example:

    >>> import keras
    >>> from luna_tf.training.checkpoints import Checkpoints
    >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    >>> checkpoints = Checkpoints("run/checkpoints", {"model": model})
    >>> for step in (10, 20, 30):
    ...     _ = model.layers[0].bias.assign([step])
    ...     checkpoints.save(step, notes={})
    >>> steps = last_steps("run/checkpoints", 2)
    >>> average_checkpoints(model, "run/checkpoints", steps)
    >>> model.layers[0].bias.numpy()
    array([25.], dtype=float32)
    """
    if not steps:
        raise ValueError(f"steps must name a checkpoint. Received: {steps}")
    before = _values(model)
    sums = [np.zeros(value.shape, np.float64) for value in before]
    last = before
    checkpoints = Checkpoints(folder, {"model": model})
    try:
        for step in sorted(steps):
            checkpoints.read(step)
            last = _values(model)
            for total, value in zip(sums, last, strict=True):
                total += value.astype(np.float64)
    except BaseException:
        _assign(model, before)
        raise
    _assign(
        model,
        [
            (total / len(steps)).astype(value.dtype)
            if "float" in variable.dtype
            else value
            for variable, total, value in zip(
                model.variables, sums, last, strict=True
            )
        ],
    )


def _values(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable.numpy()) for variable in model.variables]


def _assign(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
