"""Reads and assignments of a traced cluster, turned into inputs and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from luna_tf.interop.tpu.graph_checks import called_functions, forbidden_ops

_ASSIGN = {
    "AssignVariableOp": None,
    "AssignAddVariableOp": "AddV2",
    "AssignSubVariableOp": "Sub",
}
_CALLS = ("Call", "If", "While", "Case")
# Where handles come from, and the attribute that tells them from tensors.
_TYPE = {"Placeholder": "dtype", "TPUReplicatedInput": "T"}
# Meant for the placement of the traced graph.
_ATTRIBUTES = ("_tpu_replicate", "_class", "_xla_compile_id")


class TPUProgramError(ValueError):
    """A step holds what no TPU can run, or can run only badly."""


class Cluster:
    """The nodes that one `strategy.run` marks for the TPU cores.

    TensorFlow creates the nodes of a function in the order in which the Python
    code runs, so one walk through them sees every read of a variable after the
    assignments that precede it.

    Args:
        graph: the traced function's graph.
        variables: name of the node that stands for each variable in the
            cluster -> name of the variable.
        constants: name of a placeholder -> value, for what the function took
            from around it.
    """

    def __init__(
        self,
        graph: tf.compat.v1.GraphDef,
        variables: Mapping[str, str],
        constants: Mapping[str, tf.Tensor],
    ) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.node}
        self._variables = variables
        self._constants = constants
        # Current value of each variable.
        self._state = {handle: f"{handle}:0" for handle in variables}
        # What a read returned, and which handle a node passes on.
        self._reads: dict[str, str] = {}
        self._handles = {handle: handle for handle in variables}
        self._kept: dict[str, tf.compat.v1.NodeDef] = {}

    def pure(self) -> tuple[tf.compat.v1.GraphDef, tuple[str, ...]]:
        """Resolves the variables.

        Returns:
            The graph of what the results need, in which the cluster's inputs
            are missing, and the tensor names of the results: the outputs, then
            the new values of all variables.

        Raises:
            TPUProgramError: naming op and node.
        """
        own = [n for n in self._graph.node if "_tpu_replicate" in n.attr]
        found = forbidden_ops(
            tf.compat.v1.GraphDef(node=own, library=self._graph.library)
        )
        if found:
            shown = "; ".join(map(str, found[:3]))
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise TPUProgramError(f"a TPU must not run {shown}{more}")
        for node in own:
            self._resolve(node)
        outputs = (
            self._tensor(node.input[0])
            for node in self._graph.node
            if node.op == "TPUReplicatedOutput"
        )
        results = (*outputs, *self._state.values())
        kept = tf.compat.v1.GraphDef(
            node=self._needed(results), library=self._graph.library
        )
        library = tf.compat.v1.GraphDef().library
        library.function.extend(called_functions(kept))
        return (
            tf.compat.v1.GraphDef(
                node=kept.node, library=library, versions=self._graph.versions
            ),
            results,
        )

    def _tensor(self, name: str) -> str:
        """Full name of a tensor, with reads followed."""
        name = name if ":" in name else f"{name}:0"
        return self._reads.get(name, name)

    def _resolve(self, node: tf.compat.v1.NodeDef) -> None:
        data = [name for name in node.input if not name.startswith("^")]
        handles = [h for h in (self._handle(node, name) for name in data) if h]
        if not handles:
            kept = tf.compat.v1.NodeDef()
            kept.CopyFrom(node)
            kept.device = ""
            kept.ClearField("input")
            kept.input.extend(map(self._tensor, data))
            for name in _ATTRIBUTES:
                kept.attr.pop(name, None)
            self._kept[node.name] = kept
        elif node.op == "Identity":
            self._handles[node.name] = handles[0]
        elif node.op == "ReadVariableOp":
            self._reads[f"{node.name}:0"] = self._state[handles[0]]
        elif node.op in _ASSIGN:
            self._assign(node, handles[0], self._tensor(data[1]))
        else:
            self._refuse(node, self._variables[handles[0]])

    def _handle(self, node: tf.compat.v1.NodeDef, name: str) -> str | None:
        """Which variable an input of a node is the handle of, if any."""
        name = _node(name)
        if name in self._handles:
            return self._handles[name]
        source = self._nodes[name]
        attribute = source.attr.get(_TYPE.get(source.op, ""))
        if attribute and attribute.type == tf.resource.as_datatype_enum:
            raise TPUProgramError(
                f"{node.op} ({node.name}) uses {name}, which is not one of "
                "`variables` made in the strategy's scope"
            )
        return None

    def _assign(
        self, node: tf.compat.v1.NodeDef, handle: str, value: str
    ) -> None:
        operation = _ASSIGN[node.op]
        if operation:
            update = tf.compat.v1.NodeDef(name=node.name, op=operation)
            update.input.extend([self._state[handle], value])
            update.attr["T"].type = node.attr["dtype"].type
            self._kept[node.name] = update
            value = f"{node.name}:0"
        self._state[handle] = value

    def _refuse(self, node: tf.compat.v1.NodeDef, variable: str) -> None:
        if node.op.endswith(_CALLS):
            raise TPUProgramError(
                f"{node.op} ({node.name}) takes the variable {variable!r} into "
                "a loop, a branch or a nested function: read it before and "
                "assign it after"
            )
        raise TPUProgramError(
            f"{node.op} ({node.name}) on the variable {variable!r} has no pure "
            "form here: read the variable and assign it as a whole"
        )

    def _needed(self, results: Sequence[str]) -> Iterator[tf.compat.v1.NodeDef]:
        wanted, seen = [_node(name) for name in results], set()
        while wanted:
            name = wanted.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self._kept.get(name) or self._from_host(name)
            if node is not None:
                yield node
                wanted.extend(_node(i) for i in node.input)

    def _from_host(self, name: str) -> tf.compat.v1.NodeDef | None:
        node = self._nodes[name]
        if node.op == "TPUReplicatedInput":
            return None
        if name in self._constants:
            value = tf.make_tensor_proto(self._constants[name])
            node = tf.compat.v1.NodeDef(name=name, op="Const")
            node.attr["dtype"].type = value.dtype
            node.attr["value"].tensor.CopyFrom(value)
        if node.op != "Const":
            raise TPUProgramError(
                f"{node.op} ({name}) runs on the host in the midst of the step"
            )
        return node


def _node(tensor: str) -> str:
    return tensor.split(":")[0]
