import pytest

from luna_tf.benchmark import goals, report, timing
from luna_tf.benchmark.cases import (
    Case,
    Row,
    Settings,
    append_csv,
    read_csv,
)


def row(contender, length, samples, slots=16, extra_bytes=None, mode="xla"):
    slots = 0 if contender == "softmax" else slots
    case = Case(contender, mode, length, slots)
    return Row(case, list(samples), extra_bytes)


def test_rounds_are_interleaved_and_shuffled():
    calls, announced = [], []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    measured = list(
        timing.rounds(
            steps, repeats=9, seconds=100.0, announce=announced.append
        )
    )
    assert calls == announced
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 27, 3)]
    assert all(sorted(r) == list("abc") for r in rounds)
    assert len(set(rounds)) > 3
    assert [sorted(m) for m in measured] == [list("abc")] * 9


def test_rounds_stop_when_the_time_is_spent_but_not_before_three():
    now = [0.0]

    def step():
        now[0] += 10.0

    measured = list(
        timing.rounds({"a": step}, 7, seconds=15.0, clock=lambda: now[0])
    )
    assert [m["a"] for m in measured] == [10.0] * 3


def test_ratios_are_taken_round_by_round():
    # The machine slows down tenfold; the ratio of 2 stays.
    fast, slow = [1.0, 2.0, 10.0, 10.0], [2.0, 4.0, 20.0, 20.0]
    assert timing.paired_ratio(slow, fast) == (2.0, 2.0, 2.0)
    assert timing.paired_ratio([1, 2, 3], [1, 1, 1]) == (1.5, 2.0, 2.5)
    with pytest.raises(ValueError, match="3 and 2 samples"):
        timing.paired_ratio([1, 2, 3], [1, 1])


def test_growth_exponent_recovers_the_law():
    lengths = [512, 1024, 4096]
    values = [3e-6 * n**1.5 for n in lengths]
    assert timing.growth_exponent(lengths, values) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="two lengths"):
        timing.growth_exponent([512], [1.0])


def test_csv_keeps_everything(tmp_path):
    path = tmp_path / "rows.csv"
    first = row("auto", 64, [0.25, 0.5, 0.75], extra_bytes=1000)
    second = Row(Case("softmax", "eager", 64, 0), status="does not fit")
    append_csv(path, [first])
    append_csv(path, [second])
    assert read_csv(path) == [first, second]
    assert path.read_text().count("median_seconds") == 1


def example_rows():
    rows = []
    for n in (4096, 65536):
        rows.append(row("auto", n, [n * 1e-5] * 3, extra_bytes=n * 1000))
    rows.append(row("softmax", 4096, [0.8] * 3, extra_bytes=4096 * 40000))
    slow = row("softmax", 4096, [8.0] * 3, mode="eager")
    rows += [slow, row("direct", 4096, [0.08] * 3)]
    return rows


def test_goals_use_the_fastest_mode_and_say_what_is_missing():
    words = {v.goal: v for v in goals.verdicts(example_rows())}
    speed = words[
        "n=4096, l=16: at least 15 times faster than softmax (aim: 20)"
    ]
    assert speed.met and speed.figure.startswith("19.53 times")
    direct = words["n=4096, l=16: at least 2.2 times faster than direct"]
    assert direct.word == "NOT MET" and "1.95" in direct.figure
    growth = words["l=16: growth exponent at most 1.1 up to n=65536"]
    assert growth.met and "1.000" in growth.figure
    memory = words["n=4096, l=16: extra memory at most 1/30 of softmax"]
    assert memory.met and memory.figure.startswith("1/40.0")
    missing = words["n=4096, l=64: not slower than direct beyond the spread"]
    assert missing.word == "not measured"


@pytest.mark.parametrize(
    "absorbed, word",
    [
        ([0.5, 0.6, 0.7], "right"),
        ([0.9, 1.0, 1.1], "right"),
        ([2.0] * 3, "WRONG"),
    ],
)
def test_rule_is_judged_by_the_paired_ratio(absorbed, word):
    rows = [
        row("absorbed", 64, absorbed),
        row("direct", 64, [1.0] * 3),
        row("direct_absorbed", 64, [1.0] * 3),
    ]
    table = report.rule_table(rows, lambda slots: ("absorbed", "absorbed"))
    pack, unpack = table.lines
    assert pack[:3] == ["16", "pack", "absorbed"] and pack[-1] == word
    assert unpack[-1] == "not measured"


def test_tables_tell_why_a_cell_is_empty():
    rows = example_rows()
    failed = Row(
        Case("direct", "xla", 65536, 16), status="does not fit in 1 GiB"
    )
    text = "\n".join(map(report.to_text, report.tables([*rows, failed])))
    assert "does not fit in 1 GiB" in text
    assert "19.53 (19.53–19.53)" in text
    assert "| n | auto |" in report.to_markdown(report.tables(rows)[0])


def test_other_settings_are_not_judged():
    rows = [row("auto", 4096, [1.0] * 3), row("softmax", 4096, [20.0] * 3)]
    assert goals.verdicts(rows)[0].met
    other = goals.verdicts(rows, Settings(width=64))
    assert {verdict.met for verdict in other} == {None}


def test_growth_is_judged_from_long_inputs_too():
    # Flat over short inputs by a fixed cost, quadratic in the end.
    lengths = (512, 1024, 2048, 4096, 8192, 65536)
    rows = [row("auto", n, [1.0 + 20 * (n / 65536) ** 2]) for n in lengths]
    (growth,) = [
        v for v in goals.verdicts(rows) if v.goal.startswith("l=16: growth")
    ]
    assert growth.met is False
    whole, long = (float(f.split()[0]) for f in growth.figure.split(", "))
    assert whole < 0.7 < 1.1 < long


def test_a_curve_is_of_one_mode():
    rows = [
        row("auto", 512, [1.0], mode="eager"),
        row("auto", 512, [2.0], mode="xla"),
        row("auto", 1024, [5.0], mode="eager"),
        row("auto", 1024, [4.0], mode="xla"),
    ]
    assert goals.curve(rows, "auto", 16) == {512: 2.0, 1024: 4.0}
