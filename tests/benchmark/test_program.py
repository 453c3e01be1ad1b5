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


@pytest.mark.slow
def test_quick_run_leaves_table_csv_and_figure(tmp_path):
    # Compilation would take most of the time; other tests have it.
    result = run(
        "attention", "--quick", "--modes=eager", f"--output_dir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / "attention.csv")
    assert {row.status for row in rows} == {"ok"}
    assert all(row.samples and row.extra_bytes is not None for row in rows)
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "## Goals" in (tmp_path / "attention.md").read_text()
    assert "Growth exponent" in result.stdout
    assert "ETA" in result.stderr
