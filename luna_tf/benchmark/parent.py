"""The parent's side of a child process: starts it, watches it, reads it.

The limit acts on resident memory, which the parent reads every 50 ms; a child
above it is killed. An address space limit (`RLIMIT_AS`) would be simpler, but
TensorFlow maps far more than it touches and dies of it in unclean ways. Crash,
kill and refusal all end as the status of one case, and the rest go on in a
fresh process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luna_tf.benchmark import memory, timing
from luna_tf.benchmark.cases import OK, Row, Settings

_POLL_SECONDS = 0.05
_MEMORY = "memory"


@dataclasses.dataclass
class Runner:
    """Measures cases in child processes.

    Args:
        settings: what all cases have in common.
        limit_bytes: resident memory above which a child is killed.
        device: kind of the device, known after the first child.
    """

    settings: Settings
    limit_bytes: int
    device: str = "unknown"

    @property
    def does_not_fit(self) -> str:
        """Status of a case that needs more than the limit."""
        return f"does not fit in {self.limit_bytes / 2**30:.3g} GiB"

    def measure_memory(self, rows: Sequence[Row]) -> None:
        """Fills in `extra_bytes`, and `status` where there is none.

        Args:
            rows: one contender in several modes, one child for all.
        """

        def on_event(event: Mapping[str, Any], pending: list[Row]) -> None:
            if "extra_bytes" in event:
                index, number = event["extra_bytes"]
                pending[index].extra_bytes = number

        job = {"task": "memory"}
        self._measure(job, rows, memory.ENVIRONMENT, on_event)

    def measure_time(
        self, rows: Sequence[Row], repeats: int, seconds: float
    ) -> None:
        """Fills in `samples`, interleaved in one child, and `status`.

        Args:
            rows: what to time against each other.
            repeats: number of rounds.
            seconds: time for the rounds together.
        """

        def on_event(event: Mapping[str, Any], pending: list[Row]) -> None:
            if "cache_bytes" in event:
                index, number = event["cache_bytes"]
                pending[index].cache_bytes = number
            for index, sample in event.get("round", {}).items():
                pending[int(index)].samples.append(sample)

        job = {"task": "time", "repeats": repeats, "seconds": seconds}
        self._measure(job, rows, {}, on_event)

    def _measure(
        self,
        job: Mapping[str, Any],
        rows: Sequence[Row],
        environment: Mapping[str, str],
        on_event: Callable[[Mapping[str, Any], list[Row]], None],
    ) -> None:
        pending = [row for row in rows if row.status == OK]
        while pending:
            current = 0

            def handle(
                event: Mapping[str, Any], pending: list[Row] = pending
            ) -> None:
                nonlocal current
                if "started" in event:
                    current = event["started"]
                elif "failed" in event:
                    index, reason = event["failed"]
                    pending[index].status = self._status(reason)
                elif "device" in event:
                    self.device = event["device"]
                on_event(event, pending)

            full_job = {
                **job,
                "settings": dataclasses.asdict(self.settings),
                "cases": [dataclasses.asdict(row.case) for row in pending],
            }
            reason = run_child(full_job, self.limit_bytes, environment, handle)
            rounds = max(len(row.samples) for row in pending)
            if not reason or rounds >= timing.MINIMUM_ROUNDS:
                return
            for row in pending:
                row.samples.clear()  # too few to say anything
            pending[current].status = self._status(reason)
            # Whatever has its answer already is not asked for again.
            pending = [
                row
                for row in pending
                if row.status == OK
                and (job["task"] == "time" or row.extra_bytes is None)
            ]

    def _status(self, reason: str) -> str:
        return self.does_not_fit if reason == _MEMORY else f"failed: {reason}"


def run_child(
    job: Mapping[str, Any],
    limit_bytes: int,
    environment: Mapping[str, str],
    on_event: Callable[[Mapping[str, Any]], None],
) -> str:
    """Runs a job in a child process, under a limit on its memory.

    Args:
        job: for `child.run`.
        limit_bytes: resident memory above which it is killed.
        environment: variables on top of this process's own.
        on_event: gets every event of the child as it comes.

    Returns:
        An empty text when the child came to its end, `memory` when it was
        killed for its memory, else how it ended in one line.
    """
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    variables = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **environment,
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "luna_tf.benchmark.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=variables,
            text=True,
        )
        watchdog = _Watchdog(process, limit_bytes)
        try:
            watchdog.start()
            assert process.stdin and process.stdout
            try:
                with process.stdin as stream:
                    json.dump(job, stream)
            except BrokenPipeError:  # it ended at once; the status tells why
                pass
            for line in process.stdout:
                on_event(json.loads(line))
            process.wait()
        finally:
            process.kill()
            process.wait()
            watchdog.join()
            if process.stdout:
                process.stdout.close()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return _ending(process.returncode, watchdog.killed, said)


def _ending(status: int, killed: bool, said: str) -> str:
    if status == 0:
        return ""
    # The kernel's own killer sends SIGKILL too; C++ aborts without memory.
    if killed or status == -signal.SIGKILL or "bad_alloc" in said:
        return _MEMORY
    lines = said.strip().splitlines()
    last = lines[-1][:200] if lines else ""
    if status < 0:
        return f"ended by {signal.Signals(-status).name} {last}".strip()
    return last or f"ended with status {status}"


class _Watchdog(threading.Thread):
    """Kills a process that grows above a limit."""

    def __init__(self, process: subprocess.Popen, limit_bytes: int) -> None:
        super().__init__(daemon=True)
        self.killed = False
        self._process = process
        self._limit = limit_bytes

    def run(self) -> None:
        while self._process.poll() is None:
            if memory.resident_bytes(self._process.pid) > self._limit:
                self.killed = True
                self._process.kill()
                return
            threading.Event().wait(_POLL_SECONDS)
