"""Draws Pathfinder pictures from lists of paddles."""

import numpy as np

from luna_tf.data.lra.pathfinder_contours import Paddles
from luna_tf.data.lra.pathfinder_patches import Strokes, Tables
from luna_tf.data.lra.pathfinder_settings import PathfinderSettings


def draw(
    settings: PathfinderSettings,
    tables: Tables,
    targets: Paddles,
    distractors: Paddles,
    tips: np.ndarray,
) -> np.ndarray:
    """Draws contours and markers.

    Of what overlaps, the brightest is seen. The brightest pixel of a picture
    becomes white, so that the others are the darker the brighter that is.

    Args:
        settings: the kind of picture.
        tables: its tables.
        targets, distractors: the contours.
        tips: int64 `(pictures, markers)`, the places of the markers.

    Returns:
        uint8 `(pictures, image_size, image_size)`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.lra import pathfinder_contours as contours
    >>> from luna_tf.data.lra.pathfinder_patches import tables
    >>> from luna_tf.data.lra.pathfinder_settings import settings
    >>> easy, rng = settings(32, "easy"), np.random.default_rng(0)
    >>> shared = easy, tables(easy, 1)
    >>> targets, masks = contours.grow_targets(rng, *shared, count=5)
    >>> distractors = contours.grow_distractors(rng, *shared, masks)
    >>> tips = targets.places[:, 0, [0, -1]]
    >>> draw(*shared, targets, distractors, tips).shape
    (5, 32, 32)
    """
    canvases = [
        _grey(_draw_paddles(tables, targets), settings.target_contrast),
        _grey(_draw_paddles(tables, distractors), settings.distractor_contrast),
        _draw_markers(tables, tips) / 255,
    ]
    size, pad = settings.image_size, tables.pad
    pictures = np.maximum.reduce(canvases).reshape(
        -1, tables.width, tables.width
    )
    pictures = pictures[:, pad : pad + size, pad : pad + size]
    scaled = pictures * (255 / pictures.max(axis=(1, 2), keepdims=True))
    return np.rint(scaled).astype(np.uint8)


def _grey(canvas: np.ndarray, contrast: float) -> np.ndarray:
    """Turns drawn levels into brightness.

    That of paddles is rounded to float32, as in the published pictures: it
    decides about many a level that is halfway between two integers.
    """
    levels = (np.arange(256) / 255 * contrast).astype(np.float32)
    return levels.astype(np.float64)[canvas]


def _draw_paddles(tables: Tables, paddles: Paddles) -> np.ndarray:
    canvas = np.zeros((len(paddles.places), tables.inside.size), np.uint8)
    _, num_contours, length = paddles.places.shape
    for contour in range(num_contours):
        [rows] = np.nonzero(paddles.present[:, contour])
        for paddle in range(length):
            _lighten(
                canvas,
                rows,
                paddles.places[rows, contour, paddle],
                tables.ink,
                paddles.directions[rows, contour, paddle],
            )
    return canvas


def _draw_markers(tables: Tables, tips: np.ndarray) -> np.ndarray:
    canvas = np.zeros((len(tips), tables.inside.size), np.uint8)
    rows = np.arange(len(tips))
    for places in tips.T:
        y, x = np.divmod(places, tables.width)
        patches = tables.marker_ids[y - tables.pad, x - tables.pad]
        _lighten(canvas, rows, places, tables.markers, patches)
    return canvas


def _lighten(
    canvas: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    strokes: Strokes,
    patches: np.ndarray,
) -> None:
    pixels = rows[:, None], places[:, None] + strokes.steps[patches]
    canvas[pixels] = np.maximum(canvas[pixels], strokes.values[patches])
