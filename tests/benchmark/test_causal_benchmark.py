"""`luna-benchmark causal`: its contenders, its tokens, its goals."""

import keras
import numpy as np
import pytest
from keras import ops
from luna_tf.trainers import benchmark

from luna_tf.benchmark import cases, causal, child, contenders, goals, report
from luna_tf.benchmark.cases import CAUSAL, TOKEN, Case, Row, Settings
from luna_tf.training.recipes import RecipeError

SMALL = {"width": 16, "heads": 4, "batch": 2}
LENGTH, SLOTS = 12, 3


@pytest.mark.parametrize("tie_key_value", [False, True])
def test_the_official_formula_equals_our_layer(tie_key_value):
    settings = Settings(**SMALL, tie_key_value=tie_key_value)
    ours = contenders.make_layer(settings, "chunked", LENGTH, SLOTS)
    official = contenders.make_layer(settings, "official", LENGTH, SLOTS)
    generator = np.random.default_rng(0)
    for name, dense in official.projections.items():
        layer = getattr(ours, name)
        for weight, same in (
            (layer.kernel, dense.kernel),
            (layer.bias, dense.bias),
        ):
            values = generator.normal(size=weight.shape) * 0.5
            weight.assign(values)
            same.assign(values.reshape(same.shape))
    inputs = contenders.make_inputs(settings, LENGTH, SLOTS)
    np.testing.assert_allclose(
        official(*inputs), ours(*inputs), rtol=2e-4, atol=2e-4
    )


@pytest.mark.parametrize("contender", CAUSAL)
def test_every_contender_steps_and_sees_no_later_token(contender):
    settings = Settings(**SMALL, dropout=0.1)
    loss, found = contenders.make_step(
        settings, Case(contender, "eager", LENGTH, SLOTS)
    )()
    for value in keras.tree.flatten((loss, found)):
        assert np.isfinite(ops.convert_to_numpy(value)).all()

    # The loss of the first tokens must not change with the last one.
    slots = 0 if contender in cases.SOFTMAX else SLOTS
    layer = contenders.make_layer(Settings(**SMALL), contender, LENGTH, SLOTS)
    x, *packed = contenders.make_inputs(settings, LENGTH, slots)
    changed = ops.concatenate([x[:, :-1], x[:, -1:] + 1.0], axis=1)

    def output(x):
        if slots:
            return ops.convert_to_numpy(layer(x, *packed))
        return ops.convert_to_numpy(layer(x, x, use_causal_mask=True))

    before, after = output(x), output(changed)
    np.testing.assert_allclose(after[:, :-1], before[:, :-1], atol=1e-6)
    assert np.abs(after[:, -1] - before[:, -1]).max() > 1e-3


def test_tokens_are_timed_and_only_the_cache_of_luna_stays_small():
    job = {
        "task": "time",
        "settings": SMALL,
        "cases": [
            {
                "contender": contender,
                "mode": "eager",
                "length": length,
                "packed_length": 0 if contender in cases.SOFTMAX else SLOTS,
            }
            for contender in TOKEN
            for length in (4, 8)
        ],
        "repeats": 1,
        "seconds": 1.0,
    }
    events = list(child.run(job, lambda event: None))
    assert not [event for event in events if "failed" in event]
    sizes = dict(e["cache_bytes"] for e in events if "cache_bytes" in e)
    # Float32: pack query and two sums of (B, H, L, K), the count, the mask.
    assert sizes[0] == sizes[1] == 4 * (3 * 2 * 4 * 3 * 4 + 2) + 2 * 3
    # Keys and values of n tokens.
    assert sizes[2] == 4 * 2 * 2 * 4 * 16 and sizes[3] == 2 * sizes[2]
    (seconds,) = [e["round"] for e in events if "round" in e]
    assert sorted(seconds) == ["0", "1", "2", "3"]


def test_the_step_of_tokens_makes_what_the_layer_makes(monkeypatch):
    monkeypatch.setattr(causal, "TOKENS", 2)
    settings = Settings(**SMALL)
    keras.utils.set_random_seed(0)
    case = Case("chunked_token", "eager", LENGTH, SLOTS)
    step, _ = causal.make_token_step(settings, case)
    output, cache = step()
    keras.utils.set_random_seed(0)
    layer = contenders.make_layer(settings, "chunked", LENGTH, SLOTS)
    x, p = contenders.make_inputs(settings, LENGTH, SLOTS)
    (token,) = contenders.make_inputs(settings, 1, 0)
    first = token + layer(ops.concatenate([x, token], axis=1), p)[:, -1:]
    second = layer(ops.concatenate([x, token, first], axis=1), p)[:, -1:]
    np.testing.assert_allclose(output, token + second, rtol=1e-4, atol=1e-4)
    assert set(np.array(cache["num_tokens"])) == {LENGTH + 2}


def row(contender, length, samples, extra_bytes=None, cache_bytes=None):
    slots = 0 if contender in cases.SOFTMAX else 16
    case = Case(contender, "xla", length, slots)
    return Row(case, samples, extra_bytes, cache_bytes)


def example_rows(scale=1.0):
    rows = [
        row("chunked", 4096, [0.1 * scale] * 3, extra_bytes=10**8),
        row("official", 4096, [0.7] * 3, extra_bytes=10**9),
        row("causal_softmax", 4096, [0.4] * 3, extra_bytes=2 * 10**9),
    ]
    tokens = [
        row("chunked_token", 128, [1e-4] * 3, cache_bytes=2048),
        row("chunked_token", 8192, [1.1e-4 * scale] * 3, cache_bytes=2048),
        row("softmax_token", 8192, [1e-3] * 3, cache_bytes=10**6),
    ]
    return rows, tokens


def test_goals_are_judged():
    met = goals.causal_verdicts(*example_rows())
    assert [v.word for v in met] == ["met"] * 5
    figures = [v.figure for v in met]
    assert figures[0].startswith("7.00 times")
    assert figures[1].startswith("1/10.0")
    assert figures[2].startswith("4.00 times")
    assert figures[3].startswith("1.100")
    assert figures[4] == "2.0 KiB at n=128, 8192"

    rows, tokens = example_rows(scale=1.5)
    rows[0].extra_bytes += 10**7
    tokens[0].cache_bytes -= 1
    missed = goals.causal_verdicts(rows, tokens)
    assert [v.word for v in missed] == ["NOT MET"] * 5
    nothing = goals.causal_verdicts([], [])
    assert [v.word for v in nothing] == ["not measured"] * 5
    other = goals.causal_verdicts(rows, tokens, Settings(width=64))
    assert [v.word for v in other] == ["not measured"] * 5


def test_tables_hold_ratios_and_tokens():
    rows, tokens = example_rows()
    tokens.append(row("softmax_token", 128, []))
    tokens[-1].status = "does not fit in 1 GiB"
    text = "\n".join(map(report.to_text, report.tables(rows)))
    assert "official / chunked" in text and "causal_softmax / chunked" in text
    assert "7.00 (7.00–7.00)" in text
    table = report.token_table(tokens)
    assert table.lines[0][:3] == ["128", "100 (100–100)", "2.0"]
    assert "does not fit in 1 GiB" in table.lines[0]
    assert table.lines[1][3:] == ["1000 (1000–1000)", "976.6"]


def test_rows_with_a_cache_survive_the_file(tmp_path):
    _, tokens = example_rows()
    cases.append_csv(tmp_path / "rows.csv", tokens)
    assert cases.read_csv(tmp_path / "rows.csv") == tokens


def test_plan_has_layers_and_tokens():
    flags = benchmark.parse(
        ["luna-benchmark", "causal", "--lengths=64", "--token_lengths=8,16"]
    )
    plan = flags.plan()
    labels = [r.case.label for r in plan.rows()[64] if r.case.mode == "xla"]
    assert labels == [
        "chunked l=16 xla",
        "official l=16 xla",
        "causal_softmax xla",
    ]
    tokens = [(r.case.label, r.case.length) for r in plan.token_rows()]
    assert tokens == [
        (f"{name} xla", length)
        for length in (8, 16)
        for name in ("chunked_token l=16", "softmax_token")
    ]
    assert not plan.rule_rows()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--contenders=auto"], "allowed are chunked, official, causal_soft"),
        (["--token_lengths=0"], "--token_lengths=0 is not possible"),
        (["--masked"], "unknown flag `--masked`"),
    ],
)
def test_mistakes_end_with_one_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.parse(["luna-benchmark", "causal", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_outside_of_a_checkout_the_official_formula_is_missing(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(cases, "OFFICIAL_FILE", tmp_path / "none.py")
    monkeypatch.setattr(causal, "OFFICIAL_FILE", tmp_path / "none.py")
    with pytest.raises(FileNotFoundError, match="run from a checkout"):
        causal.layer_class("official")
    flags = benchmark.parse(
        ["luna-benchmark", "causal", "--contenders=official"]
    )
    with pytest.raises(RecipeError, match="in the tests of a checkout"):
        benchmark.run(flags)
