import os
import subprocess
import sys
from pathlib import Path

import pytest

from luna_tf.benchmark.cases import read_csv

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.multiprocess


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainers.benchmark", *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "command, aside",
    [("attention", "cost_rule"), ("causal", "causal_tokens")],
)
def test_quick_run_leaves_table_csv_and_figure(command, aside, tmp_path):
    # Compilation would take most of the time; other tests have it.
    result = run(
        command, "--quick", "--modes=eager", f"--output_dir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / f"{command}.csv")
    assert {row.status for row in rows} == {"ok"}
    assert all(row.samples and row.extra_bytes is not None for row in rows)
    others = read_csv(tmp_path / f"{aside}.csv")
    assert others and all(row.samples for row in others)
    figure = (tmp_path / f"{command}.png").read_bytes()
    assert figure.startswith(b"\x89PNG")
    assert "## Goals" in (tmp_path / f"{command}.md").read_text()
    assert "Growth exponent" in result.stdout
    assert "ETA" in result.stderr
