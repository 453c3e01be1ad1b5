"""How time and memory grow with the sequence length."""

from __future__ import annotations

import csv
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_NEUTRAL = "#475569"
_GRID = "#e2e8f0"
# Warm for what is compared against, cold for Luna, darker with more slots.
_COLORS = {
    "softmax": ("#c2410c",),
    "causal_softmax": ("#c2410c",),
    "official": ("#84a098", "#64748b", "#475569", "#334155"),
    "chunked": ("#60a5fa", "#2563eb", "#1e3a8a", "#0f172a"),
    "auto": ("#60a5fa", "#2563eb", "#1e3a8a", "#0f172a"),
    "absorbed": ("#0d9488", "#115e59", "#134e4a", "#042f2e"),
    "direct": ("#a855f7", "#7e22ce", "#581c87", "#3b0764"),
    "textbook": ("#84a098", "#64748b", "#475569", "#334155"),
}
_NAMES = {
    "softmax": "softmax attention",
    "auto": "Luna",
    "causal_softmax": "causal softmax attention",
    "chunked": "causal Luna",
}

_COLUMNS = {
    "contender",
    "mode",
    "length",
    "packed_length",
    "median_seconds",
    "extra_bytes",
}

Curves = Mapping[tuple[str, int], Mapping[int, float]]


def growth_plot(time: Curves, memory: Curves, title: str = "") -> Figure:
    """Draws time and extra memory per step against the length, log-log.

    Args:
        time: (contender, packed length l; 0 = none) to n to seconds.
        memory: likewise to bytes. An empty mapping leaves the panel out.
        title: heading of the figure.

    Returns:
        A figure of its own, unknown to `pyplot`; save it with `savefig`. The
        number behind a curve's name is its slope, the exponent of growth.

    Raises:
        ValueError: when there is no curve of time.

    Example:

    >>> from luna_tf.visualize import growth_plot
    >>> figure = growth_plot({("softmax", 0): {512: 0.03, 1024: 0.12}}, {})
    >>> figure.savefig("growth.png")
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['softmax attention   n$^{2.00}$']
    """
    if not any(time.values()):
        raise ValueError("`time` needs at least one point. Received none.")
    panels = [("Time per step", time, _seconds)]
    if any(memory.values()):
        panels.append(("Extra memory per step", memory, _bytes))
    figure = Figure(
        figsize=(6.4 * len(panels), 5.4), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    if title:
        lines = textwrap.wrap(title, 62 * len(panels))
        figure.suptitle("\n".join(lines), fontsize=12, color=_NEUTRAL)
    for index, (heading, curves, unit) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        _draw(axes, curves)
        _decorate(axes, heading, curves, unit)
    return figure


def growth_from_csv(
    path: str | os.PathLike, mode: str = "xla", title: str = ""
) -> Figure:
    """Draws the table of `luna-benchmark attention` or `causal`.

    Args:
        path: `attention.csv` or `causal.csv` of its output folder.
        mode: which of the table's modes to draw.
        title: heading of the figure. Defaults to the file's name and the mode.

    Returns:
        The figure of `growth_plot`, with all contenders and packed lengths.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another table, or has no measurement of this mode.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.visualize import growth_from_csv
    >>> rows = [
    ...     "mode,contender,packed_length,length,median_seconds,extra_bytes",
    ...     "xla,softmax,0,512,0.03,1e6",
    ...     "xla,softmax,0,1024,0.12,4e6",
    ... ]
    >>> _ = Path("attention.csv").write_text("\\n".join(rows))
    >>> growth_from_csv("attention.csv").savefig("growth.png")
    """
    path = Path(path)
    time: dict[tuple[str, int], dict[int, float]] = {}
    memory: dict[tuple[str, int], dict[int, float]] = {}
    modes = set()
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = _COLUMNS.difference(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} is no table of luna-benchmark: it has no column "
                f"{sorted(missing)[0]!r}."
            )
        for row in reader:
            modes.add(row["mode"])
            if row["mode"] != mode:
                continue
            key = row["contender"], int(row["packed_length"])
            for curves, column in (
                (time, "median_seconds"),
                (memory, "extra_bytes"),
            ):
                value = float(row[column] or 0)
                # Not measured, out of memory, or nothing that a logarithm has.
                if value > 0:
                    points = curves.setdefault(key, {})
                    points[int(row["length"])] = value
    if mode not in modes:
        raise ValueError(
            f"`mode` must be one of {', '.join(sorted(modes)) or 'none'} in "
            f"{path}. Received: {mode!r}"
        )
    if not time:
        raise ValueError(f"{path} has no time measured in mode {mode!r}.")
    return growth_plot(time, memory, title or f"{path.name}, {mode}")


def _draw(axes: Axes, curves: Curves) -> None:
    slots = sorted({slots for _, slots in curves if slots})
    # Legend from top to bottom as the curves end.
    order = sorted(curves, key=lambda key: -_at_end(curves[key]))
    for contender, packed_length in order:
        points = curves[contender, packed_length]
        if not points:
            continue
        shades = _COLORS.get(contender, (_NEUTRAL,))
        shade = slots.index(packed_length) if packed_length in slots else 0
        label = _NAMES.get(contender, f"Luna, {contender}")
        if packed_length:
            label += f", l = {packed_length}"
        lengths, values = list(points), list(points.values())
        if len(points) > 1:
            slope = np.polyfit(np.log(lengths), np.log(values), 1)[0]
            label += f"   n$^{{{slope:.2f}}}$"
        is_main = contender in _NAMES
        axes.plot(
            lengths,
            values,
            color=shades[min(shade, len(shades) - 1)],
            linewidth=2.2 if is_main else 1.3,
            linestyle="-" if is_main else (0, (4, 2)),
            marker="o",
            markersize=4.5 if is_main else 3,
            label=label,
            clip_on=False,
            zorder=3 if is_main else 2,
        )


def _at_end(points: Mapping[int, float]) -> float:
    """Value at the last length, over that length: curves are near-linear."""
    return points[max(points)] / max(points) if points else 0.0


def _decorate(
    axes: Axes,
    heading: str,
    curves: Curves,
    unit: Callable[[float, object], str],
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_title(heading, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel("sequence length n", fontsize=11)
    lengths = sorted({n for points in curves.values() for n in points})
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_length))
    values = [value for points in curves.values() for value in points.values()]
    # Whole decades, so that there are at least two labels.
    low, high = np.log10(min(values)), np.log10(max(values))
    axes.set_ylim(10 ** np.floor(low), 10 ** max(np.ceil(high), low + 0.1))
    axes.yaxis.set_major_formatter(FuncFormatter(unit))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=10, colors=_NEUTRAL)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_NEUTRAL)
    # Below the axes: log-log curves leave no corner free for certain.
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        handlelength=2.4,
        columnspacing=1.6,
    )


def _length(value: float, _: object) -> str:
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:g}"


def _seconds(value: float, _: object) -> str:
    if value >= 1:
        return f"{value:g} s"
    return f"{1e3 * value:g} ms"


def _bytes(value: float, _: object) -> str:
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {name}"
    return f"{value:g} B"
