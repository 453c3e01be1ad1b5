"""Dropout whose random numbers can be drawn ahead of the computation.

Rematerialisation runs a block a second time in the backward pass. A stateful
seed would advance again there and drop other entries than the forward pass
did, so the gradient would belong to another function. Seeds are therefore
drawn once, outside, and handed in.
"""

from typing import Any

import keras


class _DrawnSeed(keras.random.SeedGenerator):
    """A seed generator that always returns the same, already drawn, seed."""

    def __init__(self, seed: Any):  # no super(): it would create a variable
        self._seed = seed
        self._initial_seed = seed  # the torch backend asks if it is None

    def next(self, ordered: bool = True) -> Any:
        return self._seed


def dropout(x: Any, rate: float, seed: Any) -> Any:
    """Drops entries of `x` with a drawn seed; the identity without one."""
    if seed is None or not rate:
        return x
    return keras.random.dropout(x, rate, seed=_DrawnSeed(seed))


def draw(generator: Any, rate: float, training: Any) -> Any:
    """Draws a seed for `dropout`, or None where nothing is to be dropped."""
    if not training or not rate:
        return None
    return generator.next()
