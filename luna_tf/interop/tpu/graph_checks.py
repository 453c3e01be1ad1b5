"""What a TPU program must not hold, found in a TensorFlow graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

import tensorflow as tf

_HOST = "is a callback to the host"
_VALUES = "makes a shape that depends on values"
_STATE = "keeps its random state outside the model, so no run can repeat it"
_STRINGS = "works on strings, which stay on the host"

_REASONS = {
    **dict.fromkeys(("EagerPyFunc", "PyFunc", "PyFuncStateless"), _HOST),
    **dict.fromkeys(("Print", "PrintV2"), _HOST),
    # tf.where(condition) and tf.boolean_mask are both Where.
    **dict.fromkeys(("Where", "ListDiff", "DynamicPartition"), _VALUES),
    **dict.fromkeys(("Unique", "UniqueV2", "UniqueWithCounts"), _VALUES),
    **dict.fromkeys(("UniqueWithCountsV2", "Bincount"), _VALUES),
    **dict.fromkeys(("XlaSetDynamicDimensionSize",), _VALUES),
    **dict.fromkeys(("RandomUniform", "RandomUniformInt"), _STATE),
    **dict.fromkeys(("RandomStandardNormal", "TruncatedNormal"), _STATE),
    **dict.fromkeys(("ParameterizedTruncatedNormal", "Multinomial"), _STATE),
    **dict.fromkeys(("RandomShuffle", "RandomGamma"), _STATE),
    **dict.fromkeys(("RandomPoisson", "RandomPoissonV2"), _STATE),
}
_STRING_OPS = re.compile("String|Regex|Substr|ReduceJoin|DecodeRaw")


@dataclasses.dataclass(frozen=True)
class ForbiddenOp:
    """An op that has no place on a TPU.

    Args:
        op: type, such as `Where`.
        node: name in the graph, or `function/name` within a loop's body, a
            branch or a nested function.
        reason: what it does there.
    """

    op: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} ({self.node}) {self.reason}"


def forbidden_ops(
    graph: tf.Graph | tf.compat.v1.GraphDef,
) -> list[ForbiddenOp]:
    """Lists the ops that a TPU refuses, or accepts to its own harm.

    Refused are callbacks to the host and strings. Accepted without a word,
    but slow or wrong, are shapes that depend on values (`tf.where(condition)`,
    `tf.boolean_mask`, `tf.unique`) and stateful `tf.random`.

    Args:
        graph: a traced graph; loop bodies, branches and nested functions
            that it calls are looked into.

    Returns:
        What was found, in the order of the graph; empty when all is well.

    Example:

    >>> import tensorflow as tf
    >>> step = tf.function(lambda x: tf.boolean_mask(x, x > 0))
    >>> graph = step.get_concrete_function(tf.TensorSpec((4,))).graph
    >>> [found.op for found in forbidden_ops(graph)]
    ['Where']
    """
    if isinstance(graph, tf.Graph):
        graph = graph.as_graph_def()
    found = list(_check(graph.node, ""))
    for function in called_functions(graph):
        name = function.signature.name
        found.extend(_check(function.node_def, f"{name}/"))
    return found


def called_functions(graph: tf.compat.v1.GraphDef) -> list:
    """The functions of a graph's library that its nodes call, nested too.

    Args:
        graph: a graph with its library.

    Returns:
        `FunctionDef` messages, each once.
    """
    library = {f.signature.name: f for f in graph.library.function}
    wanted = list(_calls(graph.node))
    seen: dict[str, None] = {}
    while wanted:
        name = wanted.pop()
        if name not in seen and name in library:
            seen[name] = None
            wanted.extend(_calls(library[name].node_def))
    return [library[name] for name in seen]


def _calls(nodes: Iterable[tf.compat.v1.NodeDef]) -> Iterator[str]:
    for node in nodes:
        for attribute in node.attr.values():
            for function in (attribute.func, *attribute.list.func):
                if function.name:
                    yield function.name


def _check(
    nodes: Iterable[tf.compat.v1.NodeDef], prefix: str
) -> Iterator[ForbiddenOp]:
    for node in nodes:
        reason = _REASONS.get(node.op)
        # Assertions are no matter: XLA drops them, with their messages.
        if reason is None and _STRING_OPS.search(node.op):
            reason = _STRINGS
        if reason is not None:
            yield ForbiddenOp(node.op, prefix + node.name, reason)
