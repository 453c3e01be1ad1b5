"""What every head of every packed slot looks at, as a map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from luna_tf.visualize.attention import perplexity

_HEAT = "magma_r"
_MOST_LABELS = 80
_NARROW = 30


def attention_per_head(
    weights: np.ndarray,
    tokens: Sequence[str] | None = None,
    title: str = "",
    max_slots: int = 16,
) -> Figure:
    """Draws a map per head: slots downwards, tokens to the right.

    All heads share one scale, whose darkest colour is the largest weight. Slots
    are in the same order in all heads, those with the most peaked attention
    first; a row's number is its slot.

    Args:
        weights: `(heads, slots, tokens)`, pack attention of one example, not
            negative (Luna paper, equation 4).
        tokens: their texts, written below the last row of maps where they are
            80 or fewer; otherwise, and without them, positions are.
        title: heading of the figure.
        max_slots: most rows of a map.

    Returns:
        A figure of its own, unknown to `pyplot`; save it with `savefig`.

    Raises:
        ValueError: `weights` has another rank, or `tokens` another length.

    Example:

    >>> import numpy as np
    >>> from luna_tf.visualize import attention_per_head
    >>> weights = np.full((2, 3, 4), 0.25)
    >>> figure = attention_per_head(weights, ["to", "be", "or", "not"])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['head 0: 4.0 tokens a slot', 'head 1: 4.0 tokens a slot']
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 3 or not weights.size:
        raise ValueError(
            "`weights` must be (heads, slots, tokens), none of them 0. "
            f"Received shape: {weights.shape}"
        )
    heads, _, length = weights.shape
    if tokens is not None and len(tokens) != length:
        raise ValueError(
            f"`tokens` must be the {length} of `weights`. Received: "
            f"{len(tokens)} tokens"
        )
    spread = perplexity(weights)
    order = np.argsort(spread.mean(axis=0), kind="stable")[:max_slots]
    # Side by side long texts would be too small to read.
    columns = min(heads, 2 if length <= _NARROW else 1)
    rows = math.ceil(heads / columns)
    figure = Figure(
        figsize=(
            columns * min(max(4.0, 0.16 * length), 9.0),
            rows * max(1.2, 0.16 * len(order)) + 1.2,
        ),
        dpi=130,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    maps = []
    for head, axes in enumerate(grid.flat):
        if head >= heads:
            axes.set_axis_off()
            continue
        heat = axes.imshow(
            weights[head, order],
            aspect="auto",
            cmap=_HEAT,
            vmin=0.0,
            vmax=float(weights.max()),
            interpolation="nearest",
        )
        maps.append(heat)
        mean = spread[head].mean()
        axes.set_title(f"head {head}: {mean:,.1f} tokens a slot", fontsize=9)
        axes.set_yticks(range(len(order)), order, fontsize=6)
        if head + columns >= heads:  # the last row
            _label_tokens(axes, tokens, length)
        else:
            axes.set_xticks([])
        if head % columns == 0:
            axes.set_ylabel("slot", fontsize=8)
    figure.colorbar(maps[0], ax=grid, shrink=0.8, label="attention")
    return figure


def _label_tokens(
    axes: Axes, tokens: Sequence[str] | None, length: int
) -> None:
    if tokens is not None and length <= _MOST_LABELS:
        # A dollar sign would begin a formula.
        texts = [token.replace("$", r"\$") for token in tokens]
        axes.set_xticks(range(length), texts, rotation=90, fontsize=6)
    else:
        axes.tick_params(axis="x", labelsize=7)
        axes.set_xlabel("position", fontsize=8)
