"""Tiny pretrainings through the command line, and what they leave."""

import contextlib
import csv
import gzip
import io
import json
import math
import shutil
import signal

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from luna_tf.trainers import mlm, mlm_data, session, tokenizers
from trainers.mlm_runs import TINY, call, write_text

from luna_tf.data.corpus import Masking
from luna_tf.models import LunaMaskedLM
from luna_tf.training import recipes, sources

pytestmark = pytest.mark.filterwarnings(
    "ignore:Skipping variable loading for optimizer"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """Folder of a finished run, and what it printed."""
    folder, out = tmp_path_factory.mktemp("runs") / "tiny", io.StringIO()
    with contextlib.redirect_stdout(out):
        status = call(*TINY, f"--train_data={text}", f"--model_dir={folder}")
    assert status == 0
    return folder, out.getvalue()


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "copied")


def recipe_of(folder):
    values = recipes.read_yaml(str(folder / "recipe.yaml"), mlm.PROGRAM.folder)
    return recipes.build(mlm.MLMRecipe, values, "test")


class TestFinishedRun:
    def test_everything_is_there(self, run):
        folder, printed = run
        for name in (
            "recipe.yaml environment.json history.csv curves.png results.json "
            "results.md best.weights.h5 model.keras preset saved_model "
            "tokenizer tensorboard checkpoints"
        ).split():
            assert (folder / name).exists(), name
        # Bytes are no words, but can be guessed.
        assert printed.partition("Fill in the blank")[2].count("[ ? ]") == 3
        assert "bits per byte" in printed

    def test_results(self, run):
        results = json.loads((run[0] / "results.json").read_text())
        test = results["test"]
        assert test["hidden_tokens"] > 10
        assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
        # A token is a byte here.
        assert test["bytes"] == 1.0
        bits = test["loss"] / math.log(2)
        assert test["bits_per_byte"] == pytest.approx(bits)
        assert 0 < results["majority"] < 0.3
        least = -math.log(results["majority"])
        assert least < results["entropy"] < math.log(64)
        with open(run[0] / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert "validation_bits_per_byte" in rows[-1]

    def test_the_preset_opens(self, run):
        model = keras_hub.models.MaskedLM.from_preset(str(run[0] / "preset"))
        assert type(model) is LunaMaskedLM
        assert model.preprocessor.sequence_length == 24

    def test_the_saved_model_fills_blanks(self, run):
        loaded = tf.saved_model.load(str(run[0] / "saved_model"))
        serve = loaded.signatures["serving_default"]
        found = serve(text=tf.constant(["the [MASK]oon", "no blank"]))
        assert found["tokens"].shape == (2, 5)
        shares = found["probabilities"].numpy()
        assert (np.diff(shares[0]) <= 0).all() and not shares[1].any()

    def test_evaluate_repeats_the_results(self, run, capsys):
        status = call("--mode=evaluate", f"--model_dir={run[0]}")
        printed = capsys.readouterr().out
        assert status == 0
        results = json.loads((run[0] / "results.json").read_text())
        assert f"{results['test']['loss']:6.3f}" in printed

    def test_evaluate_reads_only_what_it_tests_on(
        self, copied, tmp_path, capsys
    ):
        other = write_text(tmp_path / "other.txt", 30)
        flags = ["--mode=evaluate", f"--model_dir={copied}"]
        gone = f"--train_data={tmp_path}/gone.txt"
        assert call(*flags, gone, f"--test_data={other}") == 0
        assert "bits per byte" in capsys.readouterr().out
        assert call(*flags, gone) == 2
        assert "gone.txt" in capsys.readouterr().err

    def test_export_alone(self, copied):
        shutil.rmtree(copied / "saved_model")
        assert call("--mode=export", f"--model_dir={copied}") == 0
        assert (copied / "saved_model").exists()

    def test_the_subwords_of_a_trained_model_stay(
        self, copied, tmp_path, capsys
    ):
        before = (copied / "tokenizer.origin.json").read_text()
        other = write_text(tmp_path / "other.txt", 30)
        flags = [*TINY, f"--train_data={other}", f"--model_dir={copied}"]
        assert call(*flags, "--mode=vocab") == 2
        assert "whose subwords are not those" in capsys.readouterr().err
        assert (copied / "tokenizer.origin.json").read_text() == before

    def test_a_damaged_tokenizer(self, copied, capsys):
        (copied / "tokenizer" / "tokenizer.json").write_text("{")
        assert call("--mode=evaluate", f"--model_dir={copied}") == 2
        assert "tokenizer is not usable" in capsys.readouterr().err


@pytest.mark.slow
class TestGoingOn:
    @pytest.mark.parametrize("source", ["memory", "files"])
    def test_a_stopped_run_ends_as_if_it_had_not(
        self, text, tmp_path, source, monkeypatch
    ):
        flags = [*TINY, f"--train_data={text}", f"--source={source}"]
        flags += ["--mode=train", "--shuffled_rows=8", "--dropout=0.1"]
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        assert call(*flags, f"--model_dir={whole}") == 0
        original = session.progress_text
        count = 0

        def interrupt(entry):
            nonlocal count
            count += 1
            if count == 2:
                signal.raise_signal(signal.SIGTERM)
            return original(entry)

        with monkeypatch.context() as patch:
            patch.setattr(session, "progress_text", interrupt)
            assert call(*flags, f"--model_dir={parts}") == 75
        assert call(*flags, f"--model_dir={parts}") == 0
        for name in ("train", "validation"):
            assert losses(whole, name)
            assert losses(parts, name) == losses(whole, name)


def losses(folder, split):
    with open(folder / "history.csv", newline="") as file:
        return [
            (row["step"], row[f"{split}_loss"])
            for row in csv.DictReader(file)
            if row[f"{split}_loss"]
        ]


def unmasked(batch):
    """Rows of a batch as they were before tokens were hidden."""
    ids = batch["token_ids"].numpy()
    hidden = batch["mask_weights"].numpy() == 1
    rows, columns = np.nonzero(hidden)
    ids[rows, batch["mask_positions"].numpy()[hidden]] = batch[
        "labels"
    ].numpy()[rows, columns]
    return [tuple(row) for row in ids.tolist()]


@pytest.mark.slow
class TestData:
    def test_text_while_training(self, text, tmp_path):
        flags = [*TINY, f"--train_data={text}", "--source=text"]
        flags += ["--vocabulary_type=unigram", "--vocabulary_size=290"]
        folder = tmp_path / "run"
        assert call(*flags, "--mode=train", f"--model_dir={folder}") == 0

    def test_learned_subwords_are_kept(self, text, tmp_path, capsys):
        flags = [
            *TINY,
            f"--train_data={text}",
            f"--model_dir={tmp_path}",
            "--vocabulary_type=unigram",
            "--vocabulary_size=290",
            "--mode=vocab",
        ]
        assert call(*flags) == 0
        assert "Learning subwords" in capsys.readouterr().out
        first = tokenizers.read(str(tmp_path / "tokenizer"))
        assert call(*flags) == 0
        assert "Learning subwords" not in capsys.readouterr().out
        digest = tokenizers.digest(first)
        again = tokenizers.read(str(tmp_path / "tokenizer"))
        assert tokenizers.digest(again) == digest

    def test_validation_data_of_its_own(self, text, tmp_path, capsys):
        other = write_text(tmp_path / "other.txt", 7)
        flags = [*TINY, f"--train_data={text}", f"--model_dir={tmp_path}/run"]
        flags += [f"--validation_data={other}", "--mode=train"]
        assert call(*flags) == 0
        printed = capsys.readouterr().out
        # Three of its seven documents make two rows.
        assert "; 10 rows to validate on" in printed

    @pytest.mark.parametrize("num_files", [1, 2])
    def test_workers_share_the_text(self, num_files, tmp_path):
        paths = [tmp_path / f"{i}.txt" for i in range(num_files)]
        for i, path in enumerate(paths):
            lines = (f"file {i} document {k}" for k in range(20))
            path.write_text("\n\n".join(lines))
        recipe = recipes.build(
            mlm.MLMRecipe,
            {
                **recipes.read_yaml("default", mlm.PROGRAM.folder),
                "train_data": ",".join(map(str, paths)),
                "sequence_length": 24,
                "vocabulary_type": "bytes",
                "source": "text",
                "validation_fraction": 0.2,
                "test_fraction": 0.2,
            },
            "test",
        )
        corpus = mlm_data.corpus_files(recipe)
        tokenizer = mlm_data.load_tokenizer(recipe, str(tmp_path), corpus)
        rows = mlm_data.load_rows(recipe, str(tmp_path), tokenizer)
        masks = mlm_data.make_masking(recipe, tokenizer)
        source = mlm_data.train_source(recipe, rows, masks, tokenizer)
        seen = []
        for worker in range(2):
            share = sources.Share(8, 2, worker, 1)
            batches = source.make_dataset(share).take(30)
            seen.append({row for b in batches for row in unmasked(b)})
        assert not seen[0] & seen[1]
        held_out = {tuple(row) for row in [*rows.validation, *rows.test]}
        everything = seen[0] | seen[1]
        assert not everything & held_out
        assert len(everything | held_out) == 20 * num_files

    def test_masks_differ_from_epoch_to_epoch(self, text, tmp_path):
        recipe = recipes.build(
            mlm.MLMRecipe,
            {
                **recipes.read_yaml("default", mlm.PROGRAM.folder),
                "train_data": str(text),
                "sequence_length": 24,
                "vocabulary_type": "bytes",
            },
            "test",
        )
        folder = str(tmp_path)
        corpus = mlm_data.corpus_files(recipe)
        tokenizer = mlm_data.load_tokenizer(recipe, folder, corpus)
        rows = mlm_data.load_rows(recipe, folder, tokenizer)
        masking = mlm_data.make_masking(recipe, tokenizer)
        source = mlm_data.train_source(recipe, rows, masking, tokenizer)
        share = sources.Share(source.size)
        data = sources.training_dataset(source, share, 0, 0, 2)
        first, second = (
            {k: v.numpy() for k, v in batch.items()} for batch in data
        )
        hidden = [
            sorted(map(tuple, b["token_ids"].tolist())) for b in (first, second)
        ]
        assert hidden[0] != hidden[1]
        held = mlm_data.indexed_source(rows.test, masking, 0)
        share = sources.Share(held.size)
        for name in ("token_ids", "labels"):
            a, b = (
                next(iter(sources.evaluation_dataset(held, share)))[name]
                for _ in range(2)
            )
            np.testing.assert_array_equal(a, b)


class TestMistakes:
    @pytest.mark.parametrize(
        "given,message",
        [
            ("--train_data=none.txt", "train_data: none.txt matches no file"),
            ("--vocabulary=none.model", "none.model does not exist"),
            ("--mask_fraction=0", "mask_fraction"),
            (
                "--random_token_fraction=0.5",
                "allowed is at most 1 together",
            ),
            ("--hidden_dim=9", "num_heads=2 is not possible"),
            (
                "--validation_fraction=0 --validation_data=null",
                "one of the two is needed",
            ),
        ],
    )
    def test_before_anything_starts(self, given, message, tmp_path, capsys):
        status = call(*TINY, f"--model_dir={tmp_path}/run", *given.split())
        assert status == 2
        assert message in capsys.readouterr().err

    def test_malformed_text_can_be_left_out_anywhere(self, tmp_path, capsys):
        path = write_text(tmp_path / "a.txt")
        path.write_bytes(b"b\xe9r\n\n" + path.read_bytes())
        flags = [*TINY, f"--train_data={path}", f"--model_dir={tmp_path}/run"]
        flags += ["--mode=vocab", "--vocabulary_type=unigram"]
        flags += ["--vocabulary_size=290"]
        assert call(*flags) == 2
        assert "a.txt, line 1 is not UTF-8" in capsys.readouterr().err
        assert call(*flags, "--skip_malformed") == 0

    def test_text_that_is_cut_off_while_training(self, tmp_path, capsys):
        path, other = tmp_path / "a.txt.gz", write_text(tmp_path / "b.txt", 9)
        whole = gzip.compress(write_text(tmp_path / "a.txt").read_bytes())
        path.write_bytes(whole[:-9])
        flags = [*TINY, f"--train_data={path}", f"--model_dir={tmp_path}/run"]
        flags += [f"--validation_data={other}", f"--test_data={other}"]
        assert call(*flags, "--source=text") == 2
        assert "is cut off" in capsys.readouterr().err

    def test_lowercase_of_a_vocabulary_that_cannot_have_it(
        self, copied, capsys
    ):
        flags = [f"--vocabulary={copied}/tokenizer", "--lowercase"]
        assert call(*TINY, *flags, f"--model_dir={copied}/again") == 2
        assert "allowed is a WordPiece .txt" in capsys.readouterr().err

    def test_text_that_is_not_utf8(self, tmp_path, capsys):
        path = tmp_path / "a.txt"
        line = b"fine " * 200 + b"\n\n"
        path.write_bytes(line * 300 + b"b\xe9r\n")
        folder = f"--model_dir={tmp_path}/run"
        assert call(*TINY, f"--train_data={path}", folder) == 2
        assert "a.txt, line 601: not UTF-8" in capsys.readouterr().err

    def test_nothing_to_train_on(self, tmp_path, capsys):
        path = tmp_path / "a.txt"
        path.write_text("\n\n \n")
        other = write_text(tmp_path / "b.txt", 5)
        flags = [f"--train_data={path}", f"--model_dir={tmp_path}/run"]
        flags += [f"--validation_data={other}", f"--test_data={other}"]
        for source in ("memory", "text"):
            assert call(*TINY, *flags, f"--source={source}") == 2
            assert "no document to train on" in capsys.readouterr().err

    def test_nothing_to_predict(self, tmp_path, capsys):
        masks = Masking(4, np.arange(9) > 4, 2)
        mlm_data.check_masks(np.array([[2, 7, 3]]), masks, "test")
        with pytest.raises(recipes.RecipeError, match="nothing to predict"):
            mlm_data.check_masks(np.array([[2, 3, 0]]), masks, "test")

    def test_nothing_is_held_out(self, tmp_path, capsys):
        path = tmp_path / "a.txt"
        path.write_text("only one document")
        folder = f"--model_dir={tmp_path}/run"
        assert call(*TINY, f"--train_data={path}", folder) == 2
        assert "none is held out" in capsys.readouterr().err

    @pytest.mark.parametrize("content", [b"", b"cut off"])
    def test_a_damaged_vocabulary(self, content, tmp_path):
        path = tmp_path / "a.model"
        path.write_bytes(content)
        with pytest.raises(recipes.RecipeError, match="a.model is not usable"):
            tokenizers.read(str(path))

    def test_another_vocabulary_than_the_weights(self, copied, capsys):
        flags = ["--mode=evaluate", f"--model_dir={copied}"]
        tokenizer = tokenizers.read(str(copied / "tokenizer"))
        assert tokenizer.vocabulary_size() == 256
        assert call(*flags, "--hidden_dim=16") == 2
        assert "does not fit the recipe" in capsys.readouterr().err
