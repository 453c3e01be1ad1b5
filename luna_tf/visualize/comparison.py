"""Several runs against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#475569")
_GRID = "#e2e8f0"


def comparison_curves(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str = "",
) -> Figure:
    """Draws one curve per run.

    Args:
        runs: name of a run to its values on the two axes, such as columns of
            its `history.csv`; points where either is NaN are left out.
        x_label: what is on the horizontal axis, with its unit.
        y_label: what is on the vertical axis, with its unit.
        title: heading of the figure.

    Returns:
        A figure of its own, unknown to `pyplot`; save it with `savefig`.

    Raises:
        ValueError: there is no run, too many of them to tell apart, or one
            without a single point.

    Example:

    >>> from luna_tf.visualize import comparison_curves
    >>> figure = comparison_curves(
    ...     {"Luna": ([5, 10], [1.0, 4.2]), "softmax": ([5, 10], [1.1, 3.9])},
    ...     "minutes of training",
    ...     "BLEU",
    ... )
    >>> figure.savefig("bleu.png")
    """
    if not 1 <= len(runs) <= len(_COLOURS):
        raise ValueError(
            f"`runs` must be 1 to {len(_COLOURS)}. Received: {len(runs)}"
        )
    figure = Figure(figsize=(8.0, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (name, (xs, ys)) in zip(_COLOURS, runs.items(), strict=False):
        x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(
                f"`runs[{name!r}]` must be two lists of one length. Received "
                f"shapes: {x.shape} and {y.shape}"
            )
        present = np.isfinite(x) & np.isfinite(y)
        if not present.any():
            raise ValueError(f"`runs[{name!r}]` has no point to draw.")
        axes.plot(
            x[present],
            y[present],
            color=colour,
            linewidth=2.0,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.set_xlim(left=0.0)
    low, high = axes.get_ylim()
    # Where curves stay far from 0, an axis from there would flatten them.
    if low < 0.5 * high:
        axes.set_ylim(bottom=min(0.0, low))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=11)
    return figure
