"""What an optimised program does besides arithmetic, read from its HLO text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_COLLECTIVES = (
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
_HOST = ("infeed", "outfeed", "send", "recv")
_HEADING = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
# The type, in between, has no word followed by an opening parenthesis.
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\((.*)$")
_DYNAMIC = re.compile(r"[a-z]\w*\[[^\]]*<=[^\]]*\]")


@dataclasses.dataclass(frozen=True)
class HLOSummary:
    """What matters of a compiled program.

    Args:
        all_reduces: how many tensors each all-reduce sums up; one entry when
            the compiler has combined them all.
        collectives: other exchanges between chips, by kind.
        host_transfers: instructions that wait for the host.
        dynamic_shapes: shapes with a bound in place of a size.
        trip_counts: iterations of each loop, None where they do not follow
            from the text. The compiler's costs count a loop's body once.
    """

    all_reduces: tuple[int, ...]
    collectives: Mapping[str, int]
    host_transfers: tuple[str, ...]
    dynamic_shapes: tuple[str, ...]
    trip_counts: tuple[int | None, ...]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> HLOSummary:
        """The inverse of `dataclasses.asdict` and JSON.

        Args:
            fields: the fields, with lists for tuples.

        Returns:
            The summary.
        """
        tuples: dict[str, Any] = {
            name: tuple(value)
            for name, value in fields.items()
            if isinstance(value, list)
        }
        return cls(**{**fields, **tuples})


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    rest: str
    is_root: bool


_Computation = dict[str, _Instruction]


def summarize(text: str) -> HLOSummary:
    """Reads the text of an optimised HLO module.

    Args:
        text: as `HloModule.to_string()` prints it.

    Returns:
        The summary.
    """
    computations = _parse(text)
    found = [
        (computation, instruction)
        for computation in computations.values()
        for instruction in computation.values()
    ]
    collectives: dict[str, int] = {}
    for _, instruction in found:
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            collectives[kind] = collectives.get(kind, 0) + 1
    return HLOSummary(
        all_reduces=tuple(
            len(instruction.operands)
            for _, instruction in found
            if instruction.opcode in ("all-reduce", "all-reduce-start")
        ),
        collectives=collectives,
        host_transfers=tuple(
            f"{i.opcode} {i.name}" for _, i in found if _waits_for_host(i)
        ),
        dynamic_shapes=tuple(dict.fromkeys(_DYNAMIC.findall(text))),
        trip_counts=tuple(
            _trip_count(instruction, computation, computations)
            for computation, instruction in found
            if instruction.opcode == "while"
        ),
    )


def _parse(text: str) -> dict[str, _Computation]:
    computations: dict[str, _Computation] = {}
    current: _Computation = {}
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            current = computations.setdefault(heading[1], {})
            continue
        match = _INSTRUCTION.match(line)
        if match:
            root, name, opcode, tail = match.groups()
            inside, rest = _split(tail)
            current[name] = _Instruction(
                name=name,
                opcode=opcode,
                operands=tuple(re.findall(r"%([\w.-]+)", inside)),
                literal=inside,
                rest=rest,
                is_root=bool(root),
            )
    return computations


def _split(tail: str) -> tuple[str, str]:
    """Cuts at the parenthesis that closes the operands."""
    depth = 1
    for index, letter in enumerate(tail):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return tail[:index], tail[index + 1 :]
    return tail, ""


def _waits_for_host(instruction: _Instruction) -> bool:
    if instruction.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
        return target is not None and "callback" in target[1].lower()
    return instruction.opcode in _HOST


def _trip_count(
    loop: _Instruction,
    around: _Computation,
    computations: Mapping[str, _Computation],
) -> int | None:
    """Iterations of `for (i = start; i < limit; i += step)`, else None."""
    parts = re.search(r"condition=%?([\w.-]+), body=%?([\w.-]+)", loop.rest)
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    if not parts:
        return None
    condition, body = (computations.get(name, {}) for name in parts.groups())
    test = _root(condition)
    if not test or test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    index = _element(condition, test.operands[0])
    limit = _constant(condition, test.operands[1])
    start = _constant(around, _operand(around, loop.operands[0], index))
    step = _step(body, index)
    if limit is None or start is None or not step:
        return None
    return max(0, -(-(limit - start) // step))


def _root(computation: _Computation) -> _Instruction | None:
    return next((i for i in computation.values() if i.is_root), None)


def _follow(computation: _Computation, name: str | None) -> _Instruction | None:
    """The instruction that made a value, copies looked through."""
    instruction = computation.get(name or "")
    while instruction and instruction.opcode in ("copy", "copy-done"):
        instruction = computation.get(instruction.operands[0])
        if instruction and instruction.opcode == "copy-start":
            instruction = computation.get(instruction.operands[0])
    return instruction


def _constant(computation: _Computation, name: str | None) -> int | None:
    instruction = _follow(computation, name)
    if not instruction or instruction.opcode != "constant":
        return None
    return int(instruction.literal) if _is_int(instruction.literal) else None


def _is_int(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _element(computation: _Computation, name: str) -> int | None:
    """Which element of the loop's tuple a value is."""
    instruction = _follow(computation, name)
    if not instruction or instruction.opcode != "get-tuple-element":
        return None
    index = re.search(r"index=(\d+)", instruction.rest)
    return int(index[1]) if index else None


def _operand(
    computation: _Computation, name: str, index: int | None
) -> str | None:
    instruction = _follow(computation, name)
    if index is None or not instruction or instruction.opcode != "tuple":
        return None
    return instruction.operands[index]


def _step(body: _Computation, index: int | None) -> int | None:
    """What a loop's body adds to an element of its tuple."""
    root = _root(body)
    if root is None or root.opcode != "tuple" or index is None:
        return None
    update = _follow(body, root.operands[index])
    if update is None or update.opcode != "add":
        return None
    first, second = update.operands
    if _element(body, first) != index:
        first, second = second, first
    return _constant(body, second) if _element(body, first) == index else None
