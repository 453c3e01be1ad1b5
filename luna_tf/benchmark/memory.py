"""Peak memory of one step, and the memory that a machine has."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from luna_tf.benchmark import stepping

# For a process that measures: memory that is freed goes back to the system at
# once. TensorFlow's allocator for oneDNN and the C library's arenas would keep
# it, and a second step would seem to need none. The timing runs without these
# settings, that is with oneDNN's kernels: the report says so.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def extra_bytes(step: stepping.Step) -> int:
    """Peak memory of a step above its inputs and weights.

    The step runs twice. The first run compiles and fills caches; then the
    kernel's high-water mark is reset, and the second run raises it by what a
    step in steady state needs: temporaries and outputs, all gradients among
    them.

    Args:
        step: runs the step once. The process should have been started with
            `ENVIRONMENT`.

    Returns:
        Bytes, good to about half a megabyte (the kernel adds its counts per
        processor up now and then); on an accelerator those of its own memory.
    """
    step()
    on_device = stepping.accelerator_peak(step)
    if on_device is not None:
        return on_device
    _trim()
    with _HighWaterMark() as mark:
        before = resident_bytes(os.getpid())
        result = step()
    del result
    return max(0, mark.bytes - before)


def resident_bytes(process: int, peak: bool = False) -> int:
    """Memory of a process that lies in RAM.

    Args:
        process: its id.
        peak: the largest value so far instead of the present one.

    Returns:
        Bytes, 0 when the process is gone.
    """
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def physical_bytes() -> int:
    """Memory that this process may count on: the machine's or its cgroup's."""
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


def _trim() -> None:
    """Hands free memory of the C library back to the system."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        pass


class _HighWaterMark:
    """Largest resident memory of this process while the block runs.

    Linux keeps it and can be told to start anew. Where that is not allowed
    (some containers) a thread samples instead.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _HighWaterMark:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread is None:
            self.bytes = resident_bytes(os.getpid(), peak=True)
        else:
            self._thread.join()

    def _sample(self) -> None:
        while not self._done.is_set():
            self.bytes = max(self.bytes, resident_bytes(os.getpid()))
            time.sleep(0.001)
