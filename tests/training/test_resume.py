"""Killed at any moment and started again: not one bit differs.

Losses are compared as hexadecimal digits, step by step, and so are all final
weights; dropout is on.
"""

import signal
import time

import children
import numpy as np
import pytest

from luna_tf.training.stopping import EXIT_PREEMPTED, EXIT_WORKER_LOST

PROGRAM = "training/resume_child.py"
KILLED = -signal.SIGKILL
STEPS = 12

pytestmark = pytest.mark.multiprocess


def read(folder):
    """Losses by step, the same wherever a step was made twice; weights."""
    losses = {}
    for line in (folder / "losses.txt").read_text().splitlines():
        step, loss = line.split()
        assert losses.setdefault(int(step), loss) == loss, step
    with np.load(folder / "weights.npz") as file:
        return losses, dict(file)


def assert_identical(folder, reference):
    losses, weights = read(folder)
    expected_losses, expected_weights = read(reference)
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses == expected_losses
    assert weights.keys() == expected_weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected_weights[name], name)


@pytest.mark.parametrize(
    "place", [pytest.param("one", marks=pytest.mark.long), "mirrored:2"]
)
def test_killed_three_times(tmp_path, place):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    # Between two checkpoints, while one is written, and just before the new
    # one is declared whole.
    children.run(PROGRAM, killed, place, "step:6", status=KILLED)
    output = children.run(PROGRAM, killed, place, "state:8", status=KILLED)
    assert "resumed 4" in output
    output = children.run(PROGRAM, killed, place, "marker:12", status=KILLED)
    assert "resumed 4" in output
    assert "step-00000008: was never finished" in output
    output = children.run(PROGRAM, killed, place)
    assert "resumed 8" in output
    assert "step-00000012: was never finished" in output
    children.run(PROGRAM, whole, place)
    assert_identical(killed, whole)


def test_a_stream_goes_on_where_its_iterator_was(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    options = {"STREAM": "1"}
    children.run(PROGRAM, killed, "one", "step:7", status=KILLED, **options)
    output = children.run(PROGRAM, killed, "one", **options)
    assert "resumed 4" in output
    children.run(PROGRAM, whole, "one", **options)
    assert_identical(killed, whole)


def test_sigterm_saves_and_more_steps_go_on(tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder in (stopped, whole):
        folder.mkdir()
    process = children.start(PROGRAM, stopped, "one", "pause:6")
    for line in process.stdout:
        if "paused" in line:
            break
    time.sleep(0.2)  # until it really waits for a signal
    process.send_signal(signal.SIGTERM)
    output = children.finish(process, EXIT_PREEMPTED)
    assert "stopped 6" in output
    # To step 9 first: another number of steps, which may only grow.
    output = children.run(PROGRAM, stopped, "one", STEPS="9")
    assert "resumed 6" in output
    output = children.run(PROGRAM, stopped, "one")
    assert "resumed 9" in output
    children.run(PROGRAM, whole, "one")
    losses, weights = read(stopped)
    expected_losses, expected_weights = read(whole)
    assert losses == expected_losses
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected_weights[name], name)


def test_two_workers_one_of_which_dies(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    started = time.monotonic()
    outputs = children.run_pair(
        PROGRAM,
        killed,
        "workers",
        extra=((), ("step:6",)),
        statuses=(EXIT_WORKER_LOST, KILLED),
    )
    assert time.monotonic() - started < children.LIMIT
    assert "lost another worker stopped answering" in outputs[0]
    outputs = children.run_pair(PROGRAM, killed, "workers")
    assert all("resumed 4" in output for output in outputs)
    children.run_pair(PROGRAM, whole, "workers")
    assert_identical(killed, whole)


def test_sigterm_to_one_of_two_workers_stops_both(tmp_path):
    pair = children.start_pair(
        PROGRAM, tmp_path, "workers", extra=((), ("pause:6",))
    )
    try:
        for line in pair[1].stdout:
            if "paused" in line:
                break
        time.sleep(0.2)
        pair[1].send_signal(signal.SIGTERM)
        for process in pair:
            output = children.finish(process, EXIT_PREEMPTED)
            assert "stopped 6" in output
    finally:
        for process in pair:
            process.kill()
    assert (tmp_path / "checkpoints/step-00000006/checkpoint.json").exists()
