"""`luna-doctor env`: checks the installation and names the fixes."""

from __future__ import annotations

import glob
import importlib
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from . import doctor_machine, doctor_packages, doctor_probe, doctor_wheels
from . import doctor_tensorflow as doctor_tf
from .doctor_findings import OK, PROBLEM, Finding
from .doctor_probe import Answer

_TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_GPU_FILES = ("/dev/nvidia[0-9]*",)


def examine(seconds: float, environment: Mapping[str, str]) -> list[Finding]:
    """Checks this installation and this machine.

    Args:
        seconds: how long one question to TensorFlow may take.
        environment: variables of the process.

    Returns:
        The findings, in the order of the report.
    """
    distributions = doctor_packages.by_name(metadata.distributions())
    installed = {name: d.version for name, d in distributions.items()}
    own = distributions.get(doctor_packages.DISTRIBUTION)
    requirements = (own.requires if own else None) or []
    wheel = next((w for w in doctor_packages.TENSORFLOW if w in installed), "")
    theirs = (distributions[wheel].requires if wheel else None) or []
    has_tpu_wheel = doctor_packages.TPU_WHEEL in installed
    tpu_files = _device_files(_TPU_FILES)
    answers = _ask(seconds, environment, bool(tpu_files))
    wheels = doctor_wheels.check(distributions)
    return [
        *doctor_packages.check_all(distributions),
        *([wheels] if wheels else []),
        *_imports(
            answers,
            installed,
            doctor_packages.commands([*theirs, *requirements]),
        ),
        doctor_machine.check_backend(environment),
        _keras_json(environment),
        *doctor_machine.check_tpu(
            tpu_files,
            environment,
            has_tpu_wheel,
            doctor_packages.install_for_tpu(requirements),
        ),
        *_devices(answers, environment, has_tpu_wheel),
        *_tf_config(answers, environment),
        doctor_machine.check_memory(_memory()),
        doctor_machine.check_disk(shutil.disk_usage(".").free, os.getcwd()),
    ]


def _device_files(patterns: tuple[str, ...]) -> list[str]:
    return sorted(file for pattern in patterns for file in glob.glob(pattern))


def _ask(
    seconds: float, environment: Mapping[str, str], has_tpu: bool
) -> dict[str, Answer]:
    variables = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": "tensorflow",  # what is asked is TensorFlow's part
        **environment,
    }
    questions = [name for name in doctor_probe.QUESTIONS if name != "tpu"]
    if has_tpu:
        questions.append("tpu")
    else:
        variables.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return doctor_probe.run(questions, seconds, variables)


def _imports(
    answers: Mapping[str, Answer],
    installed: Mapping[str, str],
    commands: Mapping[str, str],
) -> list[Finding]:
    return [
        doctor_tf.check_import(module, answers[module], installed, commands)
        for module in doctor_tf.IMPORTS
        if module in answers
    ]


def _devices(
    answers: Mapping[str, Answer],
    environment: Mapping[str, str],
    has_tpu_wheel: bool,
) -> list[Finding]:
    """What TensorFlow tells of devices, unless it cannot be imported."""
    findings = [
        Finding("CPU", OK, f"{len(os.sched_getaffinity(0))} cores"),
    ]
    devices = answers.get("devices")
    if devices and devices.error:
        findings.append(
            Finding(
                "devices",
                PROBLEM,
                devices.error,
                "see that the driver works (nvidia-smi)",
            )
        )
    elif devices:
        findings.append(
            doctor_machine.check_gpu(
                _device_files(_GPU_FILES),
                environment,
                devices.value["gpus"],
                answers["tensorflow"].value["version"],
            )
        )
    if "xla" in answers:
        findings.append(doctor_tf.check_xla(answers["xla"], has_tpu_wheel))
    if "tpu" in answers:
        findings.append(doctor_tf.check_tpu_cores(answers["tpu"]))
    return findings


def _tf_config(
    answers: Mapping[str, Answer], environment: Mapping[str, str]
) -> list[Finding]:
    name = "TF_CONFIG"
    text = environment.get(name)
    if not text:
        return []
    if answers.get("luna_tf", Answer(error="not asked")).error:
        return []  # the reason stands above
    # Here and not at the top: it imports TensorFlow, which is known to work.
    strategy = importlib.import_module("luna_tf.training.strategy")
    return [doctor_machine.check_tf_config(text, strategy.read_tf_config)]


def _keras_json(environment: Mapping[str, str]) -> Finding:
    home = environment.get("KERAS_HOME")
    folder = Path(home) if home else Path.home() / ".keras"
    path = folder.expanduser() / "keras.json"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = None
    return doctor_machine.check_keras_json(str(path), text, environment)


def _memory() -> int:
    """Bytes that this process may count on: the machine's or its cgroup's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # no cgroup, or "max"
            continue
    return total
