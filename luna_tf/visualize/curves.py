"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

_TRAIN = "#8fb3d9"
_VALIDATION = "#c2410c"
_NEUTRAL = "#475569"
_GRID = "#e2e8f0"


def training_curves(
    history: Mapping[str, Sequence[float]],
    reference_lines: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Draws loss, accuracy, learning rate and speed against the step.

    Args:
        history: columns of one length: `step` and any of `train_loss`,
            `train_accuracy`, `validation_loss`, `validation_accuracy`
            (accuracies between 0 and 1), `train_learning_rate`,
            `train_examples_per_second`. NaN marks steps without a value.
        reference_lines: label to accuracy (0 to 1) of lines to compare with.
        title: heading of the figure.

    Returns:
        A figure of its own, unknown to `pyplot`; save it with `savefig`.

    Raises:
        ValueError: when columns are missing or differ in length.

    Example:

    >>> from luna_tf.visualize import training_curves
    >>> figure = training_curves(
    ...     {"step": [1, 2], "train_loss": [2.3, 2.1]},
    ...     reference_lines={"majority class": 0.17},
    ... )
    >>> figure.savefig("curves.png")
    """
    if "step" not in history:
        raise ValueError(
            "`history` needs a column `step`. Received columns: "
            f"{sorted(history)}"
        )
    columns = {n: np.asarray(c, np.float64) for n, c in history.items()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or columns["step"].ndim != 1:
        raise ValueError(
            "`history` must hold columns of one length. Received shapes: "
            f"{shapes}"
        )
    figure = Figure(figsize=(11.0, 6.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[2.6, 1.0])
    loss, accuracy, rate, speed = (
        figure.add_subplot(grid[row, column])
        for row in (0, 1)
        for column in (0, 1)
    )
    if title:
        figure.suptitle(title, fontsize=14, color=_NEUTRAL)

    _pair(loss, columns, "loss")
    _decorate(loss, "Loss", "cross-entropy (nats)")
    _pair(accuracy, columns, "accuracy")
    _decorate(accuracy, "Accuracy", "correct answers")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _reference_lines(accuracy, reference_lines or {})

    _curve(rate, columns, "train_learning_rate", color=_NEUTRAL)
    _decorate(rate, "Learning rate", "per update")
    rate.yaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
    rate.set_ylim(bottom=0.0)
    _curve(speed, columns, "train_examples_per_second", color=_NEUTRAL)
    _decorate(speed, "Speed", "examples/s")
    speed.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    speed.set_ylim(bottom=0.0)
    for axes in (rate, speed):
        axes.set_xlabel("training step", fontsize=11)
    last = max(float(np.max(columns["step"], initial=1.0)), 1.0)
    for axes in (loss, accuracy, rate, speed):
        axes.set_xlim(0.0, last)
    return figure


def _pair(axes: Axes, columns: dict[str, np.ndarray], name: str) -> None:
    _curve(axes, columns, f"train_{name}", color=_TRAIN, label="training")
    _curve(
        axes,
        columns,
        f"validation_{name}",
        color=_VALIDATION,
        label="validation",
        linewidth=2.2,
        marker="o",
        markersize=4,
    )
    if axes.lines:
        # Above the frame, where no curve can pass.
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=2,
            frameon=False,
            fontsize=11,
            borderaxespad=0.2,
        )


def _curve(
    axes: Axes, columns: dict[str, np.ndarray], name: str, **style: Any
) -> None:
    if name not in columns:
        return
    present = np.isfinite(columns[name])
    if present.any():
        axes.plot(
            columns["step"][present],
            columns[name][present],
            **{"linewidth": 1.6, "clip_on": False, **style},
        )


def _decorate(axes: Axes, heading: str, unit: str) -> None:
    axes.set_title(heading, loc="left", fontsize=13, fontweight="bold")
    axes.set_ylabel(unit, fontsize=11)
    axes.tick_params(labelsize=10, colors=_NEUTRAL)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_NEUTRAL)


def _reference_lines(axes: Axes, lines: Mapping[str, float]) -> None:
    if not lines:
        return
    for value in lines.values():
        axes.axhline(
            value, color=_NEUTRAL, linewidth=1.2, linestyle=(0, (5, 3))
        )
    axes.set_ylim(bottom=0.0)
    # Labels stand beside the axes; close ones are pushed apart.
    gap = 0.11 * axes.get_ylim()[1]
    position = -np.inf
    for label, value in sorted(lines.items(), key=lambda item: item[1]):
        position = max(value, position + gap)
        axes.annotate(
            f"{label}\n{100 * value:.1f} %",
            xy=(1.015, position),
            xycoords=("axes fraction", "data"),
            fontsize=10,
            color=_NEUTRAL,
            verticalalignment="center",
            annotation_clip=False,
        )
