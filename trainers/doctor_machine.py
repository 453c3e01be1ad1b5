"""Checks of the machine and of the settings that Keras and TPUs read.

Each takes what it inspects, so that a test can describe any machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .doctor_findings import OK, PROBLEM, WARNING, Finding
from .doctor_packages import TPU_WHEEL

_GIB = 2**30
# `luna-lra --config=quick` and what it leaves behind need these.
_LEAST_MEMORY, _LEAST_DISK = 1 * _GIB, 100 * 2**20
_GOOD_MEMORY, _GOOD_DISK = 2 * _GIB, 1 * _GIB

# Colab and the start-up of TPU VMs set these.
_TPU_VARIABLES = (
    "COLAB_TPU_ADDR",
    "TPU_NAME",
    "TPU_ACCELERATOR_TYPE",
    "TPU_WORKER_HOSTNAMES",
)
_BACKENDS = ("tensorflow", "jax", "torch", "numpy", "openvino")
_FLOATS = ("float32", "float16", "bfloat16", "float64")


def check_backend(environment: Mapping[str, str]) -> Finding:
    """Whether `KERAS_BACKEND` lets the trainers start.

    Args:
        environment: variables of the process.
    """
    name = "KERAS_BACKEND"
    backend = environment.get(name)
    if not backend:
        return Finding(name, OK, "not set; our programs choose tensorflow")
    if backend == "tensorflow":
        return Finding(name, OK, backend)
    if backend not in _BACKENDS:
        return Finding(
            name,
            PROBLEM,
            f"{backend!r} is no backend of Keras",
            f"unset {name}",
        )
    return Finding(
        name,
        WARNING,
        f"{backend}: layers and luna-benchmark may run, the trainers refuse",
        f"unset {name}",
    )


def check_keras_json(
    path: str, text: str | None, environment: Mapping[str, str]
) -> Finding:
    """Whether Keras' own settings file is sound.

    Args:
        path: of the file, for messages.
        text: what it holds, None when there is no such file.
        environment: variables of the process; `KERAS_BACKEND` beats the file.
    """
    name = "Keras settings"
    if text is None:
        return Finding(name, OK, f"no {path}")
    try:
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise ValueError
    except ValueError:
        return Finding(name, PROBLEM, f"{path} is no JSON object", f"rm {path}")
    floatx = settings.get("floatx", "float32")
    if floatx != "float32":
        status = WARNING if floatx in _FLOATS else PROBLEM
        return Finding(
            name,
            status,
            f"floatx is {floatx!r} in {path}: every layer without a dtype of "
            "its own is made in it",
            f'set "floatx": "float32" in {path}',
        )
    backend = settings.get("backend", "tensorflow")
    if backend != "tensorflow" and not environment.get("KERAS_BACKEND"):
        status = WARNING if backend in _BACKENDS else PROBLEM
        return Finding(
            name,
            status,
            f"backend is {backend!r} in {path}: your own programs start it, "
            "ours start tensorflow",
            "export KERAS_BACKEND=tensorflow",
        )
    return Finding(name, OK, path)


def check_tpu(
    device_files: Sequence[str],
    environment: Mapping[str, str],
    has_tpu_wheel: bool,
    fix: str,
) -> list[Finding]:
    """Whether machine, environment and wheels agree on there being a TPU.

    Args:
        device_files: those of TPUs, as in `/dev/accel0`.
        environment: variables of the process. Colab and TPU VMs set some.
        has_tpu_wheel: whether tensorflow-tpu is installed.
        fix: the commands that install it.

    Returns:
        Findings, at least one.
    """
    name = "TPU"
    seen = [*device_files, *(n for n in _TPU_VARIABLES if environment.get(n))]
    if not seen:
        if not has_tpu_wheel or "TPU_SKIP_MDS_QUERY" in environment:
            return [Finding(name, OK, "none here")]
        return [
            Finding(
                name,
                WARNING,
                f"none here, but {TPU_WHEEL} is installed: importing "
                "TensorFlow may wait minutes for one",
                "export TPU_SKIP_MDS_QUERY=1",
            )
        ]
    findings = [Finding(name, OK, f"announced by {', '.join(seen)}")]
    if not has_tpu_wheel:
        findings.append(
            Finding(
                TPU_WHEEL,
                PROBLEM if device_files else WARNING,
                "missing: plain TensorFlow cannot use a TPU of this machine",
                fix,
            )
        )
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1:
        findings.append(
            Finding(
                "TPU hosts",
                WARNING,
                f"this is one of {len(hosts)} hosts that share a TPU",
                "start the same command on each of them",
            )
        )
    return findings


def check_gpu(
    device_files: Sequence[str],
    environment: Mapping[str, str],
    visible: int,
    version: str,
) -> Finding:
    """Whether TensorFlow sees the GPUs that the machine has.

    Args:
        device_files: those of GPUs, as in `/dev/nvidia0`.
        environment: variables of the process.
        visible: GPUs that TensorFlow sees.
        version: TensorFlow's.
    """
    if visible:
        return Finding("GPU", OK, f"{visible} visible to TensorFlow")
    if not device_files:
        return Finding("GPU", OK, "none here")
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding("GPU", OK, f"hidden by CUDA_VISIBLE_DEVICES={hidden}")
    return Finding(
        "GPU",
        PROBLEM,
        f"TensorFlow does not see {', '.join(device_files)}: the driver or "
        "the CUDA libraries are missing, or this wheel is for CPUs alone",
        f"pip install 'tensorflow[and-cuda]=={version}', and see that "
        "nvidia-smi works",
    )


def check_tf_config(text: str, read: Callable[[str], Any]) -> Finding:
    """Whether the description of a cluster of workers is sound.

    Args:
        text: value of `TF_CONFIG`.
        read: `luna_tf.training.strategy.read_tf_config`.
    """
    name = "TF_CONFIG"
    try:
        cluster = read(text)
    except ValueError as error:
        return Finding(name, PROBLEM, str(error), f"correct or unset {name}")
    if cluster is None:
        return Finding(name, OK, "names no workers")
    return Finding(
        name, OK, f"worker {cluster.index + 1} of {len(cluster.workers)}"
    )


def check_memory(total: int) -> Finding:
    """Whether there is memory for the default recipes.

    Args:
        total: bytes that the process may count on.
    """
    text = f"{total / _GIB:.1f} GiB"
    if total >= _GOOD_MEMORY:
        return Finding("memory", OK, text)
    return Finding(
        "memory",
        PROBLEM if total < _LEAST_MEMORY else WARNING,
        f"{text}; the default recipe of luna-lra takes 2, quick takes 1",
        "use a machine with 2 GiB or more",
    )


def check_disk(free: int, folder: str) -> Finding:
    """Whether there is space for a run in the current folder.

    Args:
        free: bytes.
        folder: that they are free in, for messages.
    """
    text = f"{free / _GIB:.1f} GiB free in {folder}"
    if free >= _GOOD_DISK:
        return Finding("disk", OK, text)
    return Finding(
        "disk",
        PROBLEM if free < _LEAST_DISK else WARNING,
        f"{text}: data, checkpoints and exports of a run need more",
        "free some space, or give --model_dir on another disk",
    )
