"""Compiles the training step of a recipe for a TPU that need not be there."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

from luna_tf.training.recipes import RecipeError

# More replicas only sum up more gradients: what each computes stays the same,
# but all their variables take memory here.
MOST_REPLICAS = 4
_PRECISION = "mixed_bfloat16"  # what "auto" means on a TPU


@dataclasses.dataclass(frozen=True)
class Report:
    """What the training step of a recipe needs on one device of a TPU.

    Args:
        batch_size: examples of a step on one device.
        length: tokens of an example.
        has_dropout: whether dropout is part of the step.
        parameters: of the model.
        needed_bytes: memory, the most at one time; of a step that does not
            fit, as far as the compiler says.
        available_bytes: memory that a program may have.
        argument_bytes: batch, weights and state of the optimizer; None where
            it does not fit, and so on.
        temporary_bytes: everything in between.
        flops: floating-point operations of a step.
        bytes_accessed: bytes that it reads and writes.
        is_lower_bound: whether both leave out iterations of loops.
        roofline_seconds: time of a step at the published peaks.
        compile_seconds: time of the compiler.
        kernels: `"tpu"` or `"cpu"`: whose kernels TensorFlow lowered with.
    """

    batch_size: int
    length: int
    has_dropout: bool
    parameters: int
    needed_bytes: int
    available_bytes: int
    compile_seconds: float
    kernels: str
    argument_bytes: int | None = None
    temporary_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    is_lower_bound: bool = False
    roofline_seconds: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the step fits in the memory of the device."""
        return self.flops is not None

    @property
    def intensity(self) -> float | None:
        """FLOP per byte."""
        if self.flops is None or not self.bytes_accessed:
            return None
        return self.flops / self.bytes_accessed


def dropouts(recipe: Any) -> list[str]:
    """Names of those fields of a recipe that are rates of dropout above 0."""
    names = [field.name for field in dataclasses.fields(recipe)]
    return [
        name
        for name in names
        if name.endswith("dropout") and getattr(recipe, name)
    ]


def without_dropout(recipe: Any) -> Any:
    """The same recipe with all rates of dropout at zero."""
    return dataclasses.replace(recipe, **dict.fromkeys(dropouts(recipe), 0.0))


def compile_recipe(trainer: Any, recipe: Any, topology: str) -> Report:
    """Compiles one training step.

    Args:
        trainer: module of a trainer, with `make_loop` and `batch_spec`.
        recipe: its recipe; `batch_size` is that of all devices together.
        topology: chip and grid, such as `v5e:2x2`.

    Returns:
        The report; too little memory is a result too.

    Raises:
        RecipeError: for a recipe that its trainer refuses.
        RuntimeError: when TensorFlow or the compiler refuses the step for
            another reason than memory.
    """
    import keras
    import tensorflow as tf

    from luna_tf.interop.tpu import chips, compiling, lowering
    from luna_tf.interop.tpu.cluster import TPUProgramError
    from luna_tf.interop.tpu.replica_program import trace
    from luna_tf.interop.tpu.tracing import tracing_strategy

    _, devices = chips.parse_topology(topology)
    rows = rows_per_device(recipe, devices)
    precision = recipe.precision
    if precision == "auto":
        precision = _PRECISION
    strategy = tracing_strategy(min(devices, MOST_REPLICAS))
    loop = trainer.make_loop(recipe, strategy, precision)
    batch = trainer.batch_spec(recipe, rows)
    loop.build({k: tf.zeros(s.shape, s.dtype) for k, s in batch.items()})
    try:
        program = lowering.lower(
            trace(strategy, loop.train_replica, batch, loop.variables)
        )
        compiled = compiling.compile_program(program, topology)
    except TPUProgramError as error:
        raise RuntimeError(str(error)) from error
    parameters = loop.model.count_params()
    # A search builds many models: the last one's memory must be free again.
    del loop, strategy
    keras.utils.clear_session()
    gc.collect()
    common = {
        "batch_size": rows,
        "length": recipe.row_length,
        "has_dropout": bool(dropouts(recipe)),
        "parameters": parameters,
        "needed_bytes": compiled.needed_bytes,
        "available_bytes": compiled.available_bytes,
        "compile_seconds": compiled.compile_seconds,
        "kernels": program.kernels,
    }
    if isinstance(compiled, compiling.OutOfMemory):
        return Report(**common)
    return Report(
        argument_bytes=compiled.argument_bytes,
        temporary_bytes=compiled.temporary_bytes,
        flops=compiled.flops,
        bytes_accessed=compiled.bytes_accessed,
        is_lower_bound=compiled.costs_are_lower_bounds,
        roofline_seconds=compiled.roofline_seconds,
        **common,
    )


def rows_per_device(recipe: Any, devices: int) -> int:
    """Examples of a step that one device gets.

    Args:
        recipe: with the fields `batch_size` and `accumulation_steps`.
        devices: number of devices.

    Raises:
        RecipeError: when they cannot be divided evenly.
    """
    parts = devices * recipe.accumulation_steps
    if recipe.batch_size % parts:
        raise RecipeError(
            f"batch_size={recipe.batch_size} is not possible with {devices} "
            f"devices and accumulation_steps={recipe.accumulation_steps}: "
            f"allowed is a multiple of {parts}."
        )
    return recipe.batch_size // devices
