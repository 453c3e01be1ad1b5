"""Where batches come from, in an order that a resumed run finds again.

An `IndexedSource` can be read at any place: which examples a step sees is a
pure function of `(seed, step)`, so a resumed run just starts its pipeline at
another step. A `StreamSource` can only be read on; its iterator's own state is
part of every checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

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

    Raises:
        ValueError: `size` is below 1.

    Example:

    ```python
    source = IndexedSource(
        len(labels),
        lambda i: {"token_ids": tf.gather(ids, i), "labels": ...},
    )
    ```
    """

    size: int
    gather: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1. Received: {self.size}")


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

    ```python
    def make_dataset(share):
        files = tf.data.Dataset.list_files("train-*.tfrecord", seed=0)
        worker = share.first_replica // share.local_replicas
        workers = share.num_replicas // share.local_replicas
        files = files.shard(workers, worker)
        data = tf.data.TFRecordDataset(files).repeat().map(parse)
        return data.shuffle(10_000, seed=0).batch(share.rows, True)

    source = StreamSource(make_dataset)
    ```
    """

    make_dataset: Callable[[Share], tf.data.Dataset]


Source = IndexedSource | StreamSource


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
        indices = shuffled_indices(
            _positions(element, share), source.size, seed
        )
        return _weighted(source.gather(indices), tf.ones([share.rows]))

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
        return _weighted(source.gather(indices), real)

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
