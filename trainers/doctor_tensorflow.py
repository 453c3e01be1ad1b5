"""Findings from the answers of `doctor_probe`."""

from __future__ import annotations

from collections.abc import Mapping

from .doctor_findings import OK, PROBLEM, WARNING, Finding
from .doctor_packages import (
    TENSORFLOW,
    TPU_WHEEL,
    check_text,
    install,
    reinstall,
)
from .doctor_probe import Answer

# Module to the distribution that brings it.
IMPORTS = {
    "tensorflow": "tensorflow",
    "tensorflow_text": "tensorflow-text",
    "keras": "keras",
    "keras_hub": "keras-hub",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "luna_tf": "luna-tf",
}
_PROTOBUF = ("protobuf", "descriptors cannot be created")
_NUMPY = ("_array_api", "numpy.dtype size changed", "numpy 1.x")


def check_import(
    module: str,
    answer: Answer,
    installed: Mapping[str, str],
    commands: Mapping[str, str],
) -> Finding:
    """Whether a module can be imported, and what to do if not.

    Args:
        module: key of `IMPORTS`.
        answer: of the probe.
        installed: canonical name of a distribution to its version.
        commands: name of a distribution to the pip command that installs it
            within our bounds.
    """
    name = f"import {module}"
    if not answer.error:
        return Finding(name, OK, "works")
    distribution = IMPORTS[module]
    said = answer.error.lower()
    if "sigill" in said:
        fix = "use a machine whose CPU has AVX: the wheel is built for it"
    elif any(word in said for word in _PROTOBUF):
        command = commands.get("protobuf", install("protobuf"))
        fix = command.replace("install", "install --upgrade", 1)
    elif any(word in said for word in _NUMPY):
        fix = commands.get("numpy", install("numpy"))
    elif "tensorflow_text" in said and "undefined symbol" in said:
        mismatch = check_text(installed)
        command = commands.get("tensorflow-text", install("tensorflow-text"))
        fix = (mismatch and mismatch.fix) or command
    else:
        wheel = distribution
        if module == "tensorflow":
            wheel = next((w for w in TENSORFLOW if w in installed), wheel)
        fix = commands.get(wheel, install(wheel))
        if wheel in installed:
            fix = reinstall(wheel, installed[wheel])
    return Finding(name, PROBLEM, answer.error, fix)


def check_xla(answer: Answer, has_tpu_wheel: bool) -> Finding:
    """Whether XLA compiles for this machine's own processor.

    Args:
        answer: of the probe.
        has_tpu_wheel: whether tensorflow-tpu is installed, which cannot.
    """
    name = "XLA on the host"
    if not answer.error:
        return Finding(name, OK, "compiles")
    if has_tpu_wheel and "transfer manager" in answer.error:
        return Finding(
            name,
            WARNING,
            f"{TPU_WHEEL} has none: on this machine's CPU jit_compile=True "
            "fails; on the TPU nothing is lost",
            "give --nojit_compile where you train without the TPU, and "
            "jit_compile=False to Keras' compile()",
        )
    return Finding(
        name, PROBLEM, answer.error, "give --nojit_compile to the trainers"
    )


def check_tpu_cores(answer: Answer) -> Finding:
    """Whether the TPU of this machine starts.

    Args:
        answer: of the probe.
    """
    name = "TPU cores"
    if not answer.error:
        return Finding(name, OK, str(answer.value["cores"]))
    return Finding(
        name,
        PROBLEM,
        answer.error,
        "end the process that uses the TPU (lsof /dev/accel* /dev/vfio/*), "
        "or restart the machine",
    )
