"""`luna-doctor fit` with an invented compiler, and once with the real one."""

import dataclasses
import importlib.util
import json

import pytest
from luna_tf.trainers import doctor, doctor_compile, doctor_fit
from luna_tf.trainers import doctor_fit_report as report
from luna_tf.trainers.doctor_compile import Report
from luna_tf.trainers.doctor_flags import PROGRAMS, FitCommand, parse

from luna_tf.interop.tpu import chips

CHIP, DEVICES = chips.parse_topology("v5e:2x2")


def command(*arguments) -> FitCommand:
    return parse(["luna-doctor", "fit", "--config=quick", *arguments])


class Compiler:
    """Needs a mebibyte per token and example; 1,000 are there."""

    def __init__(self):
        self.recipes = []

    def __call__(self, recipe):
        assert recipe not in self.recipes
        self.recipes.append(recipe)
        rows = recipe.batch_size // DEVICES
        tokens = rows * recipe.row_length
        common = dict(
            batch_size=rows,
            length=recipe.row_length,
            has_dropout=bool(doctor_compile.dropouts(recipe)),
            parameters=12_345,
            needed_bytes=tokens * 2**20,
            available_bytes=1000 * 2**20,
            compile_seconds=3.0,
            kernels="cpu",
        )
        if tokens > 1000:
            return Report(**common)
        return Report(
            argument_bytes=2**20,
            temporary_bytes=(tokens - 1) * 2**20,
            flops=tokens * 1e9,
            bytes_accessed=tokens * 1e6,
            roofline_seconds=tokens * 1e-6,
            **common,
        )


def fit(*arguments):
    compiler = Compiler()
    found = doctor_fit.examine(command(*arguments), CHIP, DEVICES, compiler)
    return found, compiler.recipes


# === Search ===


def test_without_search_the_recipe_alone_is_compiled():
    found, recipes = fit("--search=none")
    assert len(recipes) == len(found.reports) == 1
    assert found.reports[0].batch_size == 16
    assert found.largest is None


def test_a_recipe_with_dropout_is_compiled_both_ways():
    found, recipes = fit(
        "--search=none", "--dropout=0.2", "--attention_dropout=0.1"
    )
    plain, dropped = recipes
    assert (plain.dropout, plain.attention_dropout) == (0.0, 0.0)
    assert (dropped.dropout, dropped.attention_dropout) == (0.2, 0.1)
    assert [r.has_dropout for r in found.reports] == [False, True]
    assert dataclasses.replace(plain, dropout=0.2, attention_dropout=0.1) == (
        dropped
    )


def test_largest_batch():
    found, recipes = fit("--search=batch", "--dropout=0.1")
    # 32 tokens each: 31 fit.
    assert found.largest.batch_size in (30, 31)
    assert found.largest.fits and not found.is_limit
    assert all(not r.dropout for r in recipes[2:])


def test_largest_batch_keeps_the_parts_of_accumulation():
    found, recipes = fit("--search=batch", "--accumulation_steps=4")
    assert all(r.batch_size % (4 * DEVICES) == 0 for r in recipes)
    assert found.largest.batch_size == 28


def test_longest_sequence():
    found, recipes = fit("--search=length", "--batch_size=8")
    assert found.largest.length in range(470, 501)
    assert {r.batch_size for r in recipes} == {8}


def test_a_recipe_that_is_too_large_is_no_failure():
    found, _ = fit("--batch_size=256", "--max_length=511")
    assert not found.reports[0].fits
    assert found.largest.batch_size == 1
    found, _ = fit("--batch_size=4", "--max_length=2047")
    assert found.largest is None
    assert "No batch fits" in report.to_text(found)


def test_the_search_has_a_limit():
    found, _ = fit("--search_limit=20")
    assert (found.largest.batch_size, found.is_limit) == (20, True)
    assert "the limit of the search" in report.to_text(found)


@pytest.mark.parametrize("trainer", PROGRAMS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 31, 5000])
def test_every_trainer_can_be_given_a_length(trainer, tokens):
    recipe = command(f"--trainer={trainer}").recipe
    resized = doctor_fit.resize(trainer, recipe, "length", tokens, DEVICES)
    assert resized.row_length == tokens
    assert resized.batch_size == recipe.batch_size


# === Presentation ===


def test_text():
    found, _ = fit("--dropout=0.1")
    text = report.to_text(found)
    assert text.startswith("luna-lra --config=quick --dropout=0.1 on v5e:2x2")
    assert all(len(line) <= 80 for line in text.splitlines())
    for line in (
        "memory used    512 MiB of 0.98 GiB",
        "  arguments    1 MiB",
        "  temporaries  511 MiB",
        "FLOPs          512 GFLOP",
        "bytes moved    512 MB",
        "intensity      1,000 FLOP/B",
        "time at least  512 us, by arithmetic",
        "compile time   3 s",
    ):
        assert line in text
    assert "124 in all" in text or "120 in all" in text
    words = " ".join(text.split())
    assert "197 TFLOP/s" in words and "819 GB/s" in words
    assert "random bits" in text
    assert "At least (>=)" not in text


def test_text_of_what_does_not_fit():
    found, _ = fit("--batch_size=256", "--search=none")
    text = report.to_text(found)
    assert "does not fit" in text
    assert "2.00 GiB of 0.98 GiB" in text
    assert "FLOPs          -" in text
    assert "random bits" not in text


def test_lower_bounds_are_marked():
    found, _ = fit("--search=none")
    bound = dataclasses.replace(found.reports[0], is_lower_bound=True)
    text = report.to_text(dataclasses.replace(found, reports=(bound,)))
    assert "FLOPs          >= 512 GFLOP" in text
    assert "body of a loop once" in text


def test_memory_decides_below_the_ridge():
    found, _ = fit("--search=none")
    starved = dataclasses.replace(found.reports[0], bytes_accessed=512e9)
    text = report.to_text(dataclasses.replace(found, reports=(starved,)))
    assert "by memory" in text


def test_json():
    found, _ = fit("--dropout=0.1")
    data = json.loads(json.dumps(report.to_json(found)))
    assert data["topology"] == "v5e:2x2" and data["devices"] == 4
    assert data["recipe"]["dropout"] == 0.1
    first = data["reports"][0]
    assert first["fits"] is True and first["intensity"] == 1000.0
    assert data["largest"]["batch_size"] == found.largest.batch_size
    found, _ = fit("--batch_size=256", "--search=none")
    data = report.to_json(found)
    assert data["reports"][0]["fits"] is False
    assert data["reports"][0]["flops"] is None and data["largest"] is None


# === Mistakes ===


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--topology=v5e"], "topology='v5e'"),
        (["--topology=v9:2x2"], "one of v2:AxB"),
        (["--batch_size=6"], "batch_size=6 is not possible with 4 devices"),
        (["--accumulation_steps=32"], "allowed is a multiple of 128"),
        (["--config=nothing"], "no recipe 'nothing'"),
        (["--search=width"], "batch|length|none"),
    ],
)
def test_mistakes_end_with_one_message(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(doctor_fit, "_check_compiler", lambda: None)
    with pytest.raises(SystemExit) as end:
        doctor.main(["luna-doctor", "fit", "--config=quick", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith("Try luna-doctor --help.\n")


def test_another_backend_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(doctor_fit, "_check_compiler", lambda: None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(SystemExit) as end:
        doctor.main(["luna-doctor", "fit", "--config=quick"])
    assert end.value.code == 2
    assert "KERAS_BACKEND=jax is not possible" in capsys.readouterr().err


def test_without_a_compiler_the_fix_is_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "libtpu" else find(name),
    )
    with pytest.raises(SystemExit) as end:
        doctor.main(["luna-doctor", "fit", "--config=quick"])
    assert end.value.code == 2
    assert "pip install 'luna-tf[tpu-compile]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.tpu_compile
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu: pip install 'luna-tf[tpu-compile]'",
)
@pytest.mark.parametrize("attention", ["luna", "softmax"])
def test_the_real_compiler(attention, capsys):
    with pytest.raises(SystemExit) as end:
        doctor.main(
            [
                "luna-doctor",
                "fit",
                "--config=quick",
                "--num_layers=1",
                "--hidden_dim=16",
                "--num_heads=2",
                "--batch_size=8",
                f"--attention={attention}",
                "--search=none",
                "--json",
            ]
        )
    assert end.value.code == 0
    data = json.loads(capsys.readouterr().out)
    (found,) = data["reports"]
    assert found["fits"] and not found["is_lower_bound"]
    # Weights, two moments and gradients; what is in between; both bounds are
    # wide, because compilers change.
    assert found["argument_bytes"] > 12 * found["parameters"]
    assert found["needed_bytes"] < 2**27 < found["available_bytes"]
    # At least two operations per weight and token, forwards and backwards.
    weights = found["parameters"] - 18 * 16 - found["length"] * 16
    assert found["flops"] > 2 * weights * found["batch_size"]
    assert found["roofline_seconds"] > 0


def test_a_task_has_its_own_recipes():
    arguments = ["luna-doctor", "fit", "--task=retrieval", "--config=paper"]
    found = parse(arguments)
    assert found.config == "retrieval_paper"
    assert found.recipe.pair_features == "concatenation"
