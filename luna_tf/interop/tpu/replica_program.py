"""What one TPU core computes in a step, as a pure function.

A step traced under a TPUStrategy is one cluster of nodes, which every core
runs on inputs of its own. Here its reads of variables become inputs and its
assignments become results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from luna_tf.interop.tpu.cluster import Cluster, TPUProgramError


@dataclasses.dataclass(frozen=True)
class ReplicaProgram:
    """A pure function: replica id, batch and variables to outputs and
    variables.

    Args:
        num_replicas: number of replicas that run it together.
        batch: what each replica gets of the batch, in the order of names.
        variables: type of each variable's value, in the order of the caller.
        outputs: types of what the step returns, flat.
        graph: the function, with TensorFlow's own collective ops.
        arguments: tensor names of replica id, batch and variables, which
            `graph` refers to but does not hold.
        results: tensor names of outputs and new variable values; one may be
            the name of an argument.
    """

    num_replicas: int
    batch: Mapping[str, tf.TensorSpec]
    variables: tuple[tf.TensorSpec, ...]
    outputs: tuple[tf.TensorSpec, ...]
    graph: tf.compat.v1.GraphDef
    arguments: tuple[str, ...]
    results: tuple[str, ...]


def trace(
    strategy: tf.distribute.TPUStrategy,
    replica_fn: Callable[[Mapping[str, tf.Tensor]], Any],
    batch: Mapping[str, tf.TensorSpec],
    variables: Sequence[tf.Variable],
) -> ReplicaProgram:
    """Traces one step as `strategy.run` does on a TPU.

    Args:
        strategy: from `tracing_strategy`.
        replica_fn: what a replica does with its part of a batch. It returns
            tensors or None and must not create variables.
        batch: shape and type of each replica's part, fully static.
        variables: every variable that `replica_fn` reads or writes.

    Returns:
        The program of one replica.

    Raises:
        TPUProgramError: naming op and node of what a TPU cannot run, or the
            part of the batch whose shape is not static.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.interop.tpu.tracing import tracing_strategy
    >>> strategy = tracing_strategy(4)
    >>> with strategy.scope():
    ...     total = tf.Variable(0.0)
    >>> def step(batch):
    ...     context = tf.distribute.get_replica_context()
    ...     part = tf.reduce_sum(batch["x"])
    ...     total.assign(context.all_reduce(tf.distribute.ReduceOp.SUM, part))
    >>> program = trace(strategy, step, {"x": tf.TensorSpec((8, 3))}, [total])
    >>> program.num_replicas, program.variables[0].shape
    (4, TensorShape([]))
    """
    _check_static(batch)
    names = [variable.name for variable in variables]
    for name, variable in zip(names, variables, strict=True):
        if not isinstance(variable, tf.distribute.DistributedValues):
            raise TPUProgramError(
                f"the variable {name!r} was made outside of the strategy's "
                "scope, so that replicas cannot hold it"
            )
    inputs: list[tf.Tensor] = []
    handles: list[tf.Tensor] = []
    outputs: list[tf.TensorSpec] = []

    def replica(part: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        inputs.append(context.replica_id_in_sync_group)
        inputs.extend(part[name] for name in sorted(part))
        # Asked for in here, a variable's handle is the very node that the
        # reads and assignments of the step refer to.
        handles.extend(variable.handle for variable in variables)
        result = tf.nest.flatten(replica_fn(part))
        tensors = [tf.convert_to_tensor(r) for r in result if r is not None]
        outputs.extend(tf.TensorSpec(t.shape, t.dtype) for t in tensors)
        return tensors

    @tf.function(autograph=False)
    def run(parts: Mapping[str, tf.Tensor]) -> Any:
        return strategy.run(replica, args=(parts,))

    traced = run.get_concrete_function(dict(batch))
    handle_names = [handle.op.name for handle in handles]
    captured = [tensor.op.name for tensor in traced.inputs[len(batch) :]]
    graph, results = Cluster(
        traced.graph.as_graph_def(add_shapes=True),
        dict(zip(handle_names, names, strict=True)),
        # What the step took from around it is constant to the program.
        dict(zip(captured, traced.captured_inputs, strict=True)),
    ).pure()
    return ReplicaProgram(
        num_replicas=strategy.num_replicas_in_sync,
        batch={name: batch[name] for name in sorted(batch)},
        variables=tuple(
            tf.TensorSpec(variable.shape, variable.dtype, name)
            for variable, name in zip(variables, names, strict=True)
        ),
        outputs=tuple(outputs),
        graph=graph,
        arguments=(
            *(tensor.op.inputs[0].name for tensor in inputs),
            *(handle.name for handle in handles),
        ),
        results=results,
    )


def trace_host_loop(
    strategy: tf.distribute.TPUStrategy,
    replica_fn: Callable[[Mapping[str, tf.Tensor]], Any],
    batch: Mapping[str, tf.TensorSpec],
    num_steps: int,
) -> Any:
    """Traces several steps in a loop on the host, as training runs them.

    Args:
        strategy: from `tracing_strategy`.
        replica_fn: what a replica does with its part of a batch.
        batch: shape and type of each replica's part, fully static.
        num_steps: iterations of the loop.

    Returns:
        The concrete function, which has no kernels to run with.

    Raises:
        TPUProgramError: when a shape of `batch` is not static.
    """
    _check_static(batch)

    @tf.function(autograph=False)
    def run(parts: Mapping[str, tf.Tensor]) -> None:
        def body(step: tf.Tensor) -> tuple[tf.Tensor]:
            strategy.run(replica_fn, args=(parts,))
            return (step + 1,)

        tf.while_loop(lambda step: step < num_steps, body, [tf.constant(0)])

    return run.get_concrete_function(dict(batch))


def initial_values(
    strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]
) -> list[np.ndarray]:
    """Reads the variables' values of every replica.

    Args:
        strategy: strategy in whose scope the variables were made.
        variables: the variables.

    Returns:
        For each variable an array `(num_replicas, *shape)`.
    """
    return [
        np.stack(
            [
                np.asarray(copy.numpy())
                for copy in strategy.experimental_local_results(variable)
            ]
        )
        for variable in variables
    ]


def _check_static(batch: Mapping[str, tf.TensorSpec]) -> None:
    for name, spec in batch.items():
        if not spec.shape.is_fully_defined():
            raise TPUProgramError(
                f"`batch[{name!r}]` must have a static shape, as from "
                f"`.batch(n, drop_remainder=True)`. Received: {spec.shape}"
            )
