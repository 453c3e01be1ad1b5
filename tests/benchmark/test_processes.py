import os
import subprocess
import sys

import pytest

from luna_tf.benchmark import memory, parent
from luna_tf.benchmark.cases import OK, Case, Row, Settings
from luna_tf.benchmark.program import Plan, Program

pytestmark = pytest.mark.multiprocess
TINY = Settings(width=16, heads=2, batch=1)


def test_extra_memory_counts_what_a_step_allocates():
    script = (
        "import numpy as np\n"
        "from luna_tf.benchmark import memory\n"
        "def step():\n"
        "    np.ones(5_000_000)\n"  # freed again: only a peak shows it
        "    return np.ones(2_000_000)\n"
        "print(memory.extra_bytes(step))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **memory.ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    # 40 MB; the kernel counts pages per processor and adds up now and then.
    assert 39e6 <= int(result.stdout) < 44e6


def test_memory_and_time_come_back_from_children():
    runner = parent.Runner(TINY, memory.physical_bytes())
    rows = [Row(Case("softmax", "eager", n, 0)) for n in (8, 512)]
    runner.measure_memory(rows)
    small, large = (row.extra_bytes for row in rows)
    # Two heads of 512 x 512 weights in float32 at the very least.
    assert large > 2 * 512 * 512 * 4 > small
    runner.measure_time(rows[:1], repeats=3, seconds=60.0)
    assert len(rows[0].samples) == 3 and not rows[1].samples
    assert runner.device


def test_too_little_memory_is_a_status_not_a_crash():
    runner = parent.Runner(TINY, 2**25)
    rows = [Row(Case(c, "eager", 8, 2)) for c in ("auto", "direct")]
    runner.measure_memory(rows)
    assert [r.status for r in rows] == ["does not fit in 0.0312 GiB"] * 2


def test_a_case_that_fails_leaves_the_others_alone():
    runner = parent.Runner(TINY, memory.physical_bytes())
    rows = [Row(Case(c, "eager", 8, 2)) for c in ("nonsense", "auto")]
    runner.measure_time(rows, repeats=1, seconds=1.0)
    assert rows[0].status.startswith("failed: ")
    assert rows[1].status == OK and len(rows[1].samples) == 1


def test_what_does_not_fit_is_skipped_at_larger_sizes(tmp_path):
    class SmallRunner:
        does_not_fit = "does not fit in 1 GiB"

        def measure_memory(self, rows):
            for row in rows:
                if row.status == OK and row.case.length >= 16:
                    row.status = self.does_not_fit

        def measure_time(self, rows, repeats, seconds):
            for row in rows:
                if row.status == OK:
                    if row.case.length == 8:
                        row.samples.append(1.0)
                    else:
                        raise KeyboardInterrupt

    plan = Plan(
        lengths=(8, 16, 32),
        growth_lengths=(),
        packed_lengths=(2,),
        contenders=("softmax",),
        modes=("eager",),
        repeats=1,
        seconds=1.0,
        memory=True,
        rule_length=8,
        rule_packed_lengths=(2,),
    )
    said = []
    program = Program(
        plan, SmallRunner(), tmp_path / "a.csv", tmp_path / "b.csv", said.append
    )
    program.run()
    assert [row.status for row in program.rows] == [
        OK,
        "does not fit in 1 GiB",
        "skipped: did not fit at n=16",
    ]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
    assert any("ETA" in line for line in said)


def test_a_child_that_dies_in_the_first_rounds_costs_one_case(monkeypatch):
    calls = []

    def run_child(job, limit_bytes, environment, on_event):
        calls.append([case["contender"] for case in job["cases"]])
        on_event({"round": {str(i): 1.0 for i in range(len(job["cases"]))}})
        if len(calls) == 1:
            on_event({"started": 0})
            return "memory"
        for _ in range(2):
            on_event({"round": {"0": 1.0}})
        return ""

    monkeypatch.setattr(parent, "run_child", run_child)
    runner = parent.Runner(TINY, 2**30)
    rows = [Row(Case(name, "xla", 8, 0)) for name in ("softmax", "auto")]
    runner.measure_time(rows, repeats=3, seconds=1.0)
    assert calls == [["softmax", "auto"], ["auto"]]
    assert rows[0].status == runner.does_not_fit and not rows[0].samples
    assert rows[1].status == OK and len(rows[1].samples) == 3
