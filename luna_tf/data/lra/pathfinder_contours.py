"""Grows the contours of Pathfinder pictures, many pictures in lockstep.

A contour is a chain of paddles, each of which is put where it neither bends
too much nor comes too near to what is there. Nothing is drawn here: what a
paddle occupies is noted in a *mask* per picture, and the paddles are listed.
"""

import dataclasses

import numpy as np

from luna_tf.data.lra.pathfinder_patches import (
    LEAST_WEIGHT,
    NUM_DEGREES,
    Tables,
    land,
    unit,
)
from luna_tf.data.lra.pathfinder_settings import PathfinderSettings

# Pixels occupied by less than this, 0.3, are free for a first paddle.
_FREE_BELOW = 77
_PADDLE_DRAWS = 3
_SEED_DRAWS = 3
_DISTRACTOR_TRIES = 5
# Pixels tried at random before all of them are looked at.
_PIXELS_TRIED = 64
# Bounds the memory of one batch of attempts.
_MASK_BYTES = 2**25
_MAX_ATTEMPTS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Paddles:
    """The paddles of all contours of some pictures.

    Args:
        places: int64 `(pictures, contours, paddles)`, see
            `pathfinder_patches`.
        directions: int64 of the same shape.
        present: bool `(pictures, contours)`; the paddles of other contours
            have no meaning.

    Example:

    >>> import numpy as np
    >>> places = np.arange(24).reshape(2, 3, 4)
    >>> paddles = Paddles(places, np.zeros_like(places), np.ones((2, 3), bool))
    >>> paddles.places[0, :, -1]  # the tips of the contours of picture 0
    array([ 3,  7, 11])
    """

    places: np.ndarray
    directions: np.ndarray
    present: np.ndarray

    def __getitem__(self, pictures: slice) -> "Paddles":
        """Returns the paddles of some of the pictures."""
        return Paddles(
            self.places[pictures],
            self.directions[pictures],
            self.present[pictures],
        )


class _Growth:
    """Contours of one length in as many masks as there are rows."""

    def __init__(
        self,
        rng: np.random.Generator,
        tables: Tables,
        masks: np.ndarray,
        num_contours: int,
        length: int,
    ):
        shape = len(masks), num_contours, length
        self.rng = rng
        self.tables = tables
        self.masks = masks
        self.flat = masks.reshape(-1)  # a view
        self.places = np.zeros(shape, np.int64)
        self.directions = np.zeros(shape, np.int64)
        self.pivots = np.zeros((*shape[:2], 2), np.int64)

    def start(
        self,
        rows: np.ndarray,
        contour: int,
        points: np.ndarray,
        directions: np.ndarray,
    ) -> np.ndarray:
        """Puts the first paddle of a contour at `(rows, 2)` points.

        Returns:
            The rows where it does not reach over the edge; the others are as
            they were.
        """
        tables = self.tables
        heads = land(points, tables.head_moves[directions])
        pivots = land(heads, tables.pivot_moves[directions])
        within = tables.inside[tables.place(heads)] == 1
        within &= tables.inside[tables.place(pivots)] == 1
        rows = rows[within]
        self.places[rows, contour, 0] = tables.place(points[within])
        self.directions[rows, contour, 0] = directions[within]
        self.pivots[rows, contour] = pivots[within]
        return rows

    def occupy(self, rows: np.ndarray, contour: int, paddle: int) -> None:
        """Notes a paddle in the masks."""
        masks = self.tables.masks
        directions = self.directions[rows, contour, paddle]
        places = self.places[rows, contour, paddle]
        places = places[:, None] + masks.steps[directions]
        # Outside of the picture nothing counts as occupied.
        values = masks.values[directions] * self.tables.inside[places]
        pixels = places + rows[:, None] * self.tables.inside.size
        self.flat[pixels] = np.maximum(self.flat[pixels], values)

    def extend(self, rows: np.ndarray, contour: int, paddle: int) -> np.ndarray:
        """Adds a paddle to one contour of each row.

        The paddle before it enters the mask, the new one does not yet: it
        would block the next.

        Returns:
            The rows where that was possible; the others are as they were.
        """
        tables = self.tables
        before = self.directions[rows, contour, paddle - 1]
        pivots = land(self.pivots[rows, contour], tables.moves[before])
        places = tables.place(pivots)[:, None] + tables.ring[before]
        bases = rows * tables.inside.size
        pixels = bases[:, None] + places
        occupied = self.flat[pixels]
        for step in tables.disc:
            np.maximum(occupied, self.flat.take(pixels + step), out=occupied)
        weights = tables.ring_weights[before] * (255 - occupied)
        weights *= tables.inside[places]
        cumulated = weights.cumsum(axis=1)
        total = cumulated[:, -1]

        found = np.full(len(rows), -1)
        pending = np.flatnonzero(total >= LEAST_WEIGHT)
        for _ in range(_PADDLE_DRAWS):
            points = self.rng.random(len(pending)) * total[pending]
            chosen = (cumulated[pending] <= points[:, None]).sum(axis=1)
            place = places[pending, chosen]
            direction = tables.ring_ids[before[pending], chosen]
            steps, limits = tables.cores
            pixels = (bases[pending] + place)[:, None] + steps[direction]
            crossing = (self.flat[pixels] >= limits[direction]).any(axis=1)
            found[pending[~crossing]] = chosen[~crossing]
            pending = pending[crossing]

        kept = found >= 0
        found, before, rows = found[kept], before[kept], rows[kept]
        self.places[rows, contour, paddle] = places[kept, found]
        self.directions[rows, contour, paddle] = tables.ring_ids[before, found]
        self.pivots[rows, contour] = pivots[kept]
        self.occupy(rows, contour, paddle - 1)
        return rows


def grow_targets(
    rng: np.random.Generator,
    settings: PathfinderSettings,
    tables: Tables,
    count: int,
) -> tuple[Paddles, np.ndarray]:
    """Draws the two target contours of some pictures.

    Both grow in turns, and if either cannot go on, both are given up. An
    attempt begins with two first paddles that the original program might
    have, too; those that it gives up at once are never drawn.

    The sample is unbiased: attempts are independent, every attempt that is
    begun is brought to its end, and of those that succeed the first `count`
    are taken in the order in which they were begun, not finished. How many
    are begun together depends on the attempts before only.

    Args:
        rng: where the draws come from.
        settings: the kind of picture.
        tables: its tables.
        count: of pictures.

    Returns:
        The paddles, two contours per picture, and what they occupy: uint8
        `(count, width * width)`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.lra.pathfinder_patches import tables
    >>> from luna_tf.data.lra.pathfinder_settings import settings
    >>> easy = settings(32, "easy")
    >>> rng = np.random.default_rng(0)
    >>> targets, masks = grow_targets(rng, easy, tables(easy, 1), count=5)
    >>> targets.places.shape
    (5, 2, 6)
    """
    most = min(_MAX_ATTEMPTS, max(1, _MASK_BYTES // tables.inside.size))
    attempts, begun, done = min(most, max(64, count)), 0, 0
    parts = []
    while done < count:
        masks = np.tile(tables.border, (attempts, 1))
        growth = _Growth(rng, tables, masks, 2, settings.contour_length)
        rows = _grow_pairs(growth, settings)
        parts.append(
            (growth.places[rows], growth.directions[rows], masks[rows])
        )
        begun, done = begun + attempts, done + len(rows)
        # So many that the rest will hardly ever take more than one batch.
        wanted = 1.2 * (count - done) * begun / max(done, 1)
        attempts = min(most, max(64, int(wanted)))
    places, directions, masks = (
        np.concatenate(part)[:count] for part in zip(*parts, strict=True)
    )
    return Paddles(places, directions, np.ones((count, 2), bool)), masks


def _grow_pairs(growth: _Growth, settings: PathfinderSettings) -> np.ndarray:
    """Grows a pair in each mask; returns the rows where that succeeded."""
    rng, tables = growth.rng, growth.tables
    rows = np.arange(len(growth.masks))
    points, directions = _central_seeds(rng, settings, tables, len(rows))
    # Both are, at every size, far from the edge.
    growth.start(rows, 0, points, directions)
    moves = unit(np.arange(360) * np.pi / 180)[rng.integers(0, 360, len(rows))]
    points = np.rint(points + settings.seed_distance * moves).astype(np.int64)
    directions = rng.integers(0, NUM_DEGREES, len(rows))
    growth.start(rows, 1, points, directions)

    for paddle in range(1, settings.contour_length):
        for contour in (0, 1):
            rows = growth.extend(rows, contour, paddle)
    # The last paddle of the first target stays out.
    growth.occupy(rows, 1, settings.contour_length - 1)
    return rows


def _central_seeds(
    rng: np.random.Generator,
    settings: PathfinderSettings,
    tables: Tables,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws first paddles of first targets: points `(count, 2)`, directions.

    Nothing is there yet, but what must be free for a first paddle must fit
    into a square in the middle.
    """
    low = 2 * settings.seed_distance
    high = settings.image_size - 1 - low
    centre = tables.width // 2
    shapes = tables.seed_shapes[tables.seed_degrees]
    shapes = np.stack(
        np.divmod(shapes + centre * (tables.width + 1), tables.width)
    )
    shapes -= centre  # (2, directions, pixels)
    lowest, highest = low - shapes.min(axis=2), high - shapes.max(axis=2)
    [fitting] = np.nonzero((lowest <= highest).all(axis=0))
    chosen = fitting[rng.integers(0, len(fitting), count)]
    points = rng.integers(lowest[:, chosen], highest[:, chosen] + 1)
    return points.T, tables.seed_degrees[chosen]


def grow_distractors(
    rng: np.random.Generator,
    settings: PathfinderSettings,
    tables: Tables,
    masks: np.ndarray,
) -> Paddles:
    """Draws distractors into what the targets have left free.

    Each is tried five times and then left out; at 32 pixels most are.

    Args:
        rng: where the draws come from.
        settings: the kind of picture.
        tables: its tables.
        masks: uint8 `(pictures, width * width)`, what is occupied; what the
            distractors occupy is added.

    Returns:
        The paddles of the distractors.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.lra.pathfinder_patches import tables
    >>> from luna_tf.data.lra.pathfinder_settings import settings
    >>> easy = settings(32, "easy")
    >>> rng = np.random.default_rng(0)
    >>> targets, masks = grow_targets(rng, easy, tables(easy, 1), count=5)
    >>> grow_distractors(rng, easy, tables(easy, 1), masks).places.shape
    (5, 10, 2)
    """
    count, length = len(masks), settings.distractor_length
    shape = count, settings.num_distractors
    places = np.zeros((*shape, length), np.int64)
    directions = np.zeros((*shape, length), np.int64)
    present = np.zeros(shape, bool)
    for distractor in range(settings.num_distractors):
        pending = np.arange(count)
        for _ in range(_DISTRACTOR_TRIES):
            # On copies: what fails leaves no trace.
            growth = _Growth(rng, tables, masks[pending], 1, length)
            rows = _start_distractors(growth)
            for paddle in range(1, length):
                rows = growth.extend(rows, 0, paddle)
            growth.occupy(rows, 0, length - 1)
            done = pending[rows]
            masks[done] = growth.masks[rows]
            places[done, distractor] = growth.places[rows, 0]
            directions[done, distractor] = growth.directions[rows, 0]
            present[done, distractor] = True
            pending = np.delete(pending, rows)
    return Paddles(places, directions, present)


def _start_distractors(growth: _Growth) -> np.ndarray:
    """Puts a first paddle in each mask; returns the rows where it could be."""
    tables = growth.tables
    feasible = np.isin(np.arange(NUM_DEGREES), tables.seed_degrees)
    rows = np.arange(len(growth.masks))
    started = []
    for _ in range(_SEED_DRAWS):
        directions = growth.rng.integers(0, NUM_DEGREES, len(rows))
        possible = feasible[directions]
        rows, directions = rows[possible], directions[possible]
        places = _free_places(growth, rows, directions)
        # To find no place is final, to reach over the edge is not.
        rows, directions = rows[places >= 0], directions[places >= 0]
        points = np.stack(np.divmod(places[places >= 0], tables.width), axis=1)
        done = growth.start(rows, 0, points - tables.pad, directions)
        started.append(done)
        rows = np.setdiff1d(rows, done)
    return np.sort(np.concatenate(started))


def _free_places(
    growth: _Growth, rows: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Draws, for each row, one of the pixels where a first paddle fits.

    To draw pixels until one is free gives each free one the same chance, and
    is faster than to look at all of them.

    Returns:
        Their places, -1 where there is none.
    """
    tables, rng = growth.tables, growth.rng
    pixels = np.flatnonzero(tables.inside)
    tried = pixels[rng.integers(0, pixels.size, (len(rows), _PIXELS_TRIED))]
    free = _is_free(growth, rows, directions, tried)
    first = free.argmax(axis=1)
    places = np.where(free.any(axis=1), tried[np.arange(len(rows)), first], -1)
    for i in np.flatnonzero(places < 0):
        free = _is_free(growth, rows[i : i + 1], directions[i : i + 1], pixels)
        if free.any():
            places[i] = pixels[free[0]][rng.integers(0, free.sum())]
    return places


def _is_free(
    growth: _Growth,
    rows: np.ndarray,
    directions: np.ndarray,
    places: np.ndarray,
) -> np.ndarray:
    shapes = growth.tables.seed_shapes[directions]
    bases = rows[:, None] * growth.tables.inside.size + places
    free = np.ones(bases.shape, bool)
    for steps in shapes.T:
        free &= growth.flat[bases + steps[:, None]] < _FREE_BELOW
    return free
