"""Generates the ListOps data of the Long Range Arena.

The released files are one sample of this distribution; with the default
configuration this makes another, of the same size, in seconds. Needs numpy
only.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Generator

import numpy as np

from luna_tf.data.lra.listops import Split
from luna_tf.data.lra.listops_trees import sample_chunk

# To be raised whenever the same configuration would give other data.
GENERATOR_VERSION = 1

# Attempts per chunk and, to bound memory, the tokens that they may come to.
# Other numbers would give other data.
_CHUNK_ATTEMPTS = 4096
_CHUNK_TOKENS = 2**23
# Small sets are done after so many chunks, before any thread is started.
_CHUNKS_WITHOUT_THREADS = 4
# After so many attempts without anything new, there is no point in going on.
_STALL_ATTEMPTS = 2**20
# Expressions up to this length are counted to find out what is impossible.
_COUNTED_LENGTH = 48

_Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ListOpsConfig:
    """What to generate. The defaults are those of the release.

    Args:
        num_train, num_validation, num_test: examples per split.
        max_depth: depth at which all nodes are digits; the root has depth 1.
        max_args: an operator has 2 to `max_args` arguments.
        min_length, max_length: tokens of an expression, brackets included,
            parentheses not; both bounds are excluded.
        operator_probability: that of an operator above `max_depth`.
        seed: the same seed gives the same data, on any machine.

    Raises:
        ValueError: an argument is out of range, or there are fewer different
            expressions than examples are wanted.

    Example:

    >>> from luna_tf.data.lra import ListOpsConfig
    >>> config = ListOpsConfig(num_train=1000, min_length=9, max_length=51)
    >>> config.num_examples
    5000
    """

    num_train: int = 96_000
    num_validation: int = 2_000
    num_test: int = 2_000
    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000
    operator_probability: float = 0.25
    seed: int = 0

    def __post_init__(self):
        for name, lowest, highest in (
            ("num_train", 1, 10**9),
            ("num_validation", 1, 10**9),
            ("num_test", 1, 10**9),
            ("max_depth", 1, 1000),
            ("max_args", 2, 1000),
            ("max_length", 2, _CHUNK_TOKENS),
            ("min_length", 0, self.max_length),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not lowest <= value <= highest:
                raise ValueError(
                    f"{name} must be an integer from {lowest} to {highest}. "
                    f"Received: {name}={value!r}."
                )
        if self.max_length - self.min_length < 2:
            raise ValueError(
                "max_length must be at least min_length + 2, as both bounds "
                f"are excluded. Received: min_length={self.min_length}, "
                f"max_length={self.max_length}."
            )
        probability = self.operator_probability
        if not (isinstance(probability, float) and 0.0 < probability < 1.0):
            raise ValueError(
                "operator_probability must be a float between 0 and 1, both "
                f"excluded. Received: operator_probability={probability!r}."
            )
        available = _count_expressions(self)
        if available < self.num_examples:
            raise ValueError(
                f"There are only {available:.0f} different expressions with "
                f"max_depth={self.max_depth}, max_args={self.max_args} and "
                f"{self.min_length} < length < {self.max_length}, but "
                f"{self.num_examples} are wanted. Widen these bounds or lower "
                "num_train, num_validation or num_test."
            )

    @property
    def num_examples(self) -> int:
        """Examples of all three splits together."""
        return self.num_train + self.num_validation + self.num_test


def _count_expressions(config: ListOpsConfig) -> float:
    """Returns how many expressions there are; infinity if too many to count."""
    longest = 1
    for _ in range(min(config.max_depth, _COUNTED_LENGTH) - 1):
        longest = 2 + config.max_args * longest
    if longest <= config.min_length:
        return 0
    if min(longest, config.max_length - 1) > _COUNTED_LENGTH:
        return np.inf
    size = min(longest + 1, config.max_length)
    counts = digits = 10.0 * (np.arange(size) == 1)
    for _ in range(min(config.max_depth, size) - 1):
        # Lengths of all lists of 2..max_args arguments, by Horner's rule:
        # c^2 (1 + c (1 + c (...))) with c the arguments' generating function.
        lists = np.eye(1, size)[0]
        for _ in range(min(config.max_args, size) - 2):
            lists = np.convolve(counts, lists)[:size]
            lists[0] += 1
        for _ in range(2):
            lists = np.convolve(counts, lists)[:size]
        # An operator, one of four, adds itself and its bracket.
        counts = digits + 4.0 * np.append([0.0, 0.0], lists)[:size]
    return counts[config.min_length + 1 :].sum()


def generate(
    config: ListOpsConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Split]:
    """Generates the three splits; no expression occurs twice in them.

    The data depend on `config` only. Expressions are drawn in chunks, each
    from a random stream of its own, and taken in the order of the chunks; a
    seeded shuffle then assigns them to the splits, so that all three have the
    same distribution although frequent expressions tend to come early.

    Args:
        config: what to generate.
        num_workers: threads; one per available core by default, 1 for none.
            Threads and not processes, since the time is spent inside numpy,
            which lets other threads run meanwhile.
        progress: called as `progress(done, total)` after each chunk.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`.

    Raises:
        ValueError: `num_workers` is below 1.
        RuntimeError: after a million attempts nothing new was found: what is
            asked for is possible, but far too improbable.

    Example:

    >>> from luna_tf.data.lra import ListOpsConfig, generate
    >>> from luna_tf.data.lra.listops_expressions import to_tsv_source
    >>> short = dict(min_length=3, max_length=20, max_args=5)
    >>> splits = generate(ListOpsConfig(8, 1, 1, seed=1, **short))
    >>> to_tsv_source(splits["test"].example(0), parentheses=False)
    '[MAX 0 2 ]'
    >>> splits["test"].labels
    array([2], dtype=uint8)
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(
            "num_workers must be None or at least 1. "
            f"Received: num_workers={num_workers}."
        )
    total = config.num_examples
    attempts = _attempts_per_chunk(config)
    rows: list[np.ndarray] = []
    labels: list[int] = []
    seen: set[bytes] = set()
    stalled = 0
    with contextlib.closing(_chunks(config, num_workers or _cores())) as chunks:
        for tokens, lengths, values in chunks:
            known = len(rows)
            examples = np.split(tokens, np.cumsum(lengths)[:-1])
            # Not strict: an empty chunk is split into one empty row.
            for row, label in zip(examples, values.tolist(), strict=False):
                digest = hashlib.blake2b(row.data, digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    rows.append(row)
                    labels.append(label)
            if progress is not None:
                progress(min(len(rows), total), total)
            if len(rows) >= total:
                break
            stalled = stalled + attempts if len(rows) == known else 0
            if stalled >= _STALL_ATTEMPTS:
                raise RuntimeError(
                    f"The last {stalled} attempts gave no new expression; "
                    f"{len(rows)} of {total} were found before. {config} asks "
                    "for expressions that are too improbable: widen "
                    "min_length < length < max_length, raise max_depth or "
                    "max_args, or ask for fewer examples."
                )
    return _assign(config, rows[:total], np.array(labels[:total], np.uint8))


def _assign(
    config: ListOpsConfig, rows: list[np.ndarray], labels: np.ndarray
) -> dict[str, Split]:
    sequence = np.random.SeedSequence(config.seed, spawn_key=(1,))
    rng = np.random.Generator(np.random.PCG64(sequence))
    order = np.argsort(rng.integers(0, 2**62, size=len(rows)), kind="stable")
    sizes = {
        "train": config.num_train,
        "validation": config.num_validation,
        "test": config.num_test,
    }
    splits, start = {}, 0
    for name, size in sizes.items():
        indices = order[start : start + size]
        splits[name] = Split.from_rows(
            [rows[i] for i in indices], labels[indices]
        )
        start += size
    return splits


def _attempts_per_chunk(config: ListOpsConfig) -> int:
    return min(_CHUNK_ATTEMPTS, _CHUNK_TOKENS // config.max_length)


def _chunks(
    config: ListOpsConfig, num_workers: int
) -> Generator[_Chunk, None, None]:
    """Yields the chunks 0, 1, 2, ... of a configuration, without end."""
    draw = functools.partial(
        sample_chunk,
        seed=config.seed,
        attempts=_attempts_per_chunk(config),
        max_depth=config.max_depth,
        max_args=config.max_args,
        min_length=config.min_length,
        max_length=config.max_length,
        operator_probability=config.operator_probability,
    )
    if num_workers == 1:
        yield from map(draw, itertools.count())
    yield from map(draw, range(_CHUNKS_WITHOUT_THREADS))
    pool = concurrent.futures.ThreadPoolExecutor(num_workers)
    try:
        pending: collections.deque[concurrent.futures.Future[_Chunk]]
        pending = collections.deque()
        for index in itertools.count(_CHUNKS_WITHOUT_THREADS):
            pending.append(pool.submit(draw, index))
            # Enough that no thread ever waits for the consumer.
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
