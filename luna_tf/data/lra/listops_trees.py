"""Draws random ListOps expressions, many at once, level by level.

The distribution is that of a recursive generator. At every depth but the last
a node is an operator with probability `operator_probability`, otherwise a
digit, uniform in 0..9; at `max_depth` it is always a digit (the root has
depth 1). An operator is uniform among the four and has 2..`max_args`
arguments, uniform too. Expressions of `min_length < length < max_length`
tokens are kept, where brackets count as tokens: an operator with arguments of
lengths a, b, ... has length 2 + a + b + ....

Since digits and operators do not influence the length, the shapes are drawn
first, and only the shapes that are kept get digits and operators.
"""

import numpy as np

from luna_tf.data.lra.listops_expressions import (
    CLOSE_ID,
    FIRST_OPERATOR_ID,
    OPERATORS,
    ZERO_ID,
)

_MIN, _MAX, _MED = (OPERATORS.index(name) for name in ("[MIN", "[MAX", "[MED"))


def sample_chunk(
    index: int,
    *,
    seed: int,
    attempts: int,
    max_depth: int,
    max_args: int,
    min_length: int,
    max_length: int,
    operator_probability: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws `attempts` expressions and returns those of the right length.

    The result depends on the arguments only: the draws are `integers` and
    `random` of an explicitly named PCG64 generator, whose streams are the same
    on all platforms and in all versions of numpy that are supported.

    Args:
        index: number of the chunk. Chunks of one seed are independent.
        seed: a nonnegative integer.
        attempts: how many expressions to draw.
        max_depth, max_args, min_length, max_length, operator_probability: see
            `listops_generator.ListOpsConfig`.

    Returns:
        The ids of all kept expressions end to end (uint8), the length of each
        (int64), the value of each (uint8).

    Example:

    >>> tokens, lengths, values = sample_chunk(
    ...     0, seed=0, attempts=20, max_depth=3, max_args=4, min_length=3,
    ...     max_length=20, operator_probability=0.5,
    ... )
    >>> lengths
    array([ 8, 18, 10,  9, 18,  6, 11,  7, 12])
    >>> values
    array([0, 8, 5, 2, 6, 2, 5, 3, 6], dtype=uint8)
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(0, index))
    rng = np.random.Generator(np.random.PCG64(sequence))
    levels, lengths = _draw_shapes(
        rng, attempts, max_depth, max_args, max_length, operator_probability
    )
    kept = (min_length < lengths) & (lengths < max_length)
    arities = [arity[kept[tree]] for tree, arity in levels]
    tokens, values = _fill(rng, arities)
    return tokens, lengths[kept], values


def _draw_shapes(
    rng: np.random.Generator,
    attempts: int,
    max_depth: int,
    max_args: int,
    max_length: int,
    operator_probability: float,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Grows all trees together, one level per round.

    Returns:
        Per level the tree that each node belongs to and its number of
        arguments (0 for a digit), with the children of a level in the order
        of their parents; and the length of each tree. A tree that reaches
        `max_length` is not grown further, so its length is a lower bound.
    """
    levels = []
    tree = np.arange(attempts, dtype=np.int32)
    lengths = np.ones(attempts, np.int64)
    for _ in range(max_depth - 1):
        operators = np.flatnonzero(rng.random(tree.size) < operator_probability)
        parents = tree[operators]
        arguments = rng.integers(
            2, max_args, size=operators.size, dtype=np.int32, endpoint=True
        )
        # So far the node counts as one token. As an operator it becomes two
        # tokens and its arguments, each of which counts as one token for now.
        lengths += np.bincount(
            parents, weights=arguments + 1, minlength=attempts
        ).astype(np.int64)
        # Lengths only ever grow: growing these would be in vain.
        arguments[lengths[parents] >= max_length] = 0
        arity = np.zeros(tree.size, np.int32)
        arity[operators] = arguments
        levels.append((tree, arity))
        tree = np.repeat(parents, arguments)
        if not tree.size:
            break
    levels.append((tree, np.zeros(tree.size, np.int32)))
    return levels, lengths


def _fill(
    rng: np.random.Generator, arities: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws digits and operators, and writes the expressions out.

    Args:
        arities: per level the number of arguments of each node, as above.

    Returns:
        The ids of all trees end to end, and the value of each tree.
    """
    # Upwards: sizes and values of the subtrees from those of the level below.
    nodes = []
    sizes = values = np.zeros(0, np.int64)
    for arity in reversed(arities):
        sizes_below, values_below = sizes, values
        operators = np.flatnonzero(arity)
        counts = arity[operators]
        first = _exclusive_sum(counts)
        values = rng.integers(0, 10, size=arity.size, dtype=np.uint8)
        functions = rng.integers(
            0, len(OPERATORS), size=operators.size, dtype=np.uint8
        )
        tokens = values + np.uint8(ZERO_ID)
        sizes = np.ones(arity.size, np.int64)
        if operators.size:
            tokens[operators] = functions + np.uint8(FIRST_OPERATOR_ID)
            sizes[operators] = 2 + np.add.reduceat(sizes_below, first)
            values[operators] = _apply(functions, values_below, counts, first)
        nodes.append((operators, counts, first, tokens, sizes_below))

    # Downwards: where each subtree starts, from where its parent starts. What
    # no node writes to are the closing brackets.
    output = np.full(sizes.sum(), CLOSE_ID, np.uint8)
    starts = _exclusive_sum(sizes)
    for operators, counts, first, tokens, sizes_below in reversed(nodes):
        output[starts] = tokens
        before = _exclusive_sum(sizes_below)
        shifts = starts[operators] + 1 - before[first]
        starts = np.repeat(shifts, counts) + before
    return output, values


def _exclusive_sum(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts, dtype=np.int64) - counts


def _apply(
    functions: np.ndarray,
    values: np.ndarray,
    counts: np.ndarray,
    first: np.ndarray,
) -> np.ndarray:
    """Value of each operator; its arguments are values[first:first+count]."""
    results = np.add.reduceat(values, first, dtype=np.int64) % 10
    lowest = np.minimum.reduceat(values, first)
    highest = np.maximum.reduceat(values, first)
    results = np.where(functions == _MIN, lowest, results)
    results = np.where(functions == _MAX, highest, results)

    medians = functions == _MED
    arguments = values[np.repeat(medians, counts)].astype(np.int64)
    counts = counts[medians]
    first = _exclusive_sum(counts)
    # One sort orders all segments: the segment is the key's upper part.
    segments = np.repeat(np.arange(counts.size), counts)
    ordered = np.sort(10 * segments + arguments) % 10
    low, high = ordered[first + (counts - 1) // 2], ordered[first + counts // 2]
    # Halves are cut off, as by int(numpy.median(...)).
    results[medians] = (low + high) // 2
    return results
