"""Runs a lowered program on several simulated replicas."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luna_tf.interop.tpu import processes
from luna_tf.interop.tpu.lowering import LoweredProgram


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What the replicas computed, step by step.

    Args:
        outputs: for each step, for each output, `(num_replicas, *shape)`.
        values: for each step, for each variable after it, the same.
    """

    outputs: tuple[tuple[np.ndarray, ...], ...]
    values: tuple[tuple[np.ndarray, ...], ...]


def simulate(
    program: LoweredProgram,
    values: Sequence[np.ndarray],
    batches: Sequence[Mapping[str, np.ndarray]],
) -> Simulation:
    """Runs steps one after the other, with real sums over the replicas.

    The replicas are devices of JAX's CPU client in a child process. They may
    hold different values of a variable, as TPU cores may.

    Args:
        program: from `lower`, with the CPU's kernels.
        values: initial value of each variable, `(num_replicas, *shape)`.
        batches: for each step the parts of all replicas, each array
            `(num_replicas, *shape)`.

    Returns:
        A `Simulation`.

    Raises:
        ValueError: when an array does not fit the program.
        MissingCompilerError: when JAX is not installed.
        RuntimeError: when the child process fails.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from luna_tf.interop.tpu.lowering import lower
    >>> from luna_tf.interop.tpu.replica_program import trace
    >>> from luna_tf.interop.tpu.tracing import tracing_strategy
    >>> strategy = tracing_strategy(4)
    >>> def step(batch):
    ...     context = tf.distribute.get_replica_context()
    ...     part = tf.reduce_sum(batch["x"])
    ...     return context.all_reduce(tf.distribute.ReduceOp.SUM, part)
    >>> program = trace(strategy, step, {"x": tf.TensorSpec((8, 3))}, [])
    >>> batches = [{"x": np.ones((4, 8, 3), np.float32)}] * 5
    >>> result = simulate(lower(program), [], batches)  # doctest: +SKIP
    >>> result.outputs[-1][0]  # doctest: +SKIP
    array([96., 96., 96., 96.], dtype=float32)
    """
    processes.require("jax")
    _check(program, values, batches)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program").write_bytes(program.stablehlo)
        inputs: dict[str, Any] = {
            f"variable/{i}": value for i, value in enumerate(values)
        }
        for step, batch in enumerate(batches):
            inputs |= {f"{step}/{key}": batch[key] for key in program.batch}
        np.savez(folder / "inputs.npz", **inputs)
        processes.run_child(
            {
                "task": "simulate",
                "program": str(folder / "program"),
                "num_replicas": program.num_replicas,
                "aliases": {},
                "inputs": str(folder / "inputs.npz"),
                "outputs": str(folder / "outputs.npz"),
                "batch": list(program.batch),
                "num_outputs": program.num_outputs,
                "num_variables": len(values),
                "num_steps": len(batches),
            },
            {
                "JAX_PLATFORMS": "cpu",
                # Step counters are int64.
                "JAX_ENABLE_X64": "1",
                "XLA_FLAGS": "--xla_force_host_platform_device_count="
                f"{program.num_replicas}",
            },
        )
        with np.load(folder / "outputs.npz") as arrays:
            steps = [
                tuple(
                    arrays[f"{step}/{index}"]
                    for index in range(program.num_outputs + len(values))
                )
                for step in range(len(batches))
            ]
    return Simulation(
        outputs=tuple(step[: program.num_outputs] for step in steps),
        values=tuple(step[program.num_outputs :] for step in steps),
    )


def _check(
    program: LoweredProgram,
    values: Sequence[np.ndarray],
    batches: Sequence[Mapping[str, np.ndarray]],
) -> None:
    if program.kernels != "cpu":
        raise ValueError(
            "`program` must be made with the CPU's kernels to run on a CPU: "
            "take a TensorFlow other than tensorflow-tpu"
        )
    if len(values) != len(program.variables):
        raise ValueError(
            f"`values` must hold {len(program.variables)} arrays. Received: "
            f"{len(values)}"
        )
    pairs = [
        (f"values[{index}]", value, spec)
        for index, (value, spec) in enumerate(
            zip(values, program.variables, strict=True)
        )
    ]
    for step, batch in enumerate(batches):
        pairs += [
            (f"batches[{step}][{name!r}]", batch[name], spec)
            for name, spec in program.batch.items()
        ]
    for name, array, spec in pairs:
        shape = (program.num_replicas, *spec.shape)
        if array.shape != shape or array.dtype != spec.dtype.as_numpy_dtype:
            raise ValueError(
                f"`{name}` must be {spec.dtype.name} of shape {shape}. "
                f"Received: {array.dtype} of shape {array.shape}"
            )
