"""`import luna_tf` in our own programs and in everybody else's."""

import subprocess
import sys

import pytest

from luna_tf import _startup


@pytest.mark.parametrize(
    "argv,orig_argv,expected",
    [
        (["/bin/luna-lra"], ["python", "/bin/luna-lra"], True),
        (["luna-benchmark.exe"], ["luna-benchmark.exe"], True),
        (["luna-translate"], ["python", "/bin/luna-translate"], True),
        (["/x/trainers/lra.py"], ["python", "-m", "trainers.lra"], True),
        (["-m"], ["python", "-X", "dev", "-m", "luna_tf.trainers.lra"], True),
        (["/x/luna-lra.py"], ["python", "/x/luna-lra.py"], False),
        (["/x/train.py"], ["python", "-m", "trainers.train"], False),
        (
            ["x.py", "-m", "trainers.lra"],
            ["python", "x.py", "-m", "trainers.lra"],
            False,
        ),
        (
            ["-c"],
            ["python", "-c", "import luna_tf", "-m", "trainers.lra"],
            False,
        ),
        ([], [""], False),
    ],
)
def test_own_programs_are_told_apart(monkeypatch, argv, orig_argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert _startup.is_own_program() is expected


@pytest.mark.multiprocess
def test_names_are_there_even_in_a_program_that_looks_like_ours(tmp_path):
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "lra.py").write_text(
        "import sys, luna_tf\n"
        "assert 'keras' not in sys.modules\n"
        "from luna_tf import LunaAttention\n"
        "assert not hasattr(luna_tf, 'Moon')\n"
        "print(LunaAttention.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "trainers.lra"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "LunaAttention\n", done.stderr
