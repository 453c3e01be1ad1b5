"""What only importing TensorFlow tells, asked in a process of its own.

A broken TensorFlow can crash or hang. `run` starts this very file as a
program, which says line by line what it begins and what it found; when it dies
or falls silent, that is the answer to the present question, and another child
goes on with the next one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one question.

    Args:
        value: what was found, None on failure.
        error: why there is no value, one line; empty on success.
    """

    value: Any = None
    error: str = ""


def _tensorflow() -> dict[str, Any]:
    import tensorflow as tf

    return {"version": tf.__version__}


def _devices() -> dict[str, Any]:
    import tensorflow as tf

    return {
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "tpu_system": bool(tf.config.list_physical_devices("TPU_SYSTEM")),
        "built_for_gpu": tf.test.is_built_with_gpu_support(),
    }


def _xla() -> dict[str, Any]:
    import tensorflow as tf

    squared = tf.function(lambda x: x * x, jit_compile=True)
    return {"sum": float(tf.reduce_sum(squared(tf.constant([1.0, 2.0]))))}


def _tpu() -> dict[str, Any]:
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TPUClusterResolver("local")
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return {"cores": len(tf.config.list_logical_devices("TPU"))}


def _importing(module: str) -> Callable[[], dict[str, Any]]:
    def load() -> dict[str, Any]:
        importlib.import_module(module)
        return {}

    return load


QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "tensorflow": _tensorflow,
    "devices": _devices,
    "xla": _xla,
    "tensorflow_text": _importing("tensorflow_text"),
    "keras": _importing("keras"),
    "keras_hub": _importing("keras_hub"),
    # What `tf.summary.scalar` loads.
    "tensorboard": _importing("tensorboard.plugins.scalar.summary_v2"),
    "matplotlib": _importing("matplotlib.figure"),
    "luna_tf": _importing("luna_tf"),
    "tpu": _tpu,
}


def run(
    questions: Sequence[str],
    seconds: float,
    environment: Mapping[str, str],
    command: Sequence[str] = (sys.executable, __file__),
) -> dict[str, Answer]:
    """Answers questions in child processes.

    Args:
        questions: keys of `QUESTIONS`, in this order.
        seconds: how long one answer may take.
        environment: all variables of the children.
        command: what to start; takes questions as arguments.

    Returns:
        Question to answer. When TensorFlow cannot be imported, that is the
        only one: the others would fail for the same reason.
    """
    answers: dict[str, Answer] = {}
    while left := [name for name in questions if name not in answers]:
        answers.update(_ask(left, seconds, environment, command))
        if answers.get("tensorflow", Answer()).error:
            return {"tensorflow": answers["tensorflow"]}
    return answers


def _ask(
    questions: Sequence[str],
    seconds: float,
    environment: Mapping[str, str],
    command: Sequence[str],
) -> dict[str, Answer]:
    """Answers of one child, the last of them perhaps its end."""
    answers: dict[str, Answer] = {}
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *questions],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            text=True,
        )

        def read() -> None:
            assert process.stdout
            for line in process.stdout:
                try:
                    events.put(json.loads(line))
                except ValueError:  # cut off by the end of the process
                    break
            events.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        ending = ""
        try:
            while event := events.get(timeout=seconds):
                answers[event["question"]] = Answer(
                    event["value"], event["error"]
                )
            process.wait(seconds)
        except (queue.Empty, subprocess.TimeoutExpired):
            ending = f"no answer within {seconds:g} seconds"
        finally:
            process.kill()
            process.wait()
            reader.join()
            if process.stdout:
                process.stdout.close()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if len(answers) < len(questions):
        missing = questions[len(answers)]
        answers[missing] = Answer(
            error=ending or _ending(process.returncode, said)
        )
    return answers


def _ending(status: int, said: str) -> str:
    lines = said.strip().splitlines()
    last = lines[-1][:200] if lines else ""
    if status < 0:
        return f"crashed with {signal.Signals(-status).name} {last}".strip()
    return last or f"ended with status {status}"


def main(questions: Sequence[str]) -> None:
    """The child: answers questions, one JSON object a line."""
    # Whatever libraries print must not mix with the answers.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in questions:
        value, error = None, ""
        try:
            value = QUESTIONS[name]()
        except BaseException as failure:  # `sys.exit` of a library too
            error = _one_line(failure)
        json.dump({"question": name, "value": value, "error": error}, events)
        events.write("\n")
        events.flush()


def _one_line(error: BaseException) -> str:
    # TensorFlow appends where in Python an op was made.
    text = str(error).strip().partition("\n\nDetected at node")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:3]])[:300]


if __name__ == "__main__":
    # The folder of this file holds names, such as `flags`, that others have.
    sys.path.pop(0)
    main(sys.argv[1:])
