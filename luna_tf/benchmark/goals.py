"""What was promised, held against what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from luna_tf.benchmark import timing
from luna_tf.benchmark.cases import SOFTMAX, Row, Settings

LUNA = "auto"
CAUSAL_LUNA = "chunked"
LENGTH = 4096
# What the goals are about; with other settings there is nothing to judge.
SETTINGS = Settings()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One goal.

    Args:
        goal: what was promised.
        figure: what was measured, or what is missing.
        met: whether the goal is met, None when it was not measured.
    """

    goal: str
    figure: str
    met: bool | None

    @property
    def word(self) -> str:
        """`met`, `NOT MET` or `not measured`."""
        words = {True: "met", False: "NOT MET", None: "not measured"}
        return words[self.met]


def find(
    rows: Sequence[Row], contender: str, length: int, packed_length: int
) -> list[Row]:
    """The rows of a contender at one size, one per mode."""
    slots = 0 if contender in SOFTMAX else packed_length
    return [
        row
        for row in rows
        if (row.case.contender, row.case.length, row.case.packed_length)
        == (contender, length, slots)
    ]


def fastest(
    rows: Sequence[Row], contender: str, length: int, packed_length: int
) -> Row | None:
    """The row of a contender's fastest mode at one size, None without time."""
    timed = [
        row
        for row in find(rows, contender, length, packed_length)
        if row.samples
    ]
    return min(timed, key=lambda row: row.median or 0.0, default=None)


def leanest(
    rows: Sequence[Row], contender: str, length: int, packed_length: int
) -> int | None:
    """Extra bytes of a contender's most frugal mode at one size."""
    sizes = [
        row.extra_bytes
        for row in find(rows, contender, length, packed_length)
        if row.extra_bytes
    ]
    return min(sizes, default=None)


def ratio(
    rows: Sequence[Row],
    contender: str,
    reference: str,
    length: int,
    packed_length: int,
) -> tuple[float, float, float] | None:
    """Quartiles of time over time, each in its fastest mode, round by round.

    Args:
        rows: all rows.
        contender: above the line.
        reference: below the line.
        length: n.
        packed_length: l.

    Returns:
        First quartile, median, third quartile; None when one has no time.
    """
    above = fastest(rows, contender, length, packed_length)
    below = fastest(rows, reference, length, packed_length)
    if above is None or below is None:
        return None
    rounds = min(len(above.samples), len(below.samples))
    return timing.paired_ratio(above.samples[:rounds], below.samples[:rounds])


def verdicts(
    rows: Sequence[Row], settings: Settings = SETTINGS, length: int = LENGTH
) -> list[Verdict]:
    """Judges all goals; they hold for d=512, H=8, batch 2 on 2 cores.

    Args:
        rows: what was measured.
        settings: how; nothing is judged unless they are `SETTINGS`.
        length: n of the goals that name one.

    Returns:
        One verdict per goal.
    """
    if settings != SETTINGS:
        rows = ()
    found = [
        _speed(rows, "softmax", LUNA, length, 15.0, " (aim: 20)"),
        _speed(rows, "direct", LUNA, length, 2.2, ""),
        _not_slower(rows, length, 64),
        _not_slower(rows, length, 256),
    ]
    found += [_growth(rows, slots) for slots in (16, 64, 256)]
    found += [
        _memory(rows, "softmax", LUNA, length, slots, 30)
        for slots in (16, 64, 256)
    ]
    return found


def causal_verdicts(
    rows: Sequence[Row],
    token_rows: Sequence[Row],
    settings: Settings = SETTINGS,
    length: int = LENGTH,
) -> list[Verdict]:
    """Judges the goals of causal Luna, as `verdicts` does those of Luna.

    Args:
        rows: the layers.
        token_rows: one token at a position.
        settings: how; nothing is judged unless they are `SETTINGS`.
        length: n of the goals for layers.

    Returns:
        One verdict per goal.
    """
    if settings != SETTINGS:
        rows = token_rows = ()
    return [
        _speed(rows, "official", CAUSAL_LUNA, length, 6.0, ""),
        _memory(rows, "official", CAUSAL_LUNA, length, 16, 10),
        _speed(rows, "causal_softmax", CAUSAL_LUNA, length, 3.0, ""),
        _constant_time(token_rows),
        _constant_cache(token_rows),
    ]


def _constant_time(rows: Sequence[Row]) -> Verdict:
    short, long = 128, 8192
    goal = f"time per token at n={long} at most 1.2 of that at n={short}"
    times = [fastest(rows, "chunked_token", n, 16) for n in (long, short)]
    if times[0] is None or times[1] is None:
        return Verdict(goal, "", None)
    low, middle, high = timing.paired_ratio(times[0].samples, times[1].samples)
    figure = f"{middle:.3f} ({low:.3f} to {high:.3f})"
    return Verdict(goal, figure, middle <= 1.2)


def _constant_cache(rows: Sequence[Row]) -> Verdict:
    goal = "size of the cache independent of n"
    sizes = {
        row.case.length: row.cache_bytes
        for row in rows
        if row.case.contender == "chunked_token" and row.cache_bytes
    }
    if len(sizes) < 2:
        return Verdict(goal, "", None)
    kinds = sorted(set(sizes.values()))
    figure = " or ".join(f"{size / 2**10:.1f} KiB" for size in kinds)
    figure += f" at n={', '.join(map(str, sorted(sizes)))}"
    return Verdict(goal, figure, len(kinds) == 1)


def _speed(
    rows: Sequence[Row],
    reference: str,
    contender: str,
    length: int,
    factor: float,
    remark: str,
) -> Verdict:
    goal = (
        f"n={length}, l=16: at least {factor:g} times faster "
        f"than {reference}{remark}"
    )
    quartiles = ratio(rows, reference, contender, length, 16)
    if quartiles is None:
        return Verdict(goal, "", None)
    low, middle, high = quartiles
    figure = f"{middle:.2f} times ({low:.2f} to {high:.2f})"
    return Verdict(goal, figure, middle >= factor)


def _not_slower(
    rows: Sequence[Row], length: int, packed_length: int
) -> Verdict:
    goal = (
        f"n={length}, l={packed_length}: not slower than direct beyond the "
        "spread"
    )
    quartiles = ratio(rows, LUNA, "direct", length, packed_length)
    if quartiles is None:
        return Verdict(goal, "", None)
    low, middle, high = quartiles
    figure = f"{middle:.3f} of its time ({low:.3f} to {high:.3f})"
    return Verdict(goal, figure, low <= 1.0)


def _growth(rows: Sequence[Row], packed_length: int) -> Verdict:
    goal = f"l={packed_length}: growth exponent at most 1.1 up to n=65536"
    points = curve(rows, LUNA, packed_length)
    if len(points) < 2 or max(points) < 65536:
        return Verdict(goal, "", None)
    # Over short inputs too, a fixed cost would make the slope look flatter.
    long = {n: seconds for n, seconds in points.items() if n >= LENGTH}
    exponents, figures = [], []
    for fitted in (points, long):
        if len(fitted) > 1:
            exponents.append(
                timing.growth_exponent(list(fitted), list(fitted.values()))
            )
            figures.append(f"{exponents[-1]:.3f} from n={min(fitted)}")
    return Verdict(goal, ", ".join(figures), max(exponents) <= 1.1)


def _memory(
    rows: Sequence[Row],
    reference: str,
    contender: str,
    length: int,
    packed_length: int,
    factor: int,
) -> Verdict:
    goal = (
        f"n={length}, l={packed_length}: extra memory at most 1/{factor} of "
        f"{reference}"
    )
    luna = leanest(rows, contender, length, packed_length)
    other = leanest(rows, reference, length, packed_length)
    if not luna or not other:
        return Verdict(goal, "", None)
    figure = (
        f"1/{other / luna:.1f} ({luna / 2**20:.1f} MiB against "
        f"{other / 2**20:.1f} MiB)"
    )
    return Verdict(goal, figure, other >= factor * luna)


def curve(
    rows: Sequence[Row],
    contender: str,
    packed_length: int,
    memory: bool = False,
) -> dict[int, float]:
    """A contender's best time or memory by length.

    Args:
        rows: all rows.
        contender: whose.
        packed_length: l.
        memory: extra bytes of the leanest mode instead of median seconds of
            the mode that is fastest at the largest length.

    Returns:
        n to value, ascending, without what was not measured.
    """
    points: dict[int, float] = {}
    lengths = sorted({row.case.length for row in rows})
    if not memory:
        # One mode for the whole curve, the fastest where it is longest.
        last = [fastest(rows, contender, n, packed_length) for n in lengths]
        mode = next((r.case.mode for r in reversed(last) if r), None)
        rows = [row for row in rows if row.case.mode == mode]
    for length in lengths:
        value: float | None
        if memory:
            value = leanest(rows, contender, length, packed_length)
        else:
            row = fastest(rows, contender, length, packed_length)
            value = row.median if row else None
        if value:
            points[length] = value
    return points
