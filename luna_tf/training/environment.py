"""What a run ran with, so that its result can be repeated or explained."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

_PACKAGES = (
    "luna-tf",
    "tensorflow",
    "tensorflow-tpu",
    "libtpu",
    "keras",
    "keras-hub",
    "tensorflow-text",
    "numpy",
)


def describe(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Describes this process.

    Args:
        argv: its command line.

    Returns:
        A dictionary fit for JSON: time, command, versions, devices, and the
        git revision where luna_tf runs from a checkout.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    devices = [device.name for device in tf.config.list_logical_devices()]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": devices,
        "git_revision": git_revision(),
    }


def git_revision(folder: Path | None = None) -> str | None:
    """The revision of a checkout, with "+changes" if it was edited.

    Args:
        folder: any folder inside; that of luna_tf when None.

    Returns:
        The hash, or None outside of a git checkout or without git.
    """
    folder = folder or Path(__file__).resolve().parent
    revision = _git(folder, "rev-parse", "HEAD")
    # A package that was installed into somebody's checkout is not theirs.
    if not revision or not _git(folder, "ls-files", "."):
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
