"""Compiles a lowered program for TPU chips that need not be there."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path

from luna_tf.interop.tpu import chips, processes
from luna_tf.interop.tpu.hlo import HLOSummary
from luna_tf.interop.tpu.lowering import LoweredProgram

# Without these libtpu asks the cloud what machine it runs on, and only one
# process at a time may load it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A program that fits. All figures are for one device.

    Args:
        topology: what it was compiled for.
        available_bytes: memory that a program may have there.
        needed_bytes: the most that is in use at one time.
        argument_bytes: batch and variables.
        output_bytes: results, those in place of arguments too.
        alias_bytes: results that take the memory of arguments.
        temporary_bytes: everything in between.
        flops: floating-point operations, a loop's body counted once.
        bytes_accessed: bytes read and written, a loop's body counted once.
        hlo: exchanges, host transfers, dynamic shapes and loops; None where
            libtpu is too new for jaxlib to print its programs.
        compile_seconds: time of the compiler.
    """

    topology: str
    available_bytes: int
    needed_bytes: int
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    flops: float
    bytes_accessed: float
    hlo: HLOSummary | None
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """True."""
        return True

    @property
    def costs_are_lower_bounds(self) -> bool:
        """Whether loops make `flops` and `bytes_accessed` too small."""
        return self.hlo is None or bool(self.hlo.trip_counts)

    @property
    def roofline_seconds(self) -> float:
        """Time that a step takes at least, from the chip's published peaks."""
        chip, _ = chips.parse_topology(self.topology)
        return chips.roofline_seconds(self.flops, self.bytes_accessed, chip)


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """A program that does not fit.

    Args:
        topology: what it was compiled for.
        available_bytes: memory that a program may have there.
        needed_bytes: what it asks for, as far as the compiler says.
        compile_seconds: time until the compiler gave up.
    """

    topology: str
    available_bytes: int
    needed_bytes: int
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """False."""
        return False


def compile_program(
    program: LoweredProgram, topology: str
) -> CompiledProgram | OutOfMemory:
    """Compiles with libtpu, in a child process.

    Args:
        program: from `lower`, for as many replicas as it is to run on.
        topology: chip and grid, such as `v5e:2x2`; the program takes its
            first devices.

    Returns:
        What the compiler says; too little memory is a result too.

    Raises:
        ValueError: when `topology` is not known, or has too few devices.
        MissingCompilerError: when JAX or libtpu is not installed.
        RuntimeError: when the compiler refuses the program for another reason
            than memory.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.interop.tpu.lowering import lower
    >>> from luna_tf.interop.tpu.replica_program import trace
    >>> from luna_tf.interop.tpu.tracing import tracing_strategy
    >>> def step(batch):
    ...     return tf.reduce_sum(batch["x"])
    >>> specs = {"x": tf.TensorSpec((8, 3))}
    >>> program = lower(trace(tracing_strategy(4), step, specs, []))
    >>> report = compile_program(program, "v5e:2x2")  # doctest: +SKIP
    >>> report.needed_bytes <= report.available_bytes  # doctest: +SKIP
    True
    """
    chip, devices = chips.parse_topology(topology)
    if program.num_replicas > devices:
        raise ValueError(
            f"`topology` must have {program.num_replicas} devices or more for "
            f"as many replicas. Received: {topology}, which has {devices}"
        )
    processes.require("jax", "libtpu")
    first_variable = 1 + len(program.batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program"
        path.write_bytes(program.stablehlo)
        report = processes.run_child(
            {
                "task": "compile",
                "program": str(path),
                "num_replicas": program.num_replicas,
                "topology": topology,
                # Each variable's new value takes the memory of the old one.
                "aliases": {
                    first_variable + index: program.num_outputs + index
                    for index in range(len(program.variables))
                },
            },
            ENVIRONMENT,
        )
    if "out_of_memory" in report:
        needed, available = _hbm_bytes(report["out_of_memory"])
        return OutOfMemory(topology, available, needed, report["seconds"])
    memory, costs, hlo = report["memory"], report["costs"], report["hlo"]
    return CompiledProgram(
        topology=topology,
        available_bytes=int(chip.hbm_bytes),
        needed_bytes=memory["peak_memory"],
        argument_bytes=memory["argument_size"],
        output_bytes=memory["output_size"],
        alias_bytes=memory["alias_size"],
        temporary_bytes=memory["temp_size"],
        # What a program has none of is not listed.
        flops=costs.get("flops", 0.0),
        bytes_accessed=costs.get("bytes accessed", 0.0),
        hlo=HLOSummary.from_json(hlo) if hlo else None,
        compile_seconds=report["seconds"],
    )


def _hbm_bytes(message: str) -> tuple[int, int]:
    """Needed and available bytes, from the compiler's refusal."""
    size = r"([\d.]+)([KMGT]?)"
    for pattern in (
        rf"\({size}\) exceeds available HBM \({size}\)",
        rf"Used {size} of {size} hbm",
    ):
        match = re.search(pattern, message)
        if match:
            needed, unit, available, other = match.groups()
            return _bytes(needed, unit), _bytes(available, other)
    # Another memory of the chip, which a smaller batch does not relieve.
    raise RuntimeError(f"compile failed: {message.splitlines()[0]}")


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 2 ** (10 * " KMGT".index(unit or " ")))
