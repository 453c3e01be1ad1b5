"""Intervals for measured proportions."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson score interval of a proportion, such as an accuracy.

    Unlike the textbook `p ± z·sqrt(p(1-p)/n)` it stays inside [0, 1] and
    keeps a sensible width when every answer is right or wrong.

    Args:
        successes: how many trials succeeded, 0 to `trials`.
        trials: how many trials there were, at least 1.
        confidence: coverage of the interval, strictly between 0 and 1.

    Returns:
        `(low, high)`, both fractions between 0 and 1.

    Raises:
        ValueError: when an argument is out of range.

    Example:

    >>> low, high = wilson_interval(45, 100)
    >>> round(low, 3), round(high, 3)
    (0.356, 0.548)
    """
    if trials < 1:
        raise ValueError(f"`trials` must be at least 1. Received: {trials}")
    if not 0 <= successes <= trials:
        raise ValueError(
            f"`successes` must lie between 0 and `trials` ({trials}). "
            f"Received: {successes}"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            "`confidence` must lie strictly between 0 and 1. "
            f"Received: {confidence}"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    proportion = successes / trials
    shrink = 1.0 + z * z / trials
    centre = (proportion + z * z / (2 * trials)) / shrink
    variance = proportion * (1.0 - proportion) / trials
    half_width = z * math.sqrt(variance + (z / (2 * trials)) ** 2) / shrink
    # At 0 and at `trials` one end is exact in theory: rounding must not move
    # it past the proportion itself.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == trials else min(1.0, centre + half_width)
    return low, high
