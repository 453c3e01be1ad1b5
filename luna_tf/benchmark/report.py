"""Tables of a benchmark, for a terminal and as Markdown."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from luna_tf.benchmark import goals, memory, timing
from luna_tf.benchmark.cases import OK, SOFTMAX, TOKEN, Row, Settings


@dataclasses.dataclass(frozen=True)
class Table:
    """A heading with lines of cells below column names.

    Args:
        heading: what the table shows, with units.
        columns: names.
        lines: as many cells as columns in each.
    """

    heading: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def machine(device: str, backend: str) -> str:
    """One line on the machine: processor, memory, versions, device.

    Args:
        device: from `Runner.device`.
        backend: name of the Keras backend.
    """
    model = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    cores = len(os.sched_getaffinity(0))
    parts = [
        f"{model}, {cores} cores, {memory.physical_bytes() / 2**30:.0f} GiB",
        f"device {device}",
        f"Python {platform.python_version()}",
    ]
    for package in ("keras", backend):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:  # a nightly of another name
            parts.append(package)
    return "; ".join(parts)


def describe(settings: Settings) -> str:
    """One line on what all cases have in common."""
    text = (
        f"One attention layer, forward and backward: d={settings.width}, "
        f"H={settings.heads}, batch {settings.batch}, {settings.precision}, "
        f"key and value {'' if settings.tie_key_value else 'not '}tied"
    )
    if settings.masked:
        text += ", padding mask"
    if settings.dropout:
        text += f", dropout {settings.dropout:g}"
    return text + "."


def tables(rows: Sequence[Row]) -> list[Table]:
    """Everything that a comparison shows, except the goals.

    Args:
        rows: what was measured.

    Returns:
        Per l a table of times and one of memory, then the exponents.
    """
    result = []
    for slots in packed_lengths(rows):
        result.append(_times(rows, slots))
        if any(row.extra_bytes for row in rows):
            result.append(_memory(rows, slots))
    result.append(_exponents(rows))
    return result


def packed_lengths(rows: Sequence[Row]) -> list[int]:
    """The values of l in ascending order; [0] when there is no Luna."""
    found = {row.case.packed_length for row in rows} - {0}
    return sorted(found) or [0]


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.case.contender for row in rows))


def _lengths(rows: Sequence[Row]) -> list[int]:
    return sorted({row.case.length for row in rows})


def _times(rows: Sequence[Row], slots: int) -> Table:
    names = _names(rows)
    pairs = _pairs(
        names,
        {
            goals.LUNA: ("softmax", "textbook", "direct"),
            goals.CAUSAL_LUNA: ("official", "causal_softmax"),
        },
    )
    lines = []
    for length in _lengths(rows):
        line = [str(length)]
        for name in names:
            row = goals.fastest(rows, name, length, slots)
            line.append(
                _milliseconds(row) if row else _why(rows, name, length, slots)
            )
        for reference, name in pairs:
            quartiles = goals.ratio(rows, reference, name, length, slots)
            line.append(_quartiles(quartiles, "{:.2f}") if quartiles else "")
        lines.append(line)
    return Table(
        f"Time per step at l={slots}, ms: median (quartiles), fastest mode",
        ["n", *names, *(f"{a} / {b}" for a, b in pairs)],
        lines,
    )


def _pairs(
    names: Sequence[str], rivals: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """Pairs (rival, Luna) of which both were measured."""
    return [
        (rival, luna)
        for luna, all_rivals in rivals.items()
        for rival in all_rivals
        if luna in names and rival in names
    ]


def _milliseconds(row: Row) -> str:
    values = timing.quartiles([1e3 * sample for sample in row.samples])
    pattern = "{:.0f}" if values[1] >= 100 else "{:.1f}"
    return f"{_quartiles(values, pattern)} {row.case.mode}"


def _quartiles(values: tuple[float, float, float], pattern: str) -> str:
    low, middle, high = (pattern.format(value) for value in values)
    return f"{middle} ({low}–{high})"


def _why(rows: Sequence[Row], name: str, length: int, slots: int) -> str:
    """The reason for an empty cell, that of the mode that came furthest."""
    reasons = [
        row.status
        for row in goals.find(rows, name, length, slots)
        if row.status != OK
    ]
    return reasons[-1] if reasons else ""


def _memory(rows: Sequence[Row], slots: int) -> Table:
    names = _names(rows)
    pairs = _pairs(
        names,
        {
            goals.LUNA: ("softmax",),
            goals.CAUSAL_LUNA: ("official", "causal_softmax"),
        },
    )
    lines = []
    for length in _lengths(rows):
        line = [str(length)]
        sizes = {n: goals.leanest(rows, n, length, slots) for n in names}
        for name, size in sizes.items():
            line.append(
                f"{size / 2**20:.1f}"
                if size
                else _why(rows, name, length, slots)
            )
        for rival, name in pairs:
            more, less = sizes[rival], sizes[name]
            line.append(f"{more / less:.1f}" if more and less else "")
        lines.append(line)
    columns = ["n", *names, *(f"{a} / {b}" for a, b in pairs)]
    return Table(
        f"Extra memory per step at l={slots}, MiB: peak above inputs and "
        "weights, leanest mode",
        columns,
        lines,
    )


def _exponents(rows: Sequence[Row]) -> Table:
    lines = []
    for name in _names(rows):
        for slots in [0] if name in SOFTMAX else packed_lengths(rows):
            line = [name, str(slots) if slots else "-"]
            for is_memory in (False, True):
                points = goals.curve(rows, name, slots, is_memory)
                line += [_fit(points), _fit(dict([*points.items()][-3:]))]
            lines.append(line)
    return Table(
        "Growth exponent e in c·n^e, least squares over the n in brackets",
        [
            "contender",
            "l",
            "time",
            "time, largest n",
            "memory",
            "memory, largest n",
        ],
        lines,
    )


def _fit(points: dict[int, float]) -> str:
    if len(points) < 2:
        return ""
    exponent = timing.growth_exponent(list(points), list(points.values()))
    return f"{exponent:.2f} ({min(points)}–{max(points)})"


def rule_table(
    rows: Sequence[Row], orders: Callable[[int], tuple[str, str]]
) -> Table:
    """What the cost rule chose against what was measured faster.

    Each attention is judged with the other one in the order that the rule
    chose for it. A choice is right when it is not slower beyond the spread:
    when the quartiles of its paired ratio reach down to 1.

    Args:
        rows: times of the four pairs of orders.
        orders: l to the rule's orders of pack and unpack.

    Returns:
        One line per l and attention.
    """
    lines = []
    for slots in packed_lengths(rows):
        chosen = orders(slots)
        for index, attention in enumerate(("pack", "unpack")):
            line = [str(slots), attention, chosen[index]]
            pair = []
            for order in ("absorbed", "direct"):
                mixed = list(chosen)
                mixed[index] = order
                name = mixed[0] if mixed[0] == mixed[1] else "_".join(mixed)
                length = rows[0].case.length
                pair.append(goals.fastest(rows, name, length, slots))
            absorbed, direct = pair
            if absorbed is None or direct is None:
                lines.append([*line, "", "", "not measured"])
                continue
            low, middle, high = timing.paired_ratio(
                absorbed.samples, direct.samples
            )
            faster = "absorbed" if middle < 1 else "direct"
            is_right = low <= 1 if chosen[index] == "absorbed" else high >= 1
            within = low <= 1 <= high
            lines.append(
                [
                    *line,
                    f"{faster}{' (within the spread)' if within else ''}",
                    _quartiles((low, middle, high), "{:.2f}"),
                    "right" if is_right else "WRONG",
                ]
            )
    return Table(
        "The cost rule of contraction='auto'"
        + (f" at n={rows[0].case.length}" if rows else ""),
        [
            "l",
            "attention",
            "chosen",
            "measured faster",
            "absorbed / direct",
            "rule",
        ],
        lines,
    )


def token_table(rows: Sequence[Row]) -> Table:
    """Time of one token and size of the cache before it, by position."""
    columns = ["n"]
    for name in TOKEN:
        columns += [f"{name}, us", "cache, KiB"]
    lines = []
    for length in _lengths(rows):
        line = [str(length)]
        for name in TOKEN:
            found = [
                row
                for row in rows
                if (row.case.contender, row.case.length) == (name, length)
            ]
            for row in found:
                if not row.samples:
                    line += [row.status, ""]
                    continue
                values = timing.quartiles([1e6 * s for s in row.samples])
                size = (row.cache_bytes or 0) / 2**10
                line += [_quartiles(values, "{:.0f}"), f"{size:.1f}"]
        lines.append(line)
    return Table(
        "Time per generated token after n tokens: median (quartiles)",
        columns,
        lines,
    )


def goal_table(verdicts: Sequence[goals.Verdict]) -> Table:
    """The goals with what was measured."""
    return Table(
        "Goals (d=512, H=8, batch 2, 2 cores; contraction='auto')",
        ["goal", "measured", ""],
        [[v.goal, v.figure, v.word] for v in verdicts],
    )


def to_text(table: Table) -> str:
    """A table for a terminal."""
    grid = [list(table.columns), *(list(line) for line in table.lines)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  " + "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True))
        for line in grid
    ]
    return "\n".join([table.heading, *(line.rstrip() for line in lines)])


def to_markdown(table: Table) -> str:
    """A table as Markdown, under a heading of the second level."""
    lines = [f"## {table.heading}", ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(line) + " |" for line in table.lines]
    return "\n".join(lines)
