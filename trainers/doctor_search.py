"""The largest value that fits: doubling first, then bisection."""

from __future__ import annotations

from collections.abc import Callable

# The answer may be too small by one part in so many.
PRECISION = 16


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int | None:
    """Finds the largest value that fits, where every smaller one fits too.

    Args:
        fits: whether a value fits; takes long, so each is asked about once.
        start: first value to try, from 1 to `limit`.
        limit: largest value to try.

    Returns:
        A value that fits, and is too small by one part in `PRECISION` at most;
        None when not even 1 fits.

    Example:

    >>> largest(lambda value: value <= 100, start=8, limit=1000)
    100
    """
    # `low` fits, `high` does not; 0 and None are not known yet.
    low, value = 0, start
    high: int | None = None
    while high is None and low < limit:
        if fits(value):
            low = value
            value = min(2 * value, limit)
        else:
            high = value
    while high is not None and high - low > max(1, low // PRECISION):
        # Below the start nothing is known to fit: halve until something does.
        middle = (low + high) // 2 if low else max(high // 2, 1)
        if fits(middle):
            low = middle
        else:
            high = middle
    return low or None
