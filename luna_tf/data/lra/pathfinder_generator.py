"""Generates Pathfinder pictures: are the two marked tips of one contour?

The released pictures, Path-X among them, are one sample of this distribution;
this makes another, and is hundreds of times faster than the original. Needs
numpy and Pillow only.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Generator, Iterable

import numpy as np

from luna_tf.data.lra.pathfinder_contours import (
    Paddles,
    grow_distractors,
    grow_targets,
)
from luna_tf.data.lra.pathfinder_drawing import draw
from luna_tf.data.lra.pathfinder_patches import tables
from luna_tf.data.lra.pathfinder_settings import PathfinderSettings, settings

# To be raised whenever the same configuration would give other data.
GENERATOR_VERSION = 1
# Pictures per chunk. Another number would give other data.
CHUNK_SIZE = 500

_DRAWN_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class PathfinderConfig:
    """What to generate. The defaults are those of the release.

    Args:
        image_size: height and width: 32, 64, 128 (Path-X) or 256.
        difficulty: `"easy"`, `"intermediate"` or `"hard"`, contours of 6, 9
            or 14 paddles. The published tasks are hard.
        num_examples: of all splits together; at least 10.
        seed: the same seed gives the same data, on any machine.
        contour_length: paddles of a contour, 2 to 14, in place of the
            difficulty's.
        distractors: whether there are other, shorter contours too. Without
            them, and with short contours, the task is far easier.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig
    >>> config = PathfinderConfig(128, num_examples=1000)  # Path-X
    >>> config.difficulty, config.num_chunks
    ('hard', 2)
    """

    image_size: int = 32
    difficulty: str = "hard"
    num_examples: int = 200_000
    seed: int = 0
    contour_length: int | None = None
    distractors: bool = True

    def __post_init__(self) -> None:
        self.settings()
        for name, lowest, highest in (
            ("num_examples", 10, 10**9),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not lowest <= value <= highest:
                raise ValueError(
                    f"{name} must be an integer from {lowest} to {highest}. "
                    f"Received: {name}={value!r}."
                )

    def settings(self) -> PathfinderSettings:
        """How the pictures are made."""
        return settings(
            self.image_size,
            self.difficulty,
            self.contour_length,
            self.distractors,
        )

    def describe(self) -> dict[str, int | str | bool]:
        """The arguments, but those that the published kinds leave alone."""
        values = dataclasses.asdict(self)
        if self.contour_length is None:
            del values["contour_length"]
        if self.distractors:
            del values["distractors"]
        return values

    @property
    def num_chunks(self) -> int:
        """Chunks of `CHUNK_SIZE` pictures; the last may be smaller."""
        return -(-self.num_examples // CHUNK_SIZE)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Some consecutive pictures.

    Args:
        index: number of the chunk.
        pixels: uint8 `(pictures, image_size, image_size)`.
        labels: int32 `(pictures,)`: 1 if the two discs mark the tips of one
            contour.
        margins: int64 `(pictures,)`: free space around paddles, in pixels.

    Example:

    >>> chunk = generate_chunk(PathfinderConfig(32, "easy", num_examples=10), 0)
    >>> chunk.index, chunk.pixels.shape
    (0, (10, 32, 32))
    """

    index: int
    pixels: np.ndarray
    labels: np.ndarray
    margins: np.ndarray


def generate(
    config: PathfinderConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Generates all pictures in memory.

    Args:
        config: what to generate; the pictures depend on nothing else.
        num_workers: threads; one per available core by default, 1 for none.
        progress: called as `progress(done, total)` after each chunk.

    Returns:
        The pictures, uint8 `(num_examples, image_size, image_size)`, and
        their labels, int32 `(num_examples,)`, as in `Chunk`.

    Raises:
        ValueError: `num_workers` is below 1.

    Example:

    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> pixels, labels = generate(config)
    >>> pixels.shape, labels
    ((10, 32, 32), array([1, 1, 0, 0, 1, 1, 0, 0, 1, 0], dtype=int32))
    """
    total, size = config.num_examples, config.image_size
    pixels = np.empty((total, size, size), np.uint8)
    labels = np.empty(total, np.int32)
    done = 0
    with contextlib.closing(
        chunks(config, range(config.num_chunks), num_workers)
    ) as parts:
        for chunk in parts:
            part = slice(done, done + len(chunk.labels))
            pixels[part], labels[part] = chunk.pixels, chunk.labels
            done = part.stop
            if progress is not None:
                progress(done, total)
    return pixels, labels


def chunks(
    config: PathfinderConfig,
    indices: Iterable[int],
    num_workers: int | None = None,
) -> Generator[Chunk, None, None]:
    """Generates some of the chunks of a configuration.

    Threads, since nearly all time is spent inside numpy, which lets other
    threads run meanwhile.

    Args:
        config: what to generate.
        indices: which chunks.
        num_workers: as `generate`.

    Returns:
        Makes the chunks, in the order of `indices`.

    Raises:
        ValueError: `num_workers` is below 1.

    Example:

    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> [chunk.labels.tolist() for chunk in chunks(config, [0])]
    [[1, 1, 0, 0, 1, 1, 0, 0, 1, 0]]
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(
            "num_workers must be None or at least 1. "
            f"Received: num_workers={num_workers}."
        )
    return _chunks(config, indices, num_workers or _cores())


def _chunks(
    config: PathfinderConfig, indices: Iterable[int], num_workers: int
) -> Generator[Chunk, None, None]:
    make = functools.partial(generate_chunk, config)
    if num_workers == 1:
        yield from map(make, indices)
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_workers)
    try:
        pending: collections.deque[concurrent.futures.Future[Chunk]]
        pending = collections.deque()
        for index in indices:
            pending.append(pool.submit(make, index))
            # Enough that no thread ever waits for the consumer.
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def generate_chunk(config: PathfinderConfig, index: int) -> Chunk:
    """Generates one chunk, from a random stream of its own.

    The result depends on the arguments only; so neither the number of threads
    nor an interruption can change a data set. With the same seed, data sets of
    different `num_examples` begin with the same full chunks.

    Args:
        config: what to generate.
        index: below `config.num_chunks`.

    Returns:
        The chunk.

    Raises:
        IndexError: there is no such chunk.

    Example:

    >>> chunk = generate_chunk(PathfinderConfig(32, "easy", num_examples=10), 0)
    >>> chunk.pixels.shape, chunk.labels[:4]
    ((10, 32, 32), array([1, 1, 0, 0], dtype=int32))
    """
    first = range(0, config.num_examples, CHUNK_SIZE)[index]
    count = min(CHUNK_SIZE, config.num_examples - first)
    sequence = np.random.SeedSequence(config.seed, spawn_key=(index,))
    rng = np.random.Generator(np.random.PCG64(sequence))
    kind = config.settings()
    labels = rng.integers(0, 2, count, dtype=np.int32)
    # `integers` and `random` have the same streams in all versions of numpy.
    margins = np.array(kind.margins)[rng.integers(0, len(kind.margins), count)]
    size = config.image_size
    pixels = np.empty((count, size, size), np.uint8)
    # Drawn before the contours and kept: the margins that make it harder to
    # find contours are as frequent as the others.
    for margin in np.unique(margins).tolist():
        table = tables(kind, margin)
        [rows] = np.nonzero(margins == margin)
        targets, masks = grow_targets(rng, kind, table, len(rows))
        distractors = grow_distractors(rng, kind, table, masks)
        tips = _marked_tips(rng, targets, labels[rows])
        for start in range(0, len(rows), _DRAWN_AT_ONCE):
            part = slice(start, start + _DRAWN_AT_ONCE)
            pixels[rows[part]] = draw(
                kind, table, targets[part], distractors[part], tips[part]
            )
    return Chunk(index, pixels, labels, margins)


def _marked_tips(
    rng: np.random.Generator, targets: Paddles, labels: np.ndarray
) -> np.ndarray:
    """Returns the places of the two discs, int64 `(pictures, 2)`.

    One is where a contour, either of the two, began; the other is where the
    same contour ended, or the other one for label 0.
    """
    rows = np.arange(len(labels))
    contours = rng.integers(0, 2, len(labels))
    ended = np.where(labels == 1, contours, 1 - contours)
    return np.stack(
        [targets.places[rows, contours, 0], targets.places[rows, ended, -1]],
        axis=1,
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
