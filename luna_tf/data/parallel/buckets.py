"""Which pairs share a batch: few shapes, all static, with little padding.

A TPU compiles one program per shape, so there are few shapes; they are chosen
such that as little as possible of all batches is padding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape of the batches of a bucket.

    Args:
        source_length: columns of the source, its end token included.
        target_length: columns of the target, its start or end token included.
        rows: pairs in the global batch, over all replicas.
    """

    source_length: int
    target_length: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A shape, and the pairs whose batches have it.

    Args:
        shape: of all its batches.
        indices: int64 `(pairs,)`, which pairs of the corpus, rising.
    """

    shape: Shape
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Filled:
    """Buckets and what did not fit.

    Args:
        buckets: those that have pairs, short ones first.
        num_too_long: pairs longer than all shapes: cut, or left out.
        padding: part of the columns that hold no token when every pair is
            seen once.
    """

    buckets: tuple[Bucket, ...]
    num_too_long: int
    padding: float


def choose_shapes(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    tokens_per_batch: int,
    max_source_length: int,
    max_target_length: int,
    num_buckets: int = 5,
    rows_multiple: int = 1,
    min_batches: int = 1,
) -> tuple[Shape, ...]:
    """Chooses the shapes that waste least on padding.

    Pairs are ordered by the longer of their two sides, and that order is cut
    in the best places. Lengths are multiples of 8.

    Args:
        source_lengths: `(pairs,)`, tokens of each source without special
            tokens; one column more is kept for the end token.
        target_lengths: `(pairs,)`, the same of the targets.
        tokens_per_batch: rows times the longer side of a shape is at most
            this: the budget of the global batch.
        max_source_length: columns of the longest source, a multiple of 8.
        max_target_length: columns of the longest target, a multiple of 8.
        num_buckets: at most so many shapes.
        rows_multiple: what must divide the rows of every shape: replicas
            times parts of gradient accumulation, or a multiple of it.
        min_batches: batches that the pairs of a shape must at least fill.
            As a block of `steps_per_loop` steps trains on one bucket, give
            that here, so that no block sees a pair twice.

    Returns:
        Shapes that grow in both lengths. They may be fewer than asked for,
        and end at the longest pair.

    Raises:
        ValueError: an argument is out of range, or no pair is short enough.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.parallel import choose_shapes
    >>> source, target = np.repeat([5, 20], 1000), np.repeat([6, 18], 1000)
    >>> for shape in choose_shapes(source, target, 4096, 128, 128):
    ...     print(shape)
    Shape(source_length=8, target_length=8, rows=512)
    Shape(source_length=24, target_length=24, rows=170)
    """
    _check(
        tokens_per_batch=tokens_per_batch,
        num_buckets=num_buckets,
        rows_multiple=rows_multiple,
        min_batches=min_batches,
    )
    limits = {
        "max_source_length": max_source_length,
        "max_target_length": max_target_length,
    }
    for name, limit in limits.items():
        if limit < _MULTIPLE or limit % _MULTIPLE:
            raise ValueError(
                f"{name} must be a multiple of {_MULTIPLE}. Received: {limit}"
            )
    longest = max(limits.values())
    if tokens_per_batch < rows_multiple * longest:
        raise ValueError(
            f"tokens_per_batch={tokens_per_batch:,} is too small: "
            f"{rows_multiple} rows of {longest} tokens need "
            f"{rows_multiple * longest:,}."
        )
    lengths = _rounded(source_lengths, target_lengths)
    lengths = lengths[(lengths <= [*limits.values()]).all(axis=1)]
    if not len(lengths):
        raise ValueError(
            f"no pair fits into {max_source_length} and {max_target_length} "
            "tokens (max_source_length, max_target_length)."
        )

    def shape(size: np.ndarray) -> Shape:
        return _shape(size, tokens_per_batch, rows_multiple)

    keys, places = np.unique(lengths.max(axis=1), return_inverse=True)
    counts = np.bincount(places)
    sizes = np.zeros((len(keys), 2), np.int64)
    np.maximum.at(sizes, places, lengths)
    # Shapes must grow in both lengths, or a pair might fit only in an earlier
    # one.
    sizes = np.maximum.accumulate(sizes, axis=0)
    # best[b][j]: least columns of all pairs up to key j in b + 1 shapes, and
    # where the last of these shapes starts.
    best: list[list[tuple[float, int]]] = []
    for b in range(min(num_buckets, len(keys))):
        row: list[tuple[float, int]] = []
        for j in range(len(keys)):
            choices = [(math.inf, 0)]
            columns = int(sizes[j].sum())
            needed = shape(sizes[j]).rows * min_batches
            for i in range(j + 1) if b else (0,):
                pairs = int(counts[i : j + 1].sum())
                whole = i == 0 and j == len(keys) - 1
                if pairs < needed and not whole:
                    continue
                before = best[b - 1][i - 1][0] if b and i else 0.0
                if bool(b) == bool(i):
                    choices.append((before + pairs * columns, i))
            row.append(min(choices))
        best.append(row)
    chosen = min(range(len(best)), key=lambda b: best[b][-1][0])
    ends, j = [], len(keys) - 1
    for b in range(chosen, -1, -1):
        ends.append(j)
        j = best[b][j][1] - 1
    return tuple(shape(sizes[j]) for j in reversed(ends))


def lengthen(
    shapes: Sequence[Shape],
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    tokens_per_batch: int,
    max_source_length: int,
    max_target_length: int,
    rows_multiple: int = 1,
) -> tuple[Shape, ...]:
    """Adds a shape for other pairs that are longer, such as those to test on.

    Args:
        shapes: from `choose_shapes`.
        source_lengths: `(pairs,)`, as there, of the other pairs.
        target_lengths: `(pairs,)`, as there.
        tokens_per_batch: as there.
        max_source_length: as there; longer sources still have to be cut.
        max_target_length: as there.
        rows_multiple: as there.

    Returns:
        `shapes`, and one more if a pair fits into none of them.

    Raises:
        ValueError: source and target are not as many.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.parallel import Shape, lengthen
    >>> source, target = np.array([5, 20]), np.array([6, 18])
    >>> shapes = [Shape(8, 8, rows=512)]
    >>> for shape in lengthen(shapes, source, target, 4096, 128, 128):
    ...     print(shape)
    Shape(source_length=8, target_length=8, rows=512)
    Shape(source_length=24, target_length=24, rows=170)
    """
    limits = [max_source_length, max_target_length]
    lengths = np.minimum(_rounded(source_lengths, target_lengths), limits)
    last = [shapes[-1].source_length, shapes[-1].target_length]
    size = np.maximum(lengths.max(axis=0, initial=0), last)
    if (size == last).all():
        return tuple(shapes)
    return *shapes, _shape(size, tokens_per_batch, rows_multiple)


def fill(
    shapes: Sequence[Shape],
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    too_long: str = "drop",
) -> Filled:
    """Puts every pair into the first shape that it fits in.

    Args:
        shapes: from `choose_shapes`.
        source_lengths: `(pairs,)`, as there.
        target_lengths: `(pairs,)`, as there.
        too_long: what becomes of pairs longer than the last shape: "drop", as
            in training, or "cut", as in evaluation, where none may be missing.

    Returns:
        Buckets without those that have no pair.

    Raises:
        ValueError: an argument is not possible, or no pair is left.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.parallel import Shape, fill
    >>> shapes = Shape(8, 8, rows=512), Shape(24, 24, rows=168)
    >>> filled = fill(shapes, np.array([5, 20, 40]), np.array([6, 18, 30]))
    >>> [bucket.indices.tolist() for bucket in filled.buckets]
    [[0], [1]]
    >>> filled.num_too_long, round(filled.padding, 2)
    (1, 0.17)
    """
    if too_long not in ("drop", "cut"):
        raise ValueError(
            f"too_long must be 'drop' or 'cut'. Received: {too_long!r}"
        )
    lengths = _rounded(source_lengths, target_lengths)
    sizes = np.array([(s.source_length, s.target_length) for s in shapes])
    fits = np.all(lengths[:, None] <= sizes, axis=-1)
    place = np.where(np.any(fits, axis=1), np.argmax(fits, axis=1), len(shapes))
    num_too_long = int((place == len(shapes)).sum())
    if too_long == "cut":
        place = np.minimum(place, len(shapes) - 1)
    buckets = tuple(
        Bucket(shape, np.flatnonzero(place == i))
        for i, shape in enumerate(shapes)
        if np.any(place == i)
    )
    if not buckets:
        raise ValueError(
            f"no pair fits into {shapes[-1].source_length} and "
            f"{shapes[-1].target_length} tokens."
        )
    real = columns = 0
    for bucket in buckets:
        size = bucket.shape.source_length, bucket.shape.target_length
        for limit, given in zip(
            size, (source_lengths, target_lengths), strict=True
        ):
            own = np.asarray(given)[bucket.indices] + 1
            real += int(np.minimum(own, limit).sum())
            columns += limit * len(own)
    return Filled(buckets, num_too_long, 1.0 - real / columns)


def _shape(
    size: np.ndarray, tokens_per_batch: int, rows_multiple: int
) -> Shape:
    rows = tokens_per_batch // int(size.max())
    return Shape(int(size[0]), int(size[1]), rows - rows % rows_multiple)


def _rounded(
    source_lengths: np.ndarray, target_lengths: np.ndarray
) -> np.ndarray:
    """Columns that each pair needs, `(pairs, 2)`."""
    if len(source_lengths) != len(target_lengths):
        raise ValueError(
            "source_lengths and target_lengths must be as many. Received: "
            f"{len(source_lengths)} and {len(target_lengths)}"
        )
    tokens = np.stack([source_lengths, target_lengths], axis=1) + 1
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _check(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}")
