"""Runs `child`, in a process whose environment is fixed before it starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What comes from the inside of JAX has other names in older ones.
_OLDEST_JAX = (0, 10)
_REMEDY = "`pip install 'luna-tf[tpu-compile]'` (Python 3.11 or later)"


class MissingCompilerError(ImportError):
    """JAX or libtpu is not installed, or JAX is too old."""


def require(*modules: str) -> None:
    """Checks that the extra `tpu-compile` is there.

    Args:
        *modules: names of the modules that are about to be needed: `jax`,
            and `libtpu` to compile.

    Raises:
        MissingCompilerError: naming the command that installs them.
    """
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise MissingCompilerError(
            f"{' and '.join(missing)} missing: install with {_REMEDY}"
        )
    version = importlib.metadata.version("jax")
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_JAX:
        raise MissingCompilerError(
            f"jax {version} is too old: install a newer one with {_REMEDY}"
        )


def run_child(
    job: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Does a job in a process of its own.

    Args:
        job: for `child.main`.
        environment: variables on top of this process's own.

    Returns:
        What the child reports.

    Raises:
        RuntimeError: when the child fails, with the last line that it wrote.
    """
    root = Path(__file__).resolve().parents[3]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "luna_tf.interop.tpu.child"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **environment,
        },
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"{job['task']} failed (status {done.returncode}): {lines[-1]}"
        )
    return json.loads(done.stdout)
