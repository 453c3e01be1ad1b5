"""Where batches come from, in an order that a resumed run finds again.

An `IndexedSource` can be read at any place: which examples a step sees is a
pure function of `(seed, step)`, so a resumed run just starts its pipeline at
another step. A `BucketedSource` is several of them, with batches of different
shapes. A `StreamSource` can only be read on; its iterator's own state is part
of every checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

EXAMPLE_WEIGHTS = "example_weights"


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every global batch that one input pipeline delivers.

    A pipeline feeds the replicas of one worker. Rows of the global batch go
    to replicas in order, so that any number of replicas sees the same batch.

    Args:
        batch_size: rows of the global batch, over all replicas.
        num_replicas: replicas in all.
        first_replica: first replica that this pipeline feeds.
        local_replicas: how many replicas this pipeline feeds.
    """

    batch_size: int
    num_replicas: int = 1
    first_replica: int = 0
    local_replicas: int = 1

    @property
    def rows(self) -> int:
        """Rows per replica."""
        return self.batch_size // self.num_replicas


@dataclasses.dataclass(frozen=True)
class IndexedSource:
    """Examples that can be read by index.

    Args:
        size: number of examples, at least 1.
        gather: maps int64 indices `(rows,)` to a dictionary of tensors
            `(rows, ...)` by TensorFlow operations, with static shapes. Never
            called with another number of rows than the batch per replica.
        augment: changes a batch at random: maps what `gather` returned and
            int64 positions `(rows,)`, the rows' places in the endless sequence
            of epochs, to another dictionary. It must be a function of its
            arguments, or a resumed run would differ. Evaluation gives the
            indices as positions, so that it is the same each time.

    Raises:
        ValueError: `size` is below 1.

    Example:

    >>> import tensorflow as tf
    >>> ids, labels = tf.constant([[1, 2], [3, 4]]), tf.constant([0, 1])
    >>> def gather(i):
    ...     rows, answers = tf.gather(ids, i), tf.gather(labels, i)
    ...     return {"token_ids": rows, "labels": answers}
    >>> source = IndexedSource(len(labels), gather)
    >>> source.gather(tf.constant([1], tf.int64))["token_ids"].numpy()
    array([[3, 4]], dtype=int32)
    """

    size: int
    gather: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    augment: (
        Callable[[Mapping[str, tf.Tensor], tf.Tensor], Mapping[str, tf.Tensor]]
        | None
    ) = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1. Received: {self.size}")

    def batch(
        self, indices: tf.Tensor, positions: tf.Tensor
    ) -> Mapping[str, tf.Tensor]:
        """Reads examples as they are at places in training.

        Args:
            indices: int64 `(rows,)`.
            positions: int64 `(rows,)`, see `augment`.
        """
        found = self.gather(indices)
        return found if self.augment is None else self.augment(found, positions)


@dataclasses.dataclass(frozen=True)
class StreamSource:
    """Examples that come one after the other, from files for instance.

    Args:
        make_dataset: given the `Share` of this pipeline, returns an endless
            `tf.data.Dataset` of dictionaries, one per replica and step, with
            tensors `(share.rows, ...)` of static shape. It must be made of
            operations whose state TensorFlow can save (no Python functions),
            and should give every worker files of its own
            (`share.first_replica // share.local_replicas` counts workers).

    Example:

    >>> import tensorflow as tf
    >>> def make_dataset(share):
    ...     worker = share.first_replica // share.local_replicas
    ...     workers = share.num_replicas // share.local_replicas
    ...     rows = tf.data.Dataset.range(100).shard(workers, worker).repeat()
    ...     rows = rows.shuffle(50, seed=0).batch(share.rows, True)
    ...     return rows.map(lambda row: {"token_ids": row[:, None]})
    >>> source = StreamSource(make_dataset)
    >>> share = Share(batch_size=16, num_replicas=4, local_replicas=2)
    >>> source.make_dataset(share).element_spec["token_ids"].shape
    TensorShape([4, 1])
    """

    make_dataset: Callable[[Share], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class BucketedSource:
    """Examples in buckets, each of which has batches of a shape of its own.

    Devices compile one program per shape and make `steps_per_loop` steps
    without coming back to Python; so all steps of such a block are made on one
    bucket. Examples are numbered through all buckets, one after the other.

    Args:
        sources: the buckets. No two may have batches of the same shape.
        batch_sizes: rows of the global batch of each bucket. Buckets are
            trained on in proportion to their examples, whatever their rows.

    Raises:
        ValueError: there is no bucket, there are not as many batch sizes as
            buckets, or one is below 1.

    Example:

    >>> import tensorflow as tf
    >>> short, long = tf.zeros([100, 8], tf.int32), tf.zeros([20, 32], tf.int32)
    >>> sources = [
    ...     IndexedSource(100, lambda i: {"token_ids": tf.gather(short, i)}),
    ...     IndexedSource(20, lambda i: {"token_ids": tf.gather(long, i)}),
    ... ]
    >>> source = BucketedSource(sources, batch_sizes=[16, 4])
    >>> source.size, source.offsets
    (120, [0, 100])
    """

    sources: Sequence[IndexedSource]
    batch_sizes: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "batch_sizes", tuple(self.batch_sizes))
        if not self.sources or len(self.sources) != len(self.batch_sizes):
            raise ValueError(
                "sources and batch_sizes must be as many, and at least one. "
                f"Received: {len(self.sources)} and {len(self.batch_sizes)}"
            )
        if min(self.batch_sizes) < 1:
            raise ValueError(
                "batch_sizes must be at least 1. "
                f"Received: {list(self.batch_sizes)}"
            )

    @property
    def size(self) -> int:
        """Number of examples in all buckets."""
        return sum(source.size for source in self.sources)

    @property
    def offsets(self) -> list[int]:
        """Number of the first example of each bucket."""
        sizes = [0, *(source.size for source in self.sources[:-1])]
        return np.cumsum(sizes).tolist()

    def gather(self, indices: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Reads examples of one bucket, that of the first index, eagerly."""
        indices = np.asarray(indices, np.int64)
        offsets = self.offsets
        bucket = int(np.searchsorted(offsets, indices[0], "right")) - 1
        return self.sources[bucket].gather(
            tf.constant(indices - offsets[bucket])
        )


IndexableSource = IndexedSource | BucketedSource
Source = IndexableSource | StreamSource


def as_buckets(source: IndexableSource, batch_size: int) -> BucketedSource:
    """Any source that can be read by index, as buckets.

    Args:
        source: buckets, or examples that make up a single one.
        batch_size: rows of the global batch where `source` has no own.

    Returns:
        A source with at least one bucket.
    """
    if isinstance(source, BucketedSource):
        return source
    return BucketedSource([source], [batch_size])


class BlockOrder:
    """Which bucket every block of steps trains on.

    A pure function of `(seed, block)`, so that a resumed run finds its place
    by the step alone. Block `k` takes the point `k·φ + c` on a circle, modulo
    1, with the golden ratio φ and a `c` that follows from the seed; every
    bucket has an arc as long as the steps that one pass over it takes. Such
    points fill a circle evenly at any time: a bucket is never more than a few
    blocks ahead or behind, which drawing at random could not promise.

    Args:
        source: the buckets.
        steps_per_loop: steps of a block.
        seed: seed of the order.

    Example:

    >>> import tensorflow as tf
    >>> sources = [IndexedSource(size, tf.identity) for size in (100, 20)]
    >>> source = BucketedSource(sources, batch_sizes=[16, 4])
    >>> order = BlockOrder(source, steps_per_loop=50, seed=0)
    >>> order.bucket(step=120)  # that of block 2
    0
    >>> order.steps(step=120)
    array([70, 50])
    """

    def __init__(
        self, source: BucketedSource, steps_per_loop: int, seed: int
    ) -> None:
        self._source = source
        self._steps_per_loop = steps_per_loop
        self._seed = seed
        sizes = [s.size for s in source.sources]
        # In whole numbers, as a rounding error would be another order.
        common = int(np.lcm.reduce(np.array(source.batch_sizes, object)))
        arcs = [
            size * (common // rows)
            for size, rows in zip(sizes, source.batch_sizes, strict=True)
        ]
        ends = [sum(arcs[: i + 1]) for i in range(len(arcs))]
        self._ends = np.array(
            [end * (2**64 - 1) // ends[-1] for end in ends], np.uint64
        )
        # Blocks before the one that was asked for last, by bucket.
        self._block = 0
        self._counts = np.zeros(len(arcs), np.int64)

    def _buckets(self, first: int, last: int) -> np.ndarray:
        blocks = np.arange(first, last, dtype=np.uint64)
        # 2^64 divided by the golden ratio; the product wraps, as it should.
        start = self._seed * 0xD1342543DE82EF95 % 2**64
        points = blocks * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        return np.minimum(
            np.searchsorted(self._ends, points, "right"), len(self._ends) - 1
        )

    def bucket(self, step: int) -> int:
        """The bucket that a step, from 0, trains on."""
        block = step // self._steps_per_loop
        return int(self._buckets(block, block + 1)[0])

    def steps(self, step: int) -> np.ndarray:
        """Steps on each bucket before a step, int64 `(buckets,)`."""
        block, rest = divmod(step, self._steps_per_loop)
        if block < self._block:
            self._block, self._counts = 0, np.zeros_like(self._counts)
        # Blocks are counted once, not again at every log.
        self._counts = self._counts + np.bincount(
            self._buckets(self._block, block), minlength=len(self._counts)
        )
        self._block = block
        steps = self._counts * self._steps_per_loop
        steps[self.bucket(step)] += rest
        return steps

    def examples(self, step: int) -> int:
        """Examples seen before a step, repeated ones included."""
        return int(self.steps(step) @ np.array(self._source.batch_sizes))

    def indices(self, step: int) -> np.ndarray:
        """Which examples a step sees, numbered through all buckets."""
        bucket = self.bucket(step)
        return self._source.offsets[bucket] + step_indices(
            int(self.steps(step)[bucket]),
            self._source.sources[bucket],
            self._source.batch_sizes[bucket],
            self._seed,
        )


def shuffled_indices(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """The examples at places in the endless sequence of shuffled epochs.

    Every epoch of `size` places holds every example once, in an order of its
    own. There is no gap between epochs: a batch may end one and begin the
    next.

    Args:
        positions: int64 `(rows,)`, counted from the start of training.
        size: number of examples.
        seed: seed of the order.

    Returns:
        int64 `(rows,)`, indices of examples.
    """
    epochs = tf.cast(positions // size, tf.uint32)
    words = tf.fill(tf.shape(epochs), tf.constant(seed % 2**32, tf.uint32))
    # The raw operation, for two reasons: TensorFlow's wrapper shapes a seed per
    # row wrongly, and its 4 rounds leave neighbours close to each other (of
    # 1,000 examples, 20 % of steps go less than 10 places, not 2 %).
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=tf.stack([words, epochs, tf.zeros_like(epochs)], axis=1),
        max_index=tf.fill(tf.shape(positions), tf.constant(size - 1, tf.int64)),
        rounds=16,
    )


def step_indices(
    step: int, source: IndexedSource, batch_size: int, seed: int
) -> np.ndarray:
    """Which examples a training step sees, in the order of the rows.

    Args:
        step: number of the step, from 0.
        source: what is trained on.
        batch_size: rows of the global batch.
        seed: seed of the order.

    Returns:
        int64 `(batch_size,)`.
    """
    start = step * batch_size
    positions = tf.range(start, start + batch_size, dtype=tf.int64)
    return shuffled_indices(positions, source.size, seed).numpy()


def training_dataset(
    source: IndexedSource,
    share: Share,
    seed: int,
    first_step: int,
    last_step: int,
    data_service: str | None = None,
) -> tf.data.Dataset:
    """Training batches of one pipeline, one element per local replica and step.

    Args:
        source: what is trained on.
        share: this pipeline's part.
        seed: seed of the order.
        first_step: step to start with, from 0.
        last_step: step to end before.
        data_service: address of a tf.data service that computes the batches,
            `grpc://host:port`. With more than one of its workers batches may
            come in another order.

    Returns:
        A dataset of dictionaries.
    """

    def load(element: tf.Tensor) -> dict[str, tf.Tensor]:
        positions = _positions(element, share)
        indices = shuffled_indices(positions, source.size, seed)
        batch = source.batch(indices, positions)
        return _weighted(batch, tf.ones([share.rows]))

    elements = tf.data.Dataset.range(
        first_step * share.local_replicas, last_step * share.local_replicas
    )
    dataset = elements.map(
        load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if data_service is not None:
        service = tf.data.experimental.service
        dataset = dataset.apply(
            service.distribute(
                processing_mode=service.ShardingPolicy.DYNAMIC,
                service=data_service,
            )
        )
    check_static(dataset)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(source: IndexedSource, share: Share) -> tf.data.Dataset:
    """Every example once, in order; copies of weight 0 fill the last batch.

    Args:
        source: what is evaluated.
        share: this pipeline's part.

    Returns:
        A dataset of dictionaries, one element per local replica and step.
    """

    def load(element: tf.Tensor) -> dict[str, tf.Tensor]:
        positions = _positions(element, share)
        indices = tf.minimum(positions, source.size - 1)
        real = tf.cast(positions < source.size, tf.float32)
        return _weighted(source.batch(indices, indices), real)

    steps = evaluation_steps(source, share.batch_size)
    dataset = tf.data.Dataset.range(steps * share.local_replicas).map(
        load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    check_static(dataset)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_steps(source: IndexedSource, batch_size: int) -> int:
    """Steps that one pass over a source takes, the filled one included."""
    return -(-source.size // batch_size)


def _positions(element: tf.Tensor, share: Share) -> tf.Tensor:
    """Places of the rows of a pipeline's n-th element among all batches."""
    step = element // share.local_replicas
    replica = share.first_replica + element % share.local_replicas
    start = step * share.batch_size + replica * share.rows
    return start + tf.range(share.rows, dtype=tf.int64)


def _weighted(
    batch: Mapping[str, tf.Tensor], weights: tf.Tensor
) -> dict[str, tf.Tensor]:
    return {**batch, EXAMPLE_WEIGHTS: weights}


def check_static(dataset: tf.data.Dataset) -> None:
    """Refuses batches whose shape depends on data; XLA would recompile.

    Raises:
        ValueError: naming the tensor and its shape.
    """
    for name, spec in dataset.element_spec.items():
        if not spec.shape.is_fully_defined():
            raise ValueError(
                f"batches must have static shapes; {name!r} has shape "
                f"{spec.shape}. Pad it to a fixed length, and batch with "
                "drop_remainder=True."
            )
