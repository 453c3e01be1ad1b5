"""The child process: compiles or runs StableHLO with JAX's compilers.

Started by `processes` as `python -m luna_tf.interop.tpu.child`. Reads one JSON
object from stdin and writes one to stdout. JAX settles on its devices when it
is imported, so what they are to be stands in the environment.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """Entry of the process."""
    job = json.load(sys.stdin)
    # Whatever libraries print must not mix with the report.
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = {"compile": compile_program, "simulate": simulate}[job["task"]]
    with report:
        json.dump(task(job), report)


def compile_program(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles for TPU chips that need not be there.

    Args:
        job: `program` (path), `num_replicas`, `aliases`, `topology`.

    Returns:
        `seconds`, and either `memory`, `costs` and `hlo`, or `out_of_memory`.
    """
    import jax
    from jax.experimental import topologies

    from luna_tf.interop.tpu import hlo

    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=job["topology"]
    ).devices[: job["num_replicas"]]
    started = time.perf_counter()
    try:
        executable = _compile(job, devices, load=False)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {
            "seconds": time.perf_counter() - started,
            "out_of_memory": str(error),
        }
    seconds = time.perf_counter() - started
    memory = executable.get_compiled_memory_stats()
    try:
        (module,) = executable.hlo_modules()
        summary = dataclasses.asdict(hlo.summarize(module.to_string()))
    except jax.errors.JaxRuntimeError:
        # jaxlib may be older than the libtpu whose program it is to print.
        summary = None
    return {
        "seconds": seconds,
        "memory": {
            name: getattr(memory, f"{name}_in_bytes")
            for name in (
                "argument_size",
                "output_size",
                "temp_size",
                "alias_size",
                "peak_memory",
            )
        },
        "costs": executable.cost_analysis(),
        "hlo": summary,
    }


def simulate(job: dict[str, Any]) -> dict[str, Any]:
    """Runs steps on replicas that are JAX's CPU devices.

    Args:
        job: `program` (path), `num_replicas`, `aliases`, `inputs` and
            `outputs` (paths), `batch` (names), `num_outputs`,
            `num_variables` and `num_steps`.

    Returns:
        Nothing; the arrays are in `outputs`.
    """
    import jax
    import numpy as np

    count = job["num_replicas"]
    devices = jax.devices()
    executable = _compile(job, devices, load=True)
    # A replicated array may differ from device to device: nobody compares.
    mesh = jax.sharding.Mesh(np.array(devices), ("replica",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def join(parts: Sequence[Any]) -> Any:
        return jax.make_array_from_single_device_arrays(
            parts[0].shape, sharding, list(parts)
        )

    def put(array: np.ndarray) -> Any:
        return join(list(map(jax.device_put, array, devices)))

    results: dict[str, Any] = {}
    with np.load(job["inputs"]) as inputs:
        replicas = put(np.arange(count, dtype=np.int32))
        state = [
            put(inputs[f"variable/{index}"])
            for index in range(job["num_variables"])
        ]
        for step in range(job["num_steps"]):
            batch = [put(inputs[f"{step}/{name}"]) for name in job["batch"]]
            arrays = executable.execute_sharded(
                [replicas, *batch, *state]
            ).disassemble_into_single_device_arrays()
            results.update(
                (f"{step}/{index}", np.stack(list(map(np.asarray, parts))))
                for index, parts in enumerate(arrays)
            )
            state = [join(parts) for parts in arrays[job["num_outputs"] :]]
    np.savez(job["outputs"], **results)
    return {}


def _compile(job: dict[str, Any], devices: Sequence[Any], load: bool) -> Any:
    """Compiles one replica's program, to run on all `devices` together."""
    # JAX compiles its own functions only in public, and those know no
    # replicas: its clients' own entry takes any module.
    import numpy as np
    from jax._src.lib import xla_client
    from jax.interpreters import mlir

    from luna_tf.interop.tpu import stablehlo

    options = xla_client.CompileOptions()
    options.num_replicas = len(devices)
    options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[device.id] for device in devices])
    )
    client = devices[0].client
    with mlir.make_ir_context():
        module = stablehlo.load(
            Path(job["program"]).read_bytes(),
            len(devices),
            {int(key): value for key, value in job["aliases"].items()},
            for_tpu=not load,
        )
        compile_module = client.compile_and_load if load else client.compile
        return compile_module(
            module, xla_client.DeviceList(tuple(devices)), options
        )


if __name__ == "__main__":
    main()
