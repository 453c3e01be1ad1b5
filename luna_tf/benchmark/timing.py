"""Interleaved timing, and the statistics of paired samples."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

# Fewer rounds have no quartiles worth the name, whatever the time allows.
MINIMUM_ROUNDS = 3


def rounds(
    steps: Mapping[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    announce: Callable[[str], None] = lambda name: None,
) -> Iterator[dict[str, float]]:
    """Times all steps in turn, in rounds of shuffled order.

    Whatever slows the machine for a while slows all of a round, so ratios
    within a round stay. The order changes because a step finds the caches and
    the memory as the one before it left them. Steps must be warm: nothing is
    left out here. Python's garbage collector rests while a round runs.

    Args:
        steps: name to a function that comes back when its work is done.
        repeats: number of rounds.
        seconds: time for the rounds together. The round under way is finished,
            and there are three in any case, or `repeats` if fewer.
        clock: seconds since any fixed moment; tests pass their own.
        announce: called with its name before each step, outside of its time.

    Yields:
        Name to seconds, one dict per round.
    """
    names = list(steps)
    # Shuffled, so that no step always runs right after the same other one;
    # seeded, so that two runs do the same.
    shuffle = random.Random(0).shuffle
    started = clock()
    least = min(repeats, MINIMUM_ROUNDS)
    for number in range(repeats):
        if number >= least and clock() - started > seconds:
            return
        gc.collect()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            measured = {}
            shuffle(names)
            for name in names:
                step = steps[name]
                announce(name)
                before = clock()
                result = step()
                measured[name] = clock() - before
                # Freed outside of the measurement of the next step.
                del result
        finally:
            if was_enabled:
                gc.enable()
        yield measured


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile.

    Args:
        values: at least one number.

    Returns:
        Three numbers, interpolated linearly between neighbours.
    """
    low, middle, high = np.quantile(
        np.asarray(values, np.float64), (0.25, 0.5, 0.75)
    )
    return float(low), float(middle), float(high)


def paired_ratio(
    samples: Sequence[float], reference: Sequence[float]
) -> tuple[float, float, float]:
    """Quartiles of `samples / reference`, taken round by round.

    Args:
        samples: seconds by round.
        reference: seconds of another step in the same rounds.

    Returns:
        First quartile, median and third quartile of the ratios.

    Raises:
        ValueError: when the two do not come from the same rounds.
    """
    if len(samples) != len(reference) or not samples:
        raise ValueError(
            "Ratios need samples of the same rounds. Received: "
            f"{len(samples)} and {len(reference)} samples."
        )
    return quartiles([a / b for a, b in zip(samples, reference, strict=True)])


def growth_exponent(lengths: Sequence[float], values: Sequence[float]) -> float:
    """The `e` of the law `value = c · length ** e` that fits best.

    Args:
        lengths: at least two different lengths.
        values: a positive number (seconds, bytes) for each.

    Returns:
        Slope of the line of least squares through the logarithms.

    Raises:
        ValueError: for fewer than two lengths or values of 0 or less.
    """
    if len(set(lengths)) < 2 or min(values) <= 0:
        raise ValueError(
            "A fit needs two lengths and positive values. Received: "
            f"lengths={list(lengths)}, values={list(values)}"
        )
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
