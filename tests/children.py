"""Child processes: another number of devices, several workers, sudden death."""

import json
import os
import pathlib
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent
LIMIT = 1800  # seconds; only a hang takes that long


def start(program, *arguments, **environment):
    """Starts a Python program of the tests; returns the process."""
    return subprocess.Popen(
        [sys.executable, TESTS / program, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KERAS_BACKEND": "tensorflow",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, status=0):
    """Waits for a process; returns what it printed."""
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"hung:\n{output}") from None
    assert process.returncode == status, output
    return output


def run(program, *arguments, status=0, **environment):
    """Runs a program to its end; returns what it printed."""
    return finish(start(program, *arguments, **environment), status)


def start_pair(program, *arguments, extra=((), ()), **environment):
    """Starts two workers of one cluster on this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        start(
            program,
            *arguments,
            *extra[index],
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            ),
            **environment,
        )
        for index in range(2)
    ]


def run_pair(program, *arguments, statuses=(0, 0), **options):
    """Runs two workers to their end; returns what both printed."""
    pair = start_pair(program, *arguments, **options)
    try:
        return [
            finish(process, status)
            for process, status in zip(pair, statuses, strict=True)
        ]
    finally:
        for process in pair:
            process.kill()
            process.wait()
