import dataclasses

import pytest
from luna_tf.trainers import benchmark
from luna_tf.trainers.benchmark_flags import AttentionFlags, CausalFlags


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "a command is missing. Allowed: attention, causal."),
        (
            ["atention"],
            "unknown command 'atention'. Allowed: attention, causal. Did you",
        ),
        (["attention", "x"], "unexpected argument 'x'"),
        (["attention", "--length=3"], "Did you mean `lengths`?"),
        (["attention", "--lengths=8,-1"], "--lengths=8,-1 is not possible"),
        (["attention", "--packed_lengths="], "--packed_lengths="),
        (["attention", "--heads=3"], "--heads=3 is not possible: allowed is a"),
        (["attention", "--modes=fast"], "allowed are eager, graph, xla"),
        (["attention", "--contenders=auto,x"], "--contenders=auto,x"),
        (["attention", "--repeats=0"], "at least 1"),
        (["attention", "--memory_limit_gib=-1"], "above 0"),
        (["attention", "--precision=int8"], "precision"),
    ],
)
def test_mistakes_end_with_one_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.parse(["luna-benchmark", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith("Try luna-benchmark --help.\n")
    assert len(error.splitlines()) <= 3


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.parse(["luna-benchmark", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for schema in AttentionFlags, CausalFlags:
        for field in dataclasses.fields(schema):
            assert field.name in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_plan_of_given_flags():
    flags = benchmark.parse(
        [
            "luna-benchmark",
            "attention",
            "--lengths=1024,512",
            "--growth_to=5000",
            "--packed_lengths=64,16",
            "--contenders=softmax,auto",
            "--modes=xla",
            "--nomemory",
            "--rule_packed_lengths=",
            "--width=64",
        ]
    )
    plan = flags.plan()
    assert plan.lengths == (512, 1024)
    assert plan.growth_lengths == (2048, 4096)
    assert not plan.memory and not plan.rule_rows()
    labels = [row.case.label for row in plan.rows()[512]]
    assert labels == ["softmax xla", "auto l=16 xla", "auto l=64 xla"]
    assert [row.case.label for row in plan.rows()[4096]] == labels[1:]
    assert flags.settings().width == 64
