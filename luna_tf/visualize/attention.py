"""What the packed slots of a Luna model look at."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_HEAT = "inferno"
_COLOUR = "194, 65, 12"
_DARK = 2.0  # as a power of 2
_COLUMNS = 8  # maps in a row


def attention_over_images(
    images: np.ndarray,
    weights: np.ndarray,
    titles: Sequence[str] | None = None,
    max_slots: int = 16,
) -> Figure:
    """Draws the pack attention of every slot over pictures.

    One block of rows per picture: the picture, then a map for each slot, drawn
    over it. The brightest pixel of a map is the one with the most attention;
    the number above says how many pixels the attention is spread over (its
    perplexity).

    Args:
        images: `(pictures, height, width)`, grey.
        weights: `(pictures, slots, height * width)`, attention of the slots
            over pixels row by row, not negative. Slots with the most peaked
            attention come first.
        titles: one per picture.
        max_slots: most maps of a picture, eight in a row.

    Returns:
        A figure of its own, unknown to `pyplot`; save it with `savefig`.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:

    >>> import numpy as np
    >>> from luna_tf.visualize import attention_over_images
    >>> pictures, weights = np.eye(8)[None], np.full((1, 4, 64), 1 / 64)
    >>> figure = attention_over_images(pictures, weights)  # of 4 slots
    >>> figure.savefig("attention.png")
    """
    images, weights = np.asarray(images), np.asarray(weights, np.float64)
    if (
        images.ndim != 3
        or weights.ndim != 3
        or not 0 < len(images) == len(weights)
        or images[0].size != weights.shape[-1]
    ):
        raise ValueError(
            "`weights` must be (pictures, slots, pixels) for `images` of "
            "(pictures, height, width). Received shapes: "
            f"{weights.shape} and {images.shape}"
        )
    spread = perplexity(weights)
    shown = min(max_slots, weights.shape[1])
    columns = min(_COLUMNS, shown)
    rows = -(-shown // columns)  # of each picture
    figure = Figure(
        figsize=(1.35 * (columns + 1), 1.6 * rows * len(images)),
        dpi=130,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows * len(images), columns + 1, squeeze=False)
    for row, (image, maps) in enumerate(zip(images, weights, strict=True)):
        order = np.argsort(spread[row], kind="stable")[:shown]
        block = grid[rows * row : rows * (row + 1)]
        first = block[0, 0]
        first.imshow(image, cmap="gray", interpolation="nearest")
        first.set_title(titles[row] if titles else "", fontsize=8)
        for axes, slot in zip(block[:, 1:].flat, order, strict=False):
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.imshow(
                maps[slot].reshape(image.shape),
                cmap=_HEAT,
                alpha=0.65,
                vmin=0.0,
                interpolation="nearest",
            )
            pixels = f"{spread[row, slot]:,.0f} pixels"
            axes.set_title(f"slot {slot}: {pixels}", fontsize=7)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure


def perplexity(weights: np.ndarray) -> np.ndarray:
    """How many places attention is spread over.

    Args:
        weights: `(..., places)`, not negative; each row is scaled to sum 1.

    Returns:
        `(...)`, exponential of the entropy: 1 for a single place, the number
        of places for uniform attention.

    Example:

    >>> import numpy as np
    >>> perplexity(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    array([2., 1.])
    """
    shares = np.asarray(weights, np.float64)
    shares = shares / np.maximum(shares.sum(axis=-1, keepdims=True), 1e-30)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.exp(-(shares * logs).sum(axis=-1))


def attention_over_tokens(tokens: Sequence[str], lifts: np.ndarray) -> str:
    """Writes tokens as HTML, the darker the more attention they get.

    Args:
        tokens: texts of the tokens; they are escaped.
        lifts: `(tokens,)`, attention over what it would be if all tokens got
            as much. Tokens at 1 and below are plain; the largest is the
            darkest, if it is 4 or more.

    Returns:
        Spans of HTML.

    Raises:
        ValueError: there is not one number per token.

    Example:

    >>> import numpy as np
    >>> from luna_tf.visualize import attention_over_tokens
    >>> print(attention_over_tokens(["a ", "film "], np.array([0.2, 4.0])))
    a <span style="background: rgba(194, 65, 12, 1.00)">film </span>
    """
    lifts = np.asarray(lifts, np.float64)
    if lifts.shape != (len(tokens),):
        raise ValueError(
            "`lifts` must have one entry per token. Received: "
            f"{len(tokens)} tokens, lifts of shape {lifts.shape}"
        )
    logs = np.log2(np.maximum(np.nan_to_num(lifts), 1.0))
    shades = logs / max(_DARK, float(logs.max(initial=0.0)))
    spans = []
    for token, shade in zip(tokens, shades, strict=True):
        text = html.escape(token)
        if shade < 0.05:
            spans.append(text)
        else:
            spans.append(
                f'<span style="background: rgba({_COLOUR}, {shade:.2f})">'
                f"{text}</span>"
            )
    return "".join(spans)
