"""`luna-doctor env` as a whole: its command line and its report."""

import dataclasses
import json

import pytest
from luna_tf.trainers import doctor, doctor_findings
from luna_tf.trainers.doctor_findings import Finding
from luna_tf.trainers.doctor_flags import EnvFlags, FitFlags, parse

FINDINGS = [
    Finding("Python", "ok", "3.11.7"),
    Finding("a longer name", "warning", "word " * 30 + "end", "do this"),
    Finding("numpy", "problem", "missing", "pip install numpy"),
]


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        doctor.main(["luna-doctor", *arguments])
    return end.value.code


def test_table():
    lines = doctor_findings.to_text(FINDINGS).splitlines()
    assert lines[0] == "ok       Python         3.11.7"
    assert lines[1].startswith("warning  a longer name  word word")
    assert all(len(line) <= 80 for line in lines)
    at = lines.index("problem  numpy          missing")
    assert lines[at + 1].strip() == "fix: pip install numpy"
    assert lines[-1] == "1 problem, 1 warning"
    assert doctor_findings.to_text(FINDINGS[:1]).endswith(
        "no problems, no warnings"
    )


def test_json():
    data = json.loads(json.dumps(doctor_findings.to_json(FINDINGS)))
    assert (data["problems"], data["warnings"]) == (1, 1)
    assert data["findings"][2] == {
        "name": "numpy",
        "status": "problem",
        "message": "missing",
        "fix": "pip install numpy",
    }


@pytest.mark.parametrize("number,status", [(3, 1), (2, 0)])
def test_a_problem_is_told_by_the_status(number, status, monkeypatch, capsys):
    from luna_tf.trainers import doctor_env

    seen = []

    def examine(seconds, environment):
        seen.append((seconds, environment["HOME"]))
        return FINDINGS[:number]

    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(doctor_env, "examine", examine)
    assert call("env", "--timeout=7") == status
    assert "a longer name" in capsys.readouterr().out
    assert seen == [(7.0, "/nowhere")]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_this_very_installation(capsys, monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief"}}',
    )
    status = call("env", "--json")
    data = json.loads(capsys.readouterr().out)
    found = {f["name"]: f for f in data["findings"]}
    assert status == 1  # of TF_CONFIG
    assert "chief" in found["TF_CONFIG"]["message"]
    for name in (
        "luna-tf",
        "Python",
        "tensorflow",
        "tensorflow files",
        "import tensorflow",
        "import tensorflow_text",
        "import luna_tf",
        "XLA on the host",
    ):
        assert found[name]["status"] == "ok", found[name]
    assert {"CPU", "GPU", "TPU", "memory", "disk"} <= found.keys()


def test_help_names_every_flag(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    for schema in (EnvFlags, FitFlags):
        for field in dataclasses.fields(schema):
            assert f"{field.name}" in text
    assert "--config=TEXT" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "a command is missing. Allowed: env, fit."),
        (["en"], "unknown command 'en'. Allowed: env, fit. Did you mean `env`"),
        (["env", "fit"], "unexpected argument 'fit'"),
        (["env", "--jsn"], "unknown flag `--jsn`. Did you mean `json`?"),
        (["env", "--timeout=0"], "above 0"),
        (["env", "--packed_length=3"], "unknown flag `--packed_length`"),
        (["fit", "--timeout=3"], "unknown flag `--timeout`"),
        (["fit", "--trainer=xyz"], "--trainer=xyz"),
        (["fit", "--search_limit=0"], "at least 1"),
        (["fit", "--packed_length=0"], "at least 1"),
    ],
)
def test_mistakes_end_with_one_message(arguments, message, capsys):
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith("Try luna-doctor --help.\n")
    assert len(error.splitlines()) <= 3


def test_flags_of_fit_override_the_recipe():
    command = parse(
        "luna-doctor fit --config=quick --batch_size=8 --json".split()
    )
    assert (command.config, command.flags.json) == ("quick", True)
    assert command.recipe.batch_size == 8
    assert command.recipe.hidden_dim == 64
    assert command.given == ("--batch_size=8",)
