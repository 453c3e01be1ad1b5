"""Tiny translation runs through the command line, and what they leave."""

import contextlib
import csv
import io
import json
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from luna_tf.trainers import session, translate, translate_report
from luna_tf.trainers.translate_decoding import Translator
from luna_tf.trainers.translate_scores import corpus_scores
from translation_runs import TINY, call, read_recipe, short_pairs, write_tsv

from luna_tf.data import parallel
from luna_tf.training import averaging

VOCABULARY = translate_report.VOCABULARY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    return write_tsv(path, short_pairs())


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Folder of a finished run, and what it printed."""
    folder, out = tmp_path_factory.mktemp("runs") / "tiny", io.StringIO()
    with contextlib.redirect_stdout(out):
        status = call(*TINY, f"--train_data={data}", f"--model_dir={folder}")
    assert status == 0
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def copied(folder, tmp_path):
    """The run once more, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "copied")


def read_history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_translations(folder):
    text = (folder / "translations.tsv").read_text(encoding="utf8")
    return [line.split("\t") for line in text.removesuffix("\n").split("\n")]


class TestRun:
    def test_writes_every_file_and_nothing_else(self, folder):
        expected = {
            *translate_report.FILES,
            VOCABULARY,
            f"{VOCABULARY}.json",
        }
        found = {path.name for path in folder.iterdir()}
        # Written only where the mean was better.
        assert found | {translate_report.MEAN_WEIGHTS} == expected

    def test_the_results(self, folder, results):
        rows = read_translations(folder)
        assert rows.pop(0) == ["source", "reference", "translation", "score"]
        assert len(rows) == 8
        sources, references, translations, _ = zip(*rows, strict=True)
        assert results["test"] == {
            "sentences": 8,
            **corpus_scores(translations, references),
        }
        copied = corpus_scores(sources, references)
        assert results["copy_of_the_source"] == {
            "bleu": copied["bleu"],
            "chrf": copied["chrf"],
        }
        assert results["steps"] == 6 and results["best_step"] in (4, 6)
        assert results["title"] == "en to es"
        assert results["search"] == "beam 2, length penalty 1"
        assert results["precision"] == "float32"
        assert 0 < results["training_seconds"] < results["wall_time_seconds"]
        assert results["tokens_per_second"] > results["examples_per_second"] > 0
        model = keras.saving.load_model(folder / "model.keras")
        assert results["parameters"] == model.count_params()

    def test_history_has_seconds_and_bleu(self, folder, results):
        rows = read_history(folder)
        assert [row["step"] for row in rows] == ["2", "4", "6"]
        seconds = [float(row["train_seconds"]) for row in rows]
        assert seconds == sorted(seconds) and seconds[0] > 0
        assert seconds[-1] == results["training_seconds"]
        validated = [row["step"] for row in rows if row["validation_bleu"]]
        assert validated == ["4", "6"]
        losses = [float(r["validation_loss"]) for r in rows[1:]]
        assert results["best_validation_loss"] == min(losses)
        if results["weights"] == "of the best validation":
            assert results["validation_loss"] == min(losses)
        else:
            assert results["weights"] == "mean of steps 4, 6"
            assert results["validation_loss"] < min(losses)

    def test_model_and_weights_gave_the_translations(self, folder, results):
        recipe = read_recipe(folder / "recipe.yaml")
        vocabulary = parallel.Vocabulary((folder / VOCABULARY).read_bytes())
        model = keras.saving.load_model(folder / "model.keras")
        rebuilt = translate.make_model(recipe)
        mean = "mean of" in results["weights"]
        name = "mean.weights.h5" if mean else "best.weights.h5"
        assert (folder / "mean.weights.h5").exists() == mean
        rebuilt.load_weights(folder / name)
        for first, second in zip(
            model.get_weights(), rebuilt.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(first, second)
        rows = read_translations(folder)[1:]
        translator = Translator(
            model,
            vocabulary,
            tf.distribute.get_strategy(),
            recipe.max_length,
            recipe.beam_size,
        )
        found = translator(vocabulary.encode([row[0] for row in rows]))
        for row, translated in zip(rows, found, strict=True):
            text = translated.texts[0]
            assert row[2] == text.translate(str.maketrans("\t\n\r", "   "))
            assert float(row[3]) == pytest.approx(
                translated.scores[0], abs=1e-3
            )
            assert translated.scores == sorted(translated.scores)[::-1]

    def test_it_prints_hypotheses_scores_and_files(self, run, results):
        folder, text = run
        assert "Data: 48 + 8 + 8 pairs to train, validate and test" in text
        assert "Batches to train on (pairs×source/target): 8×" in text
        rows = read_translations(folder)[1:]
        for source, reference, best, score in (rows[0], rows[4]):
            head = f"\nsource     {source}\nreference  {reference}\n"
            hypotheses = text[text.index(head) + len(head) :].split("\n")[:2]
            assert hypotheses[0] == f"{float(score):9.3f}  {best}"
            scores = [float(line.split()[0]) for line in hypotheses]
            assert scores == sorted(scores)[::-1]
        assert text.count("\nsource     ") == 2
        assert results["test"]["bleu_signature"].startswith("nrefs:1|case:")
        for kind in ("bleu", "chrf"):
            assert results["test"][f"{kind}_signature"] in text
        for name in (*translate_report.FILES, VOCABULARY):
            listed = f"\n  {name} " in text
            assert listed or name == translate_report.MEAN_WEIGHTS

    def test_the_markdown_has_the_same_figures(self, folder, results):
        text = (folder / "results.md").read_text(encoding="utf8")
        rows = translate_report.rows(results)
        for lines in rows.values():
            for label, value, remark in lines:
                remark = remark.replace("|", "\\|")
                assert f"| {label} | {value} | {remark} |" in text


class TestAgain:
    def test_evaluates_with_another_beam(self, folder, results, capsys):
        before = (folder / "results.json").read_bytes()
        arguments = "--mode=evaluate", "--beam_size=1", "--nojit_compile"
        assert call(f"--model_dir={folder}", *arguments) == 0
        text = capsys.readouterr().out
        assert "beam 1, length penalty 1" in text
        mean = "mean of" in results["weights"]
        name = "mean.weights.h5" if mean else "best.weights.h5"
        assert f"read from {folder}/{name}" in text
        assert f"{results['parameters']:,}" in text
        assert (folder / "results.json").read_bytes() == before

    def test_exports_again(self, folder, capsys):
        shutil.rmtree(folder / "saved_model")
        arguments = "--mode=export", "--beam_size=3"
        assert call(f"--model_dir={folder}", *arguments) == 0
        assert "saved_model" in capsys.readouterr().out
        loaded = tf.saved_model.load(str(folder / "saved_model"))
        out = loaded.signatures["serving_default"](
            text=tf.constant(["Jesus wept."])
        )
        assert out["hypotheses"].shape == (1, 3)

    @pytest.mark.slow
    def test_more_steps_go_on(self, copied, data, capsys):
        arguments = *TINY, f"--train_data={data}", f"--model_dir={copied}"
        more = "--train_steps=8", "--mode=train"
        before = (copied / "results.json").read_bytes()
        assert call(*arguments, *more) == 0
        assert "going on from step 6" in capsys.readouterr().err
        steps = [row["step"] for row in read_history(copied)]
        assert steps == ["2", "4", "6", "8"]
        assert (copied / "results.json").read_bytes() == before

    @pytest.mark.slow
    def test_stops_and_checkpoints_do_not_change_the_mean(
        self, data, tmp_path, monkeypatch
    ):
        means = []
        average = averaging.average_checkpoints

        def averaged(model, folder, steps):
            average(model, folder, steps)
            means.append((list(steps), model.get_weights()))

        def stop_at_6(log, progress_text=session.progress_text):
            if log.step == 6:
                signal.raise_signal(signal.SIGTERM)
            return progress_text(log)

        monkeypatch.setattr(averaging, "average_checkpoints", averaged)
        longer = "--mode=train", "--train_steps=10", "--average_checkpoints=3"
        arguments = *TINY, f"--train_data={data}", *longer
        assert call(*arguments, f"--model_dir={tmp_path}/straight") == 0
        often = "--checkpoint_every=2", "--keep_checkpoints=1"
        arguments = *arguments, *often, f"--model_dir={tmp_path}/stopped"
        with monkeypatch.context() as patch:
            patch.setattr(session, "progress_text", stop_at_6)
            assert call(*arguments) == 75
        assert call(*arguments) == 0
        kept = sorted(p.name for p in tmp_path.glob("stopped/checkpoints/*"))
        assert kept == [f"step-{step:08d}" for step in (4, 8, 10)]
        (steps, straight), (steps_too, stopped) = means
        assert steps == steps_too == [4, 8, 10]
        for one, other in zip(straight, stopped, strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.slow
    def test_learned_positions_suffice_to_the_end(self, data, tmp_path, capsys):
        places = f"--train_data={data}", f"--model_dir={tmp_path}"
        learned = "--position_embedding=learned", "--max_length=16"
        assert call(*TINY, *places, *learned, "--train_steps=2") == 0
        assert (tmp_path / "saved_model").exists()
        # Of a lower ratio, which needs fewer positions than there are.
        again = f"--model_dir={tmp_path}", "--mode=evaluate"
        assert call(*again, "--max_length_ratio=0.5") == 0
        assert "read from" in capsys.readouterr().out

    @pytest.mark.slow
    def test_the_time_that_was_given_ends_it(self, data, tmp_path, capsys):
        places = f"--train_data={data}", f"--model_dir={tmp_path}"
        arguments = *TINY, *places, "--train_minutes=1e-6", "--mode=train"
        assert call(*arguments) == 0
        (row,) = read_history(tmp_path)
        assert row["step"] == "2" and row["validation_bleu"]
        assert not (tmp_path / "results.json").exists()
        assert (tmp_path / "model.keras").exists()
        capsys.readouterr()

        assert call(*arguments) == 0
        assert "going on from step 2" in capsys.readouterr().err
        assert read_history(tmp_path) == [row]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ("--attention=softmax", "attention was luna, now softmax"),
            ("--train_minutes=5", "train_minutes was null, now 5.0"),
            ("--train_steps=4", "train_steps was 6, now 4"),
        ],
    )
    def test_another_recipe_is_refused(
        self, folder, data, capsys, changed, message
    ):
        places = f"--train_data={data}", f"--model_dir={folder}"
        assert call(*TINY, *places, changed) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Only train_steps and train_minutes may grow" in error


class TestVocabularyOfTheRun:
    def test_changed_data_cannot_go_on(self, copied, data, capsys):
        text = data.read_text(encoding="utf8")
        places = f"--train_data={data}", f"--model_dir={copied}"
        try:
            data.write_text(text.replace("wept", "cried"), encoding="utf8")
            assert call(*TINY, *places, "--train_steps=8") == 2
        finally:
            data.write_text(text, encoding="utf8")
        assert "was learned from other sentences" in capsys.readouterr().err

    def test_one_of_another_size_is_refused(self, copied, capsys):
        proto = parallel.train_vocabulary(
            [side for pair in short_pairs() for side in pair], 380
        )
        (copied / VOCABULARY).write_bytes(proto)
        for mode in ("evaluate", "export"):
            assert call(f"--model_dir={copied}", f"--mode={mode}") == 2
            message = capsys.readouterr().err
            assert f"{VOCABULARY}.json does not tell of this" in message

    def test_a_recipe_of_another_size_is_refused(self, folder, capsys):
        export = "--mode=export", "--vocabulary_size=380"
        assert call(f"--model_dir={folder}", *export) == 2
        message = capsys.readouterr().err
        assert f"{VOCABULARY} has 400 subwords, but the weights" in message
        assert "vocabulary_size=380" in message

    @pytest.mark.parametrize("origin", ["present", "missing", "damaged"])
    def test_another_one_of_the_same_size_is_refused(
        self, copied, capsys, origin
    ):
        if origin == "present":
            sides = [side for pair in short_pairs(48) for side in pair]
            proto = parallel.train_vocabulary(sides, 400)
            assert parallel.Vocabulary(proto).size == 400
            assert proto != (copied / VOCABULARY).read_bytes()
            (copied / VOCABULARY).write_bytes(proto)
        elif origin == "missing":
            (copied / f"{VOCABULARY}.json").unlink()
        else:
            (copied / f"{VOCABULARY}.json").write_text("[]")
        for mode in ("evaluate", "export"):
            assert call(f"--model_dir={copied}", f"--mode={mode}") == 2
            message = capsys.readouterr().err
            assert f"{copied}/{VOCABULARY} cannot be used: " in message
            assert "does not tell of this SentencePiece model" in message

    def test_a_damaged_or_missing_one_is_refused(self, copied, data, capsys):
        path = copied / VOCABULARY
        path.write_bytes(path.read_bytes()[:1000])
        export = f"--model_dir={copied}", "--mode=export"
        assert call(*export) == 2
        message = capsys.readouterr().err
        assert f"{VOCABULARY} cannot be used: not a" in message
        # Not learned anew, either: the weights belong to the old one.
        places = f"--train_data={data}", f"--model_dir={copied}"
        assert call(*TINY, *places, "--train_steps=8") == 2
        assert "cannot go on with another" in capsys.readouterr().err
        path.unlink()
        assert call(*export) == 2
        assert f"holds no {VOCABULARY}" in capsys.readouterr().err

    def test_weights_of_another_model_are_refused(self, copied, capsys):
        arguments = "--mode=export", "--hidden_dim=32"
        assert call(f"--model_dir={copied}", *arguments) == 2
        message = capsys.readouterr().err
        assert ".weights.h5 does not fit the recipe: " in message

    @pytest.mark.parametrize("mode", ["evaluate", "export"])
    def test_a_folder_without_weights_is_refused(self, copied, capsys, mode):
        (copied / "best.weights.h5").unlink()
        assert call(f"--model_dir={copied}", f"--mode={mode}") == 2
        assert "holds no best.weights.h5 to read" in capsys.readouterr().err


def test_the_input_benchmark_trains_nothing(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(session, "INPUT_BENCHMARK_SECONDS", 0.1)
    places = f"--train_data={data}", f"--model_dir={tmp_path}"
    assert call(*TINY, *places, "--mode=input_benchmark") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Input pipeline alone: ")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {VOCABULARY, f"{VOCABULARY}.json"}


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path, capsys):
    places = f"--train_data={data}", f"--model_dir={tmp_path}"
    assert call(*TINY, *places, "--learning_rate=1e30", "--mode=train") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("luna-translate: loss or gradient was not finite")
    (path,) = tmp_path.glob("not_finite_step_*.npz")
    with np.load(path) as batch:
        assert batch["labels"].shape == batch["decoder_token_ids"].shape
        assert len(batch["indices"]) == 8
