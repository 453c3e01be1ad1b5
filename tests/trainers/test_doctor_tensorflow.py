"""What is made of TensorFlow's answers, and of its silence."""

import os
import sys
import textwrap

import pytest
from luna_tf.trainers import doctor_probe, doctor_tensorflow
from luna_tf.trainers.doctor_probe import Answer

INSTALLED = {"tensorflow": "2.21.0", "tensorflow-text": "2.21.1"}
COMMANDS = {
    "numpy": "install numpy",
    "protobuf": "pip install 'protobuf<8'",
    "tensorflow-text": "install text",
}


@pytest.mark.parametrize(
    "module,error,fix",
    [
        (
            "matplotlib",
            "No module named 'matplotlib'",
            "pip install matplotlib",
        ),
        (
            "tensorflow",
            "ImportError: libtensorflow_cc.so.2: cannot open shared object",
            "pip install --force-reinstall --no-deps tensorflow==2.21.0",
        ),
        ("tensorflow", "crashed with SIGILL", "whose CPU has AVX"),
        (
            "tensorflow",
            "VersionError: Detected incompatible Protobuf Gencode/Runtime",
            "pip install --upgrade 'protobuf<8'",
        ),
        (
            "matplotlib",
            "ImportError: A module that was compiled using NumPy 1.x",
            "install numpy",
        ),
        (
            "tensorflow_text",
            "NotFoundError: tensorflow_text/x.so: undefined symbol: _ZN10ten",
            "install text",
        ),
        (
            "keras_hub",
            "NotFoundError: tensorflow_text/x.so: undefined symbol: _ZN10ten",
            "install text",
        ),
    ],
)
def test_an_import_that_fails(module, error, fix):
    finding = doctor_tensorflow.check_import(
        module, Answer(error=error), INSTALLED, COMMANDS
    )
    assert finding.status == "problem"
    assert finding.message == error
    assert fix in finding.fix


def test_a_text_package_of_another_version():
    error = "NotFoundError: tensorflow_text/x.so: undefined symbol: _ZN10ten"
    finding = doctor_tensorflow.check_import(
        "keras_hub",
        Answer(error=error),
        {"tensorflow": "2.20.0", "tensorflow-text": "2.21.1"},
        COMMANDS,
    )
    assert finding.fix == "pip install 'tensorflow-text==2.20.*'"


def test_an_import_that_works():
    finding = doctor_tensorflow.check_import("keras", Answer({}), {}, {})
    assert finding.status == "ok"


def test_no_xla_on_the_host():
    error = "NotFoundError: could not find registered transfer manager for Host"
    finding = doctor_tensorflow.check_xla(Answer(error=error), True)
    assert finding.status == "warning"
    assert "--nojit_compile" in finding.fix
    # Of plain TensorFlow this is not to be expected.
    finding = doctor_tensorflow.check_xla(Answer(error=error), False)
    assert finding.status == "problem"
    assert doctor_tensorflow.check_xla(Answer({}), False).status == "ok"


def test_a_tpu_that_does_not_start():
    finding = doctor_tensorflow.check_tpu_cores(Answer(error="ABORTED: locked"))
    assert finding.status == "problem"
    finding = doctor_tensorflow.check_tpu_cores(Answer({"cores": 8}))
    assert (finding.status, finding.message) == ("ok", "8")


CHILD = """
import json, os, signal, sys, time
for name in sys.argv[1:]:
    if name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(600)
    if name == "exit":
        sys.exit("last words")
    error = "it failed" if name == "tensorflow" else ""
    event = {"question": name, "value": 1, "error": error}
    print(json.dumps(event), flush=True)
    if name == "half":
        print('{"question"', flush=True)
        os._exit(3)
"""


@pytest.mark.multiprocess
class TestProbe:
    @pytest.fixture
    def ask(self, tmp_path):
        script = tmp_path / "child.py"
        script.write_text(CHILD)

        def run(*questions, seconds=60):
            return doctor_probe.run(
                questions, seconds, os.environ, [sys.executable, str(script)]
            )

        return run

    def test_the_end_of_a_child_answers_one_question(self, ask):
        answers = ask("a", "segfault", "b", "exit", "c")
        assert list(answers) == ["a", "segfault", "b", "exit", "c"]
        assert all(answers[name] == Answer(1) for name in "abc")
        assert answers["segfault"].error == "crashed with SIGSEGV"
        assert answers["exit"].error == "last words"

    def test_silence_is_an_answer(self, ask):
        answers = ask("a", "hang", "b", seconds=5)
        assert answers["hang"].error == "no answer within 5 seconds"
        assert answers["b"] == Answer(1)

    def test_without_tensorflow_nothing_else_is_asked(self, ask):
        assert list(ask("tensorflow", "a")) == ["tensorflow"]

    def test_an_answer_that_is_cut_off(self, ask):
        answers = ask("half", "b")
        assert answers["half"] == Answer(1)
        assert answers["b"].error == "ended with status 3"


@pytest.fixture
def broken(tmp_path):
    """Makes modules that hide the real ones, for children to import."""

    def write(**modules):
        for name, text in modules.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(textwrap.dedent(text))
        return {**os.environ, "PYTHONPATH": str(tmp_path)}

    return write


@pytest.mark.multiprocess
def test_real_children_meet_broken_packages(broken):
    environment = broken(
        keras="import sys; sys.exit('keras gave up')",
        matplotlib="raise ImportError('numpy.core.multiarray\\nfailed')",
        tensorboard="print('noise'); raise RuntimeError",
    )
    answers = doctor_probe.run(
        ["keras", "matplotlib", "tensorboard"], 60, environment
    )
    assert answers["keras"].error == "SystemExit: keras gave up"
    assert answers["matplotlib"].error == (
        "ImportError: numpy.core.multiarray: failed"
    )
    assert answers["tensorboard"].error == "RuntimeError"


@pytest.mark.multiprocess
def test_the_doctor_survives_a_tensorflow_that_crashes(
    broken, monkeypatch, capsys
):
    from luna_tf.trainers import doctor

    environment = broken(
        tensorflow="import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    )
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with pytest.raises(SystemExit) as end:
        doctor.main(["luna-doctor", "env"])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "import tensorflow" in line)
    assert "problem" in lines[at] and "crashed with SIGABRT" in lines[at]
    assert "pip install --force-reinstall" in lines[at + 1]
