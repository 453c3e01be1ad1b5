"""Tables of what a Pathfinder contour can do at each of its paddles.

Everything is drawn on canvases: the picture with `pad` pixels around it, so
that what reaches over its edge need not be clipped. A place is an index into
the flattened canvas, and a step is a difference of places.

A paddle is given by its place and its *direction*, a row of the tables below.
The first 360 directions are the integer degrees, for the first paddle of a
contour, from -180 on. The others belong to paddles that continue one: paddle
`360 + j` was put at the `j`-th point of the circle of candidates and points
back.

The roundings below, rough as they are, decide which contours exist at 32
pixels: they are those of the program that made the published pictures.
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from luna_tf.data.lra.pathfinder_settings import PathfinderSettings

NUM_DEGREES = 360
# Grey values of masks are of 255. Two masks may overlap to a sum below 1.8.
OVERLAP_LIMIT = 459
# Weights of candidates in these units are exact integers on every machine.
WEIGHT_UNIT = 2**14
# Below 1e-4 (with nothing occupied, 255) there is nowhere to go.
LEAST_WEIGHT = math.ceil(WEIGHT_UNIT * 255 / 10_000)
_OPAQUE = 255


@dataclasses.dataclass(frozen=True, eq=False)
class Strokes:
    """Grey patches as lists of pixels, one patch per row.

    Args:
        steps: int64 `(patches, pixels)`, from the place of the patch. Short
            lists are filled up with pixels of value 0.
        values: uint8 `(patches, pixels)`.

    Example:

    >>> import numpy as np
    >>> strokes = Strokes(np.array([[0, 1, 8]]), np.array([[9, 5, 5]]))
    >>> canvas = np.zeros(24, np.uint8)  # 8 pixels wide
    >>> canvas[10 + strokes.steps[0]] = strokes.values[0]
    >>> canvas.reshape(3, 8)
    array([[0, 0, 0, 0, 0, 0, 0, 0],
           [0, 0, 9, 5, 0, 0, 0, 0],
           [0, 0, 5, 0, 0, 0, 0, 0]], dtype=uint8)
    """

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """Steps and patches for one size and margin; see the module's docstring.

    Args:
        width: of the canvas.
        pad: pixels around the picture.
        inside: uint8 `(width * width,)`, 1 in the picture.
        border: uint8 `(width * width,)`, 255 where no paddle may be.
        ring: int64 `(directions, candidates)`, from a pivot to where the next
            paddle may be put; as many as the direction with the most has.
        ring_ids: int64, same shape, the direction of that paddle.
        ring_weights: int64, same shape, its preference in `WEIGHT_UNIT`;
            0 fills up.
        disc: int64 `(pixels,)`, what counts as occupied around a candidate.
        moves: float64 `(directions, 2)`, rows and columns from one pivot to
            the next; see `land`.
        head_moves, pivot_moves: float64 `(360, 2)`, from a first paddle to
            its other tip, and from there to the pivot behind the paddle.
        ink: what a paddle looks like.
        masks: what it occupies.
        cores: the part of that which can be too much together with other
            paddles, as steps `(directions, pixels)` and the least grey value
            there, int16 of the same shape, that is too much.
        seed_degrees: int64, the directions that a first paddle can have; all
            others fail.
        seed_shapes: int64 `(360, pixels)`, the pixels that must be free for a
            first paddle.
        markers: discs that mark tips.
        marker_ids: int64 `(image_size, image_size)`, which of them to draw
            where.

    Example:

    >>> from luna_tf.data.lra.pathfinder_settings import settings
    >>> tables(settings(32, "hard"), margin=1).width
    52
    """

    width: int
    pad: int
    inside: np.ndarray
    border: np.ndarray
    ring: np.ndarray
    ring_ids: np.ndarray
    ring_weights: np.ndarray
    disc: np.ndarray
    moves: np.ndarray
    head_moves: np.ndarray
    pivot_moves: np.ndarray
    ink: Strokes
    masks: Strokes
    cores: tuple[np.ndarray, np.ndarray]
    seed_degrees: np.ndarray
    seed_shapes: np.ndarray
    markers: Strokes
    marker_ids: np.ndarray

    def place(self, points: np.ndarray) -> np.ndarray:
        """Returns the places of pixels `(..., 2)` of the picture."""
        return (points + self.pad) @ np.array([self.width, 1])


@functools.cache
def tables(settings: PathfinderSettings, margin: int) -> Tables:
    """Makes the tables, once per process.

    Args:
        settings: the kind of picture.
        margin: one of its margins.

    Returns:
        The tables, which nobody may change.

    Example:

    >>> from luna_tf.data.lra.pathfinder_settings import settings
    >>> tables(settings(32, "hard"), margin=1).ink.values.shape
    (378, 21)
    """
    length = settings.paddle_length
    size = settings.image_size
    reach = length + margin
    # The farthest look is from a pivot that has left the picture, over the
    # circle of candidates, to the edge of the disc around one of them.
    pad = 2 * reach + 2 * margin + 2
    width = size + 2 * pad

    circle = _circle(reach)
    degrees = np.arange(-180, 180) * np.pi / 180
    turns = _atan2(circle)
    angles = np.concatenate([degrees, turns])
    ring, ring_ids, ring_weights = _candidates(
        circle, turns, angles, settings.continuity, width
    )

    # Paddles that continue a contour are drawn backwards from its new tip.
    drawn = np.concatenate([degrees, _reverse(turns)])
    pairs = [_paddle(settings, margin, angle) for angle in drawn[:, None]]
    ink = np.stack([pair[0] for pair in pairs])
    masks = np.stack([pair[1] for pair in pairs])
    core_steps, core_values = _strokes(
        np.where(masks >= OVERLAP_LIMIT - _OPAQUE, masks, 0), width
    )
    cores = core_steps, OVERLAP_LIMIT - core_values.astype(np.int16)
    markers, small = _markers(settings)
    seed_degrees, seed_shapes = _seeds(masks[:NUM_DEGREES], reach, width)

    outside = np.pad(np.zeros((size, size), bool), pad, constant_values=True)
    free = size - 2 * settings.padding
    frame = np.pad(
        np.zeros((free, free), np.uint8),
        settings.padding,
        constant_values=_OPAQUE,
    )
    return Tables(
        width=width,
        pad=pad,
        inside=(~outside).astype(np.uint8).ravel(),
        border=np.pad(frame, pad).ravel(),
        ring=ring,
        ring_ids=ring_ids,
        ring_weights=ring_weights,
        disc=_disc(margin) @ np.array([width, 1]),
        moves=(length + 2 * margin) * unit(angles),
        head_moves=length * unit(degrees),
        pivot_moves=reach * unit(_reverse(degrees)),
        ink=Strokes(*_strokes(ink, width)),
        masks=Strokes(*_strokes(masks, width)),
        cores=cores,
        seed_degrees=seed_degrees,
        seed_shapes=seed_shapes,
        markers=Strokes(*_strokes(markers, width)),
        marker_ids=_marker_ids(size, small),
    )


def land(points: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Returns where moves end: integers, rounded up.

    Near 0, rounding noise may add a pixel. The published pictures have that
    from the same sum, and it shows: contours along their left edge keep
    farther from it than those along the others.

    Args:
        points: int64 `(..., 2)`.
        moves: float64 `(..., 2)`.

    Returns:
        int64 `(..., 2)`.

    Example:

    >>> import numpy as np
    >>> land(np.array([2, 2]), np.array([0.5, -0.5]))
    array([3, 2])
    """
    return np.ceil(points + moves).astype(np.int64)


def unit(angles: np.ndarray) -> np.ndarray:
    """Returns sines and cosines, float64 `(..., 2)`.

    Those of numpy depend on the processor in their last bit, which `land`
    may make a pixel.

    Example:

    >>> import numpy as np
    >>> unit(np.zeros(3))
    array([[0., 1.],
           [0., 1.],
           [0., 1.]])
    """
    pairs = [(math.sin(angle), math.cos(angle)) for angle in angles.ravel()]
    return np.array(pairs).reshape(*angles.shape, 2)


def _atan2(points: np.ndarray) -> np.ndarray:
    return np.array([math.atan2(y, x) for y, x in points])


def _reverse(angles: np.ndarray) -> np.ndarray:
    return np.where(angles < 0, angles + np.pi, angles - np.pi)


def _circle(radius: int) -> np.ndarray:
    """The pixels (int64) on a circle, about one per pixel of its length."""
    turns = np.arange(0, 360, 360 / (2 * np.pi * radius)) * np.pi / 180
    points = radius * unit(turns)
    # Coordinates of pictures are truncated, which for them is rounding down.
    return np.unique(np.floor(points).astype(np.int64), axis=0)


def _disc(radius: float) -> np.ndarray:
    reach = int(radius)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    return grid[(grid**2).sum(axis=1) <= radius**2]


def _candidates(
    circle: np.ndarray,
    turns: np.ndarray,
    angles: np.ndarray,
    continuity: float,
    width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bends = np.abs(turns - angles[:, None])
    bends = np.minimum(bends, 2 * np.pi - bends)
    cosines = unit(np.minimum(continuity * bends, np.pi / 2))[..., 1]
    weights = np.rint(cosines**2 * WEIGHT_UNIT).astype(np.int64)
    # Only the better part of the circle is ever looked at.
    count = (weights > 0).sum(axis=1).max()
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    steps = circle[:, 0] * width + circle[:, 1]
    return (
        steps[order],
        NUM_DEGREES + order,
        np.take_along_axis(weights, order, axis=1),
    )


def _paddle(
    settings: PathfinderSettings, margin: int, angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a paddle that starts in the middle; returns ink and mask."""
    scale = 2  # of the antialiasing
    length, thickness = settings.paddle_length, settings.paddle_thickness
    reach = length + math.ceil(thickness) + margin
    centre = reach * scale
    canvas = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    [[y, x]] = land(np.full(2, centre), length * scale * unit(angle)).tolist()
    ImageDraw.Draw(canvas).line(
        [(centre, centre), (x, y)], fill=_OPAQUE, width=round(thickness * scale)
    )
    line = np.asarray(canvas)
    mask = np.zeros_like(line)
    border = margin * scale
    padded = np.pad(line, border)
    for y, x in (_disc(border) + border).tolist():
        np.maximum(mask, padded[y:, x:][: len(mask), : len(mask)], out=mask)
    return _shrink(line, 2 * reach + 1), _shrink(mask, 2 * reach + 1)


def _markers(settings: PathfinderSettings) -> tuple[np.ndarray, int]:
    """Draws the disc that marks a tip, in the middle of patches.

    The filter that shrinks pictures knows nothing beyond their edge, so near
    it discs look a bit different. Hence they are drawn at each place of a
    small picture, whose middle stands for all places far from the edge.

    Returns:
        The patches, uint8 `(size * size, height, width)`, and the size of the
        small picture.
    """
    scale = 2
    # The filter reaches three pixels far.
    reach = math.ceil(settings.marker_radius) + 3
    size = 2 * (reach + 3) + 1
    disc = _disc(settings.marker_radius * scale)
    patches = []
    for place in np.ndindex(size, size):
        points = disc + np.array(place) * scale
        points = points[((points >= 0) & (points < size * scale)).all(axis=1)]
        canvas = np.zeros((size * scale, size * scale), np.uint8)
        canvas[points[:, 0], points[:, 1]] = _OPAQUE
        y, x = place
        shrunk = np.pad(_shrink(canvas, size), reach)
        patches.append(shrunk[y : y + 2 * reach + 1, x : x + 2 * reach + 1])
    return np.stack(patches), size


def _marker_ids(size: int, small: int) -> np.ndarray:
    middle = small // 2
    from_start = np.minimum(np.arange(size), middle)
    nearness = from_start + middle - from_start[::-1]
    return nearness[:, None] * small + nearness


def _shrink(canvas: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(canvas)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def _strokes(patches: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists the pixels that are not 0 of `(patches, height, width)`."""
    reach = patches.shape[1] // 2
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    steps = (rows * width + columns).ravel()
    flat = patches.reshape(len(patches), -1)
    count = (flat > 0).sum(axis=1).max()
    order = np.argsort(flat == 0, axis=1, kind="stable")[:, :count]
    return steps[order], np.take_along_axis(flat, order, axis=1)


def _seeds(
    masks: np.ndarray, reach: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tells where first paddles can be, from their masks `(360, ...)`.

    A first paddle needs its opaque pixels to be free, but as seen through a
    window that is one pixel off. Where the window shows no such pixel inside
    the picture, be it for one corner, the original program takes the whole
    picture for occupied. So of the degrees 30 remain at 32 pixels.

    Returns:
        `seed_degrees` and `seed_shapes` of `Tables`. Short lists are filled
        up by repeating their first pixel.
    """
    middle = masks.shape[1] // 2
    window = np.arange(2 * reach + 1)
    shown = middle - reach - 1 + window
    near = masks[:, shown[:, None], shown] == _OPAQUE
    y, x = np.repeat(window, len(window)), np.tile(window, len(window))
    y, x = y - reach, x - reach
    near = near.reshape(len(near), -1)
    feasible = np.logical_and.reduce(
        [
            (near & (down * y >= 0) & (right * x >= 0)).any(axis=1)
            for down in (-1, 1)
            for right in (-1, 1)
        ]
    )
    counts = near.sum(axis=1)
    order = np.argsort(~near, axis=1, kind="stable")[:, : counts.max()]
    filled = np.arange(counts.max()) < counts[:, None]
    steps = y * width + x
    return (
        np.flatnonzero(feasible),
        steps[np.where(filled, order, order[:, :1])],
    )
