"""StableHLO of a replica program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import tensorflow as tf

from luna_tf.interop.tpu.cluster import TPUProgramError
from luna_tf.interop.tpu.replica_program import ReplicaProgram
from luna_tf.interop.tpu.stablehlo import ALL_TO_ALL


@dataclasses.dataclass(frozen=True)
class LoweredProgram:
    """StableHLO of one replica.

    Args:
        stablehlo: portable bytecode; arguments and results as those of the
            `ReplicaProgram`, flat.
        kernels: `"tpu"` or `"cpu"`: whose kernels made it. The CPU's differ in
            how they make random bits, which compiling for a TPU undoes.
        num_replicas: number of replicas.
        batch: what each replica gets of the batch.
        variables: types of the variables.
        num_outputs: number of outputs, which precede the variables.
    """

    stablehlo: bytes
    kernels: str
    num_replicas: int
    batch: Mapping[str, tf.TensorSpec]
    variables: tuple[tf.TensorSpec, ...]
    num_outputs: int


def has_tpu_kernels() -> bool:
    """Whether TensorFlow is the tensorflow-tpu package."""
    return bool(tf.config.list_physical_devices("TPU_SYSTEM"))


def lower(program: ReplicaProgram) -> LoweredProgram:
    """Translates a program with the TPU's kernels, or the CPU's without those.

    The tensorflow-tpu package has the former. Where there is no TPU, it needs
    the variables of `compiling.ENVIRONMENT` before it is imported.

    Args:
        program: from `trace`.

    Returns:
        Its StableHLO.

    Raises:
        TPUProgramError: when XLA has no form of an op, with XLA's words.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.interop.tpu.replica_program import trace
    >>> from luna_tf.interop.tpu.tracing import tracing_strategy
    >>> strategy = tracing_strategy(4)
    >>> def step(batch):
    ...     context = tf.distribute.get_replica_context()
    ...     part = tf.reduce_sum(batch["x"])
    ...     return context.all_reduce(tf.distribute.ReduceOp.SUM, part)
    >>> program = trace(strategy, step, {"x": tf.TensorSpec((8, 3))}, [])
    >>> lowered = lower(program)
    >>> lowered.num_replicas, lowered.num_outputs, type(lowered.stablehlo)
    (4, 1, <class 'bytes'>)
    """
    kernels = "tpu" if has_tpu_kernels() else "cpu"
    graph = program.graph
    if kernels == "cpu":
        graph = _without_tpu_ops(graph)
    specs = [
        tf.TensorSpec((), tf.int32),
        *program.batch.values(),
        *program.variables,
    ]

    used = {name for node in graph.node for name in node.input}
    computed = [r for r in program.results if r not in program.arguments]

    # A flat signature: a structure would be flattened in an order of its own.
    @tf.function(jit_compile=True, autograph=False)
    def pure(*arguments: tf.Tensor) -> list[tf.Tensor]:
        tensors = dict(zip(program.arguments, arguments, strict=True))
        elements = tf.graph_util.import_graph_def(
            graph,
            input_map={k: v for k, v in tensors.items() if k in used},
            return_elements=computed,
            name="",
        )
        tensors |= zip(computed, elements, strict=True)
        return [tensors[name] for name in program.results]

    try:
        stablehlo = pure.experimental_get_compiler_ir(
            *(tf.TensorSpec(spec.shape, spec.dtype) for spec in specs)
        )(
            stage="stablehlo_serialized",
            platform_name="TPU" if kernels == "tpu" else None,
        )
    except (tf.errors.OpError, ValueError) as error:
        words = str(error).strip().splitlines()[0]
        raise TPUProgramError(f"XLA refuses the step: {words}") from error
    return LoweredProgram(
        stablehlo=stablehlo,
        kernels=kernels,
        num_replicas=program.num_replicas,
        batch=program.batch,
        variables=program.variables,
        num_outputs=len(program.outputs),
    )


def _without_tpu_ops(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces the collectives that have TPU kernels only."""
    graph = tf.compat.v1.GraphDef.FromString(graph.SerializeToString())
    _replace_sums(graph.node)
    for function in graph.library.function:
        _replace_sums(function.node_def)
    for node in graph.node:
        if node.op == "AllToAll":
            _replace_all_to_all(node)
    return graph


def _replace_sums(nodes: Iterable[tf.compat.v1.NodeDef]) -> None:
    for node in nodes:
        if node.op == "CrossReplicaSum":
            node.op = "XlaAllReduce"
            node.attr["reduce_op"].s = b"Add"
            node.attr["mode"].s = b"CrossReplica"


def _replace_all_to_all(node: tf.compat.v1.NodeDef) -> None:
    # No CPU kernel exists, so a call by name goes through TensorFlow's part.
    attributes = node.attr
    config = "{split_dimension.i} {concat_dimension.i} {split_count.i}"
    call = tf.compat.v1.NodeDef(
        name=node.name, op="XlaCustomCallV2", input=node.input[:1]
    )
    call.attr["call_target_name"].s = ALL_TO_ALL.encode()
    call.attr["backend_config"].s = config.format_map(attributes).encode()
    call.attr["has_side_effect"].b = False
    call.attr["operand_dtypes"].list.type.append(attributes["T"].type)
    call.attr["result_dtypes"].list.type.append(attributes["T"].type)
    call.attr["result_shapes"].list.shape.append(
        attributes["_output_shapes"].list.shape[0]
    )
    node.CopyFrom(call)
