"""One tiny run through the real command line, then what it left behind."""

import csv
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml
from luna_tf.trainers import lra, lra_report
from luna_tf.trainers.lra_recipe import PROGRAM, LRARecipe
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from luna_tf.training import recipes

TINY = (
    "--config=quick --train_examples=64 --validation_examples=21 "
    "--test_examples=43 --hidden_dim=8 --intermediate_dim=8 --num_layers=1 "
    "--num_heads=2 --packed_length=3 --batch_size=16 --train_steps=6 "
    "--warmup_steps=2 --eval_every=3 --steps_per_loop=2"
).split()


def call(*arguments):
    """Runs luna-lra in this process; returns its status."""
    with pytest.raises(SystemExit) as end:
        lra.main(["luna-lra", *map(str, arguments)])
    return end.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert call(*TINY, f"--model_dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def read_recipe(name_or_path):
    values = recipes.read_yaml(str(name_or_path), PROGRAM.folder)
    return recipes.build(LRARecipe, values, origin=str(name_or_path))


class TestRun:
    def test_writes_every_file_and_nothing_else(self, folder):
        expected = {*lra_report.FILES, "data"}
        assert {path.name for path in folder.iterdir()} == expected
        for name in expected:
            path = folder / name
            files = [path] if path.is_file() else list(path.rglob("*"))
            assert sum(f.stat().st_size for f in files if f.is_file()) > 0

    def test_the_written_recipe_is_the_effective_one(self, folder):
        written = read_recipe(folder / "recipe.yaml")
        assert written.hidden_dim == 8
        assert written.train_examples == 64
        assert written.weight_decay == read_recipe("quick").weight_decay

    def test_history_holds_training_and_validation(self, folder):
        with open(folder / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == ["2", "3", "4", "6"]
        validated = [r["step"] for r in rows if r["validation_accuracy"]]
        assert validated == ["3", "6"]
        for row in rows:
            assert 0.0 < float(row["train_loss"]) < 20.0
            assert float(row["train_learning_rate"]) > 0.0

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_tensorboard_events(self, folder, split):
        events = EventAccumulator(str(folder / "tensorboard" / split))
        events.Reload()
        tags = set(events.Tags()["tensors"])
        wanted = {"loss", "accuracy"}
        if split == "train":
            wanted |= {"learning_rate", "examples_per_second"}
        assert wanted <= tags

    def test_curves_are_a_png(self, folder):
        start = (folder / "curves.png").read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n"

    def test_results_agree_with_the_model_on_the_data(self, folder, results):
        recipe = read_recipe(folder / "recipe.yaml")
        test = lra.load_splits(recipe, folder)["test"]
        model = keras.saving.load_model(folder / "model.keras")
        token_ids = test.padded(np.arange(len(test)), recipe.sequence_length)
        right = model.predict(token_ids, verbose=0).argmax(-1) == test.labels
        assert len(test) == 43
        assert results["test"]["correct"] == right.sum()
        assert results["test"]["accuracy"] == right.mean()
        low, high = results["test"]["interval_95"]
        assert low < right.mean() < high
        operators = results["per_operator"]
        assert sum(entry["examples"] for entry in operators.values()) == 43
        assert results["parameters"] == model.count_params()
        margin = right.mean() - results["reference_lines"]["root_operator"]
        assert results["margin_points"] == pytest.approx(100 * margin)
        assert results["examples_per_second"] > 0

    def test_model_and_weights_are_the_same(self, folder):
        recipe = read_recipe(folder / "recipe.yaml")
        model = keras.saving.load_model(folder / "model.keras")
        rebuilt = lra.make_model(recipe)
        rebuilt.load_weights(folder / "best.weights.h5")
        for first, second in zip(
            model.get_weights(), rebuilt.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(first, second)

    def test_the_tables_show_the_figures_of_the_json(self, folder, results):
        text = lra_report.to_text(results, folder)
        markdown = (folder / "results.md").read_text()
        low, high = results["test"]["interval_95"]
        shown = [
            results["test"]["accuracy"],
            low,
            high,
            *results["reference_lines"].values(),
            *(e["accuracy"] for e in results["per_operator"].values()),
        ]
        wanted = [f"{100 * value:.1f} %" for value in shown]
        wanted.append(f"{results['margin_points']:+.1f} points")
        wanted.append(f"{results['parameters']:,}")
        wanted.append(f"{results['examples_per_second']:,.0f} examples/s")
        for figure in wanted:
            assert figure in text
            assert figure in markdown
        for name in lra_report.FILES:
            assert name in text

    def test_the_saved_model_runs_without_luna_tf(self, folder):
        path = folder / "saved_model"
        vocabulary = json.loads((path / "vocabulary.json").read_text())
        assert len(vocabulary["tokens"]) == 18
        program = """
import json, sys
sys.modules["luna_tf"] = sys.modules["keras"] = None
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for token_ids in json.loads(sys.argv[2]):
    out = serve(token_ids=tf.constant(token_ids))
    print(json.dumps({k: v.numpy().tolist() for k, v in out.items()}))
"""
        batches = [[[1, 12, 5, 6, 16, 2]], [[1, 7, 2, 0]] * 3]
        done = subprocess.run(
            [sys.executable, "-c", program, path, json.dumps(batches)],
            capture_output=True,
            text=True,
            check=True,
        )
        model = keras.saving.load_model(folder / "model.keras")
        for token_ids, line in zip(
            batches, done.stdout.splitlines(), strict=True
        ):
            out = json.loads(line)
            expected = model(np.array(token_ids, np.int32)).numpy()
            np.testing.assert_allclose(out["logits"], expected, atol=1e-5)
            np.testing.assert_allclose(
                out["probabilities"],
                keras.ops.softmax(expected).numpy(),
                atol=1e-5,
            )


class TestAgain:
    def test_a_finished_run_is_refused(self, folder, capsys):
        before = (folder / "results.json").read_bytes()
        assert call(*TINY, f"--model_dir={folder}") == 2
        message = capsys.readouterr().err
        assert f"--model_dir={folder} already holds a run" in message
        assert "--overwrite" in message
        assert (folder / "results.json").read_bytes() == before

    def test_evaluate_reads_the_run(self, folder, results, capsys):
        before = (folder / "results.json").read_bytes()
        assert call(f"--model_dir={folder}", "--mode=evaluate") == 0
        accuracy = f"{100 * results['test']['accuracy']:.1f} %"
        assert accuracy in capsys.readouterr().out
        assert (folder / "results.json").read_bytes() == before

    def test_evaluate_without_a_run_is_refused(self, tmp_path, capsys):
        assert call(f"--model_dir={tmp_path}", "--mode=evaluate") == 2
        assert "holds no recipe.yaml" in capsys.readouterr().err

    def test_an_interrupt_keeps_curves_and_best_weights(
        self, tmp_path, monkeypatch
    ):
        from luna_tf.training.progress import ProgressBar

        def update(self, step, text=""):
            if "loss" in text and step > 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(ProgressBar, "update", update)
        arguments = [*TINY, "--nojit_compile", f"--model_dir={tmp_path}"]
        assert call(*arguments) == 130
        for name in ("curves.png", "history.csv", "best.weights.h5"):
            assert (tmp_path / name).stat().st_size > 0
        assert not (tmp_path / "results.json").exists()

        # The same folder again: the data stay, the rest is replaced.
        monkeypatch.undo()
        (cache,) = (tmp_path / "data").iterdir()
        made = (cache / "train.tfrecord").stat().st_mtime_ns
        arguments += ["--overwrite", "--precision=mixed_bfloat16"]
        assert call(*arguments) == 0
        assert (tmp_path / "results.json").exists()
        assert (tmp_path / "saved_model").exists()
        assert (cache / "train.tfrecord").stat().st_mtime_ns == made


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--num_layer=3", "unknown flag `--num_layer`. Did you mean"),
            ("--num_layers=0", "--num_layers=0: allowed is an integer at"),
            ("--pooling=max", "value should be one of <cls|mean|packed>"),
            ("--num_heads=5", "num_heads=5 is not possible: allowed is a div"),
            ("--config=papre", "no recipe 'papre'. Allowed: default, paper"),
            ("--warmup_steps=600", "at most train_steps=500"),
            ("--schedule=inverse_sqrt --warmup_steps=0", "1 or more"),
            ("--max_length=4", "max_length=4 is not possible"),
            ("--max_length=6 --max_depth=1", "different expressions"),
            ("--data_dir=/nowhere", "data_dir='/nowhere' is not possible"),
            ("three", "unexpected argument 'three'"),
        ],
    )
    def test_is_told_at_once(self, tmp_path, capsys, arguments, message):
        model_dir = tmp_path / "run"
        base = ["--config=quick", f"--model_dir={model_dir}"]
        assert call(*base, *arguments.split()) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.startswith("luna-lra: ")
        assert "Traceback" not in captured.err
        assert list(tmp_path.rglob("*.tfrecord")) == []

    def test_an_unknown_field_of_a_recipe_file(self, tmp_path, capsys):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({"batch_sizes": 3}))
        assert call(f"--config={path}") == 2
        message = capsys.readouterr().err
        assert "unknown field `batch_sizes`. Did you mean `batch_size`?" in (
            message
        )

    def test_a_folder_that_cannot_be_made(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert call(*TINY, f"--model_dir={tmp_path / 'file' / 'run'}") == 2
        assert "cannot be made" in capsys.readouterr().err

    def test_malformed_released_files(self, tmp_path, capsys):
        for name in ("train", "val", "test"):
            (tmp_path / f"basic_{name}.tsv").write_text(
                "Source\tTarget\nx\t1\n"
            )
        places = f"--data_dir={tmp_path}", f"--model_dir={tmp_path / 'run'}"
        assert call("--config=quick", *places) == 2
        assert "basic_train.tsv, line 2" in capsys.readouterr().err

    def test_generator_flags_with_released_files(self, tmp_path, capsys):
        places = f"--data_dir={tmp_path}", f"--model_dir={tmp_path / 'run'}"
        assert call(*places, "--min_length=5") == 2
        assert "--min_length is not possible" in capsys.readouterr().err


def test_help_names_every_flag_once(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("luna-lra trains Luna on ListOps")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for field in (*LRARecipe.__dataclass_fields__, "config", "model_dir"):
        heads = (f"  --{field}=", f"  --[no]{field} ")
        assert len([x for x in lines if x.startswith(heads)]) == 1, field


@pytest.mark.parametrize("name", ["default", "paper", "quick"])
def test_shipped_recipes_are_valid_and_say_what_to_expect(name):
    recipe = read_recipe(name)
    assert lra.make_model(recipe).count_params() > 0
    opening = (PROGRAM.folder / f"{name}.yaml").read_text().split("\n\n")[0]
    for word in ("Source:", "Expected:", "Time:", "Hardware:"):
        assert word in opening


def test_the_paper_recipe_has_the_official_size():
    # The release of 2021 has 6,048,256 weights next to the token embedding.
    # Its position table has two rows more, which nothing reads.
    model = lra.make_model(read_recipe("paper"))
    assert model.count_params() == 6_048_256 + 18 * 512 - 2 * 512
