"""A real TPUStrategy on a machine without a TPU, for tracing only."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_HOST = "/job:localhost/replica:0/task:0/device:"


def tracing_strategy(num_replicas: int) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy that traces steps exactly as on TPU cores.

    Every class and every op of the trace is TensorFlow's own; only the devices
    are made up: one CPU device holds the variables of all replicas. A traced
    step cannot be run: no CPU has a kernel for the TPU's ops. Strategies of
    several sizes may live in one process, before or after TensorFlow has
    started its devices.

    Args:
        num_replicas: number of TPU cores to trace for, at least 1.

    Returns:
        The strategy. Build models and optimizers in its `scope()`.

    Raises:
        ValueError: when `num_replicas` is not a positive integer.

    Example:

    >>> import tensorflow as tf
    >>> strategy = tracing_strategy(4)
    >>> with strategy.scope():
    ...     total = tf.Variable(0.0)
    >>> len(strategy.experimental_local_results(total))
    4
    """
    if not isinstance(num_replicas, int) or num_replicas < 1:
        raise ValueError(
            "`num_replicas` must be a positive integer. Received: "
            f"num_replicas={num_replicas!r}"
        )
    strategy = tf.distribute.TPUStrategy(
        _Resolver(num_replicas),
        experimental_device_assignment=_Assignment(num_replicas),
    )
    # A packed variable finds its copies by device: with all of them on one, an
    # assignment would reach only the first. There is no public switch.
    strategy._enable_packed_variable_in_eager_mode = False
    return strategy


class _Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
    """Answers for a host with TPU cores without asking any."""

    def __init__(self, num_replicas: int) -> None:
        super().__init__(tpu="local", job_name="localhost")
        self._num_replicas = num_replicas

    def get_tpu_system_metadata(self) -> tf.tpu.experimental.TPUSystemMetadata:
        return tf.tpu.experimental.TPUSystemMetadata(
            num_cores=self._num_replicas,
            num_hosts=1,
            num_of_cores_per_host=self._num_replicas,
            topology=None,
            devices=tuple(
                tf.config.LogicalDevice(f"{_HOST}TPU:{core}", "TPU")
                for core in range(self._num_replicas)
            ),
        )


class _Assignment(tf.tpu.experimental.DeviceAssignment):
    """One core per replica, whose variables lie on the host."""

    def __init__(self, num_replicas: int) -> None:
        coordinates = np.zeros((num_replicas, 1, 4), np.int32)
        coordinates[:, 0, 0] = np.arange(num_replicas)
        super().__init__(
            tf.tpu.experimental.Topology(
                mesh_shape=[num_replicas, 1, 1, 1],
                device_coordinates=coordinates.reshape(1, num_replicas, 4),
            ),
            coordinates,
        )

    def tpu_device(self, *unused: Any, **also_unused: Any) -> str:
        return f"{_HOST}CPU:0"
