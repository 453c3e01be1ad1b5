"""Tiny runs through the real command line, and what they leave behind."""

import csv
import io
import json
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml
from luna_tf.trainers import lra, lra_data, lra_report, session
from luna_tf.trainers.lra_recipe import PROGRAM, LRARecipe
from luna_tf.trainers.machine import EvaluatingMachine
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from luna_tf.training import files, recipes
from luna_tf.training.progress import ProgressBar

TINY = (
    "--config=quick --train_examples=64 --validation_examples=21 "
    "--test_examples=43 --hidden_dim=8 --intermediate_dim=8 --num_layers=1 "
    "--num_heads=2 --packed_length=3 --batch_size=16 --train_steps=6 "
    "--warmup_steps=2 --eval_every=4 --steps_per_loop=2"
).split()
# By training. Attention is drawn over pictures only.
WRITTEN = {*lra_report.FILES} - {
    "attention.png",
    "evaluation.json",
    "evaluation.md",
}


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


def read_history(folder):
    text = files.read_text(files.join(folder, "history.csv"))
    return list(csv.DictReader(io.StringIO(text)))


def column(folder, name):
    return [float(row[name]) for row in read_history(folder) if row[name]]


def read_recipe(name_or_path):
    values = recipes.read_yaml(str(name_or_path), PROGRAM.folder)
    return recipes.build(LRARecipe, values, origin=str(name_or_path))


class TestRun:
    def test_writes_every_file_and_nothing_else(self, folder):
        expected = {*WRITTEN, "data"}
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
        rows = read_history(folder)
        assert [row["step"] for row in rows] == ["2", "4", "6"]
        validated = [r["step"] for r in rows if r["validation_accuracy"]]
        assert validated == ["4", "6"]
        for row in rows:
            assert 0.0 < float(row["train_loss"]) < 20.0
            assert float(row["train_learning_rate"]) > 0.0
            assert float(row["train_gradient_norm"]) > 0.0

    def test_the_environment_of_the_only_start(self, folder):
        (start,) = json.loads((folder / "environment.json").read_text())
        assert start["command"] == sys.argv
        assert start["packages"]["keras"] == keras.__version__
        assert start["precision"] == "float32"
        assert start["replicas"] == 1

    def test_a_checkpoint_with_every_validation(self, folder):
        names = {path.name for path in (folder / "checkpoints").iterdir()}
        assert names == {"step-00000004", "step-00000006"}

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_tensorboard_events(self, folder, split):
        events = EventAccumulator(str(folder / "tensorboard" / split))
        events.Reload()
        tags = set(events.Tags()["tensors"])
        wanted = {"loss", "accuracy"}
        if split == "train":
            wanted |= {"learning_rate", "gradient_norm", "tokens_per_second"}
        assert wanted <= tags

    def test_curves_are_a_png(self, folder):
        start = (folder / "curves.png").read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n"

    def test_results_agree_with_the_model_on_the_data(self, folder, results):
        recipe = read_recipe(folder / "recipe.yaml")
        test = lra_data.load(recipe, str(folder))["test"]
        model = keras.saving.load_model(folder / "model.keras")
        token_ids = test.padded(np.arange(len(test)), recipe.row_length)
        right = model.predict(token_ids, verbose=0).argmax(-1) == test.labels
        assert len(test) == 43
        assert results["test"]["correct"] == right.sum()
        assert results["test"]["accuracy"] == right.mean()
        low, high = results["test"]["interval_95"]
        assert low < right.mean() < high
        operators = results["groups"]["entries"]
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
        text = lra_report.to_text(results, str(folder))
        markdown = (folder / "results.md").read_text()
        low, high = results["test"]["interval_95"]
        shown = [
            results["test"]["accuracy"],
            low,
            high,
            *results["reference_lines"].values(),
            *(e["accuracy"] for e in results["groups"]["entries"].values()),
        ]
        wanted = [f"{100 * value:.1f} %" for value in shown]
        wanted.append(f"{results['margin_points']:+.1f} points")
        wanted.append(f"{results['parameters']:,}")
        wanted.append(f"{results['examples_per_second']:,.0f} examples/s")
        for figure in wanted:
            assert figure in text
            assert figure in markdown
        for name in WRITTEN:
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
    def test_the_same_command_has_nothing_left_to_do(
        self, folder, results, capsys
    ):
        kept = ("history.csv", "best.weights.h5", "recipe.yaml")
        before = [(folder / name).read_bytes() for name in kept]
        assert call(*TINY, f"--model_dir={folder}") == 0
        assert "going on from step 6" in capsys.readouterr().err
        assert [(folder / name).read_bytes() for name in kept] == before
        again = json.loads((folder / "results.json").read_text())
        for name in ("test", "best_step", "steps", "validation_accuracy"):
            assert again[name] == results[name]
        starts = json.loads((folder / "environment.json").read_text())
        assert len(starts) == 2

    def test_another_recipe_is_refused(self, folder, capsys):
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        changed = "--learning_rate=3e-3", "--train_steps=4"
        assert call(*TINY, *changed, f"--model_dir={folder}") == 2
        message = capsys.readouterr().err
        assert f"--model_dir={folder} holds a run with another" in message
        assert "learning_rate was 0.002, now 0.003" in message
        assert "train_steps was 6, now 4" in message
        assert "--overwrite" in message
        after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert after == before

    def test_evaluate_reads_the_run(self, folder, results, capsys):
        before = (folder / "results.json").read_bytes()
        assert call(f"--model_dir={folder}", "--mode=evaluate") == 0
        accuracy = f"{100 * results['test']['accuracy']:.1f} %"
        assert accuracy in capsys.readouterr().out
        assert (folder / "results.json").read_bytes() == before

    def test_predictions_and_confusion_agree_with_the_accuracy(
        self, folder, results
    ):
        text = (folder / "predictions.csv").read_text()
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [int(row["example"]) for row in rows] == list(range(43))
        right = [row["label"] == row["prediction"] for row in rows]
        assert sum(right) == results["test"]["correct"]
        confusion = np.array(results["confusion"])
        assert confusion.shape == (10, 10)
        assert np.trace(confusion) == sum(right)
        counts = np.bincount([int(r["label"]) for r in rows], minlength=10)
        np.testing.assert_array_equal(confusion.sum(1), counts)

    @pytest.mark.parametrize(
        "weights", ["best.weights.h5", "model.keras", "saved_model", "6"]
    )
    def test_evaluates_other_weights(
        self, folder, results, tmp_path, capsys, weights
    ):
        step = results["best_step"] if weights == "6" else None
        path = tmp_path / "answers.csv"
        given = weights if weights == "6" else folder / weights
        assert (
            call(
                f"--model_dir={folder}",
                "--mode=evaluate",
                f"--weights={given}",
                f"--predictions={path}",
            )
            == 0
        )
        assert "accuracy" in capsys.readouterr().out
        if step in (None, 6):
            expected = (folder / "predictions.csv").read_text()
            assert path.read_text() == expected
        else:
            assert len(path.read_text().splitlines()) > 1

    @pytest.mark.parametrize("weights", ["7", "/nowhere.weights.h5"])
    def test_weights_that_are_not_there(self, folder, capsys, weights):
        command = f"--model_dir={folder}", "--mode=evaluate"
        assert call(*command, f"--weights={weights}") == 2
        assert f"--weights={weights}" in capsys.readouterr().err

    @pytest.mark.parametrize("mode", ["evaluate", "export"])
    def test_nothing_to_read_is_refused(self, tmp_path, capsys, mode):
        assert call(f"--model_dir={tmp_path}", f"--mode={mode}") == 2
        assert "holds no recipe.yaml" in capsys.readouterr().err
        recipe = recipes.to_yaml(read_recipe("quick"))
        (tmp_path / "recipe.yaml").write_text(recipe)
        assert call(f"--model_dir={tmp_path}", f"--mode={mode}") == 2
        assert "holds no best.weights.h5" in capsys.readouterr().err


def send_at(monkeypatch, number, at_step):
    """Lets a signal come while a step is reported."""
    update = ProgressBar.update

    def signalling(self, step, text="", *rest):
        update(self, step, text, *rest)
        if "loss" in text and step == at_step:
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressBar, "update", signalling)


class TestStopped:
    @pytest.mark.slow
    def test_a_run_goes_on_where_it_was_stopped(
        self, folder, tmp_path, monkeypatch, capsys
    ):
        whole = folder
        arguments = [*TINY, "--nojit_compile", f"--model_dir={tmp_path}"]
        with monkeypatch.context() as patch:
            send_at(patch, signal.SIGTERM, 2)
            profile = "--profile_steps=0,2"
            assert call(*arguments, "--keep_checkpoints=1", profile) == 75
        assert "SIGTERM at step 2. The same command goes" in (
            capsys.readouterr().out
        )
        assert not (tmp_path / "results.json").exists()
        profiles = tmp_path / "tensorboard" / "profile"
        assert list(profiles.rglob("*.xplane.pb"))

        with monkeypatch.context() as patch:
            send_at(patch, signal.SIGINT, 4)
            assert call(*arguments, "--keep_checkpoints=1") == 130
        told = capsys.readouterr()
        assert "going on from step 2" in told.err
        assert "SIGINT at step 4" in told.out
        for name in ("curves.png", "history.csv", "best.weights.h5"):
            assert (tmp_path / name).stat().st_size > 0
        (checkpoint,) = (tmp_path / "checkpoints").iterdir()
        assert checkpoint.name == "step-00000004"

        # With the same numbers as a run that nothing came in between.
        assert call(*arguments, "--mode=train") == 0
        assert "going on from step 4" in capsys.readouterr().err
        assert column(tmp_path, "step") == [2, 4, 6]
        for name in ("train_loss", "validation_loss", "train_learning_rate"):
            expected = pytest.approx(column(whole, name), rel=1e-4)
            assert column(tmp_path, name) == expected
        starts = json.loads((tmp_path / "environment.json").read_text())
        assert len(starts) == 3

        # More steps may be asked for.
        more = "--train_steps=8", "--mode=train"
        assert call(*arguments, *more) == 0
        assert "going on from step 6" in capsys.readouterr().err
        assert column(tmp_path, "step") == [2, 4, 6, 8]
        assert read_recipe(tmp_path / "recipe.yaml").train_steps == 8

        # Overwriting keeps the data, and replaces the rest.
        (cache,) = (tmp_path / "data").iterdir()
        made = (cache / "train.tfrecord").stat().st_mtime_ns
        arguments += ["--overwrite", "--precision=mixed_bfloat16"]
        assert call(*arguments) == 0
        assert "going on" not in capsys.readouterr().err
        assert column(tmp_path, "step") == [2, 4, 6]
        assert (tmp_path / "saved_model").exists()
        assert (cache / "train.tfrecord").stat().st_mtime_ns == made
        (start,) = json.loads((tmp_path / "environment.json").read_text())
        assert start["precision"] == "mixed_bfloat16"


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, capsys):
    wild = "--nojit_compile", "--learning_rate=1e30", "--clip_norm=0"
    assert call(*TINY, *wild, f"--model_dir={tmp_path}") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("luna-lra: loss or gradient was not finite at")
    (path,) = tmp_path.glob("not_finite_step_*.npz")
    with np.load(path) as batch:
        assert batch["token_ids"].shape == (16, 32)
        assert batch["labels"].shape == batch["indices"].shape == (16,)
        first = ", ".join(map(str, batch["indices"]))
        assert f"at {path.stem[11:].replace('_', ' ')} (examples {first})" in (
            message
        )
    assert not (tmp_path / "results.json").exists()


def test_a_whole_run_beyond_the_local_disk(tmp_path, capsys):
    folder = f"ram://{tmp_path.name}/run"
    places = f"--model_dir={folder}/", f"--cache_dir={tmp_path}"
    assert call(*TINY, "--nojit_compile", *places) == 0
    for name in WRITTEN:
        assert files.exists(files.join(folder, name)), name
    assert column(folder, "step") == [2, 4, 6]
    assert f"Files in {folder}\n" in capsys.readouterr().out


def test_the_input_benchmark_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "INPUT_BENCHMARK_SECONDS", 0.2)
    places = "--mode=input_benchmark", f"--model_dir={tmp_path}"
    assert call(*TINY, *places) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Input pipeline alone: ")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--num_layer=3", "unknown flag `--num_layer`. Did you mean"),
            ("--num_layers=0", "--num_layers=0: allowed is an integer at"),
            ("--pooling=max", "value should be one of <cls|mean|packed>"),
            ("--num_heads=5", "num_heads=5 is not possible: allowed is a div"),
            ("--config=papre", "no recipe 'papre'. Allowed: default, image_p"),
            ("--warmup_steps=600", "at most train_steps=500"),
            ("--schedule=inverse_sqrt --warmup_steps=0", "1 or more"),
            ("--max_length=4", "max_length=4 is not possible"),
            ("--max_length=6 --max_depth=1", "different expressions"),
            ("--data_dir=/nowhere", "data_dir='/nowhere' is not possible"),
            ("three", "unexpected argument 'three'"),
            ("--steps_per_loop=30", "steps_per_loop=30 must divide eval_every"),
            ("--checkpoint_every=30", "must divide checkpoint_every"),
            ("--batch_size=6 --accumulation_steps=4", "a multiple of 4"),
            ("--profile_steps=5", "profile_steps='5' is not possible"),
            ("--profile_steps=5,5", "profile_steps must be two rising steps"),
            ("--data_service=host:1", "data_service='host:1' is not possible"),
            ("--distribution_strategy=gpu", "should be one of <auto|tpu|"),
            ("--distribution_strategy=mirrored", "there is one CPU"),
            ("--distribution_strategy=multi_worker_mirrored", "TF_CONFIG"),
            ("--tpu=grpc://host", "allowed is grpc://host:port"),
            ("--tpu=x --distribution_strategy=one_device", "tpu='x' is not"),
            ("--logical_cpus=0", "--logical_cpus=0: allowed is an integer"),
            ("--mode=test", "should be one of <train_and_evaluate|train|"),
            ("--model_dir=/", "--model_dir=/ is not possible: allowed is a"),
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
        assert "file/run cannot be written to: " in capsys.readouterr().err

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
    assert text.startswith("luna-lra trains Luna on a task of")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    fields = (
        *EvaluatingMachine.__dataclass_fields__,
        *LRARecipe.__dataclass_fields__,
    )
    for field in (*fields, "config", "model_dir", "mode", "overwrite"):
        heads = (f"  --{field}=", f"  --[no]{field} ", f"  --{field} ")
        assert len([x for x in lines if f"{x} ".startswith(heads)]) == 1, field


@pytest.mark.parametrize("name", sorted(recipes.names(PROGRAM.folder)))
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
