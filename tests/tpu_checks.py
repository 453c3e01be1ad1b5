"""One-line checks that a trainer's steps are fit for a TPU."""

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.interop.tpu import processes, replica_program


def _needs(*modules):
    """Skips a test where the extra tpu-compile is not installed."""
    reason = ""
    try:
        processes.require(*modules)
    except processes.MissingCompilerError as error:
        reason = str(error)
    return pytest.mark.skipif(bool(reason), reason=reason)


needs_jax = _needs("jax")
needs_libtpu = _needs("jax", "libtpu")


def trace(loop, batch):
    """Traces a loop's training step, its evaluation step and its host loop.

    The loop must live in a `tracing_strategy`; `batch` holds the shapes of one
    replica's part. Raises for whatever a TPU refuses or runs badly. Returns
    the two steps' programs.
    """
    strategy = loop.strategy
    assert isinstance(strategy, tf.distribute.TPUStrategy)
    loop.build(
        {
            name: tf.zeros([size or 1 for size in spec.shape], spec.dtype)
            for name, spec in batch.items()
        }
    )
    programs = [
        replica_program.trace(strategy, step, batch, loop.variables)
        for step in (loop.train_replica, loop.evaluate_replica)
    ]
    host = replica_program.trace_host_loop(
        strategy, loop.train_replica, batch, num_steps=2
    )
    assert "TPUReplicateMetadata" in _ops_inside_loops(host.graph)
    return programs


def _ops_inside_loops(graph):
    library = graph.as_graph_def().library
    return {n.op for function in library.function for n in function.node_def}


def split(batch, num_replicas):
    """Arrays of a global batch, divided for `simulate`."""
    return {
        name: np.reshape(array, (num_replicas, -1, *np.shape(array)[1:]))
        for name, array in batch.items()
    }


def specs(batch, num_replicas):
    """Shapes of one replica's part of a global batch of arrays."""
    return {
        name: tf.TensorSpec(part.shape[1:], part.dtype)
        for name, part in split(batch, num_replicas).items()
    }
