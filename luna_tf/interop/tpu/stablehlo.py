"""The last changes to a program's StableHLO, made with JAX's MLIR.

Runs in child processes: JAX is no dependency of the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Name under which `lowering` leaves a collective that has no CPU kernel.
ALL_TO_ALL = "luna_tf.all_to_all"


def load(
    stablehlo: bytes,
    num_replicas: int,
    aliases: Mapping[int, int],
    for_tpu: bool,
) -> Any:
    """Reads a lowered program for XLA's compilers. Needs an MLIR context.

    Args:
        stablehlo: of a `LoweredProgram`.
        num_replicas: number of replicas.
        aliases: argument -> result that may take its memory.
        for_tpu: whether random bits come from the TPU's own generator, as in
            a program lowered with its kernels, and not from arithmetic.

    Returns:
        The MLIR module.
    """
    from jaxlib.mlir import ir

    module = ir.Module.parse(stablehlo)
    for operation in list(_operations(module.operation)):
        if operation.name == "mhlo.copy":
            # TensorFlow copies what variables get; the TPU's importer does
            # not know the op.
            _replace(operation, operation.operands[0])
        elif operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"])
            if target.value == ALL_TO_ALL:
                _replace_all_to_all(operation, num_replicas)
        elif for_tpu and operation.name == "stablehlo.rng_bit_generator":
            _use_own_generator(operation)
    _alias(module, aliases)
    return module


def _alias(module: Any, aliases: Mapping[int, int]) -> None:
    from jaxlib.mlir import ir

    (main,) = (
        function
        for function in module.body.operations
        if function.name.value == "main"
    )
    integer = ir.IntegerType.get_signless(32)
    main.arg_attrs = ir.ArrayAttr.get(
        [
            ir.DictAttr.get(
                {
                    "tf.aliasing_output": ir.IntegerAttr.get(
                        integer, aliases[index]
                    )
                }
                if index in aliases
                else {}
            )
            for index in range(len(main.arguments))
        ]
    )


def _operations(root: Any) -> Iterator[Any]:
    for region in root.regions:
        for block in region.blocks:
            for operation in block.operations:
                yield from _operations(operation.operation)
                yield operation.operation


def _replace(operation: Any, value: Any) -> None:
    operation.results[0].replace_all_uses_with(value)
    operation.erase()


def _replace_all_to_all(operation: Any, num_replicas: int) -> None:
    """Puts the collective where `lowering` left a call of its name."""
    import numpy as np
    from jaxlib.mlir import ir

    config = ir.StringAttr(operation.attributes["backend_config"]).value
    split, concat, count = map(int, config.split())
    integer = ir.IntegerType.get_signless(64)
    groups: Any = np.arange(num_replicas, dtype=np.int64)[None]
    with ir.InsertionPoint(operation), operation.location:
        collective = ir.Operation.create(
            "stablehlo.all_to_all",
            results=[operation.results[0].type],
            operands=[operation.operands[0]],
            attributes={
                "split_dimension": ir.IntegerAttr.get(integer, split),
                "concat_dimension": ir.IntegerAttr.get(integer, concat),
                "split_count": ir.IntegerAttr.get(integer, count),
                "replica_groups": ir.DenseElementsAttr.get(groups),
            },
        )
    _replace(operation, collective.results[0])


def _use_own_generator(operation: Any) -> None:
    """Takes the Philox algorithm, which CPU kernels ask for, off an op."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    algorithm = stablehlo.RngAlgorithmAttr.get
    if operation.attributes["rng_algorithm"] != algorithm("PHILOX"):
        return
    # Philox has a word of state more than the generator of a TPU.
    state, bits = operation.results
    with ir.InsertionPoint(operation), operation.location:
        word = ir.IntegerType.get_unsigned(64)
        short = ir.RankedTensorType.get([2], word)
        own = ir.Operation.create(
            operation.name,
            results=[short, bits.type],
            operands=[stablehlo.slice(operation.operands[0], [0], [2], [1])],
            attributes={"rng_algorithm": algorithm("DEFAULT")},
        )
        last = stablehlo.slice(operation.operands[0], [2], [3], [1])
        whole = stablehlo.concatenate([own.results[0], last], 0)
    state.replace_all_uses_with(whole)
    bits.replace_all_uses_with(own.results[1])
    operation.erase()
