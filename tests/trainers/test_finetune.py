"""Tiny fine-tunings through the command line, and what they leave."""

import csv
import json
import shutil

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from luna_tf.trainers import export, finetune_report
from trainers.mlm_runs import TINY, call, tune, write_text

from luna_tf.models import (
    LunaBackbone,
    LunaMaskedLM,
    LunaMaskedLMPreprocessor,
    LunaTextClassifier,
    LunaWordPieceTokenizer,
)

SMALL = (
    "--batch_size=4 --train_steps=4 --warmup_steps=1 --eval_every=2 "
    "--steps_per_loop=2 --nojit_compile --validation_fraction=0.2 "
    "--test_fraction=0.2"
).split()
pytestmark = pytest.mark.filterwarnings(
    "ignore:Skipping variable loading for optimizer",
)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlm")
    text = write_text(folder / "text.txt")
    flags = [f"--train_data={text}", f"--model_dir={folder}/run"]
    assert call(*TINY, *flags) == 0
    return folder / "run" / "preset"


def write_table(path, rows, header=("text", "label")):
    kind = {"delimiter": "\t"} if path.suffix == ".tsv" else {}
    with open(path, "w", newline="") as file:
        csv.writer(file, **kind).writerows([header, *rows])
    return path


def reviews(folder, count=20):
    rows = [(f"good number {i}", "pos") for i in range(count)]
    rows += [(f"bad number {i}", "neg") for i in range(count)]
    return write_table(folder / "reviews.csv", rows)


@pytest.fixture(scope="module")
def run(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    data = reviews(folder)
    status = tune(
        *SMALL,
        f"--preset={preset}",
        f"--train_data={data}",
        f"--model_dir={folder}/run",
    )
    assert status == 0
    return folder / "run"


def test_the_best_validation_is_that_of_the_score_asked_for():
    from types import SimpleNamespace

    from luna_tf.trainers import finetune

    labels = np.array([0, 0, 0, 0, 1])
    examples = SimpleNamespace(
        splits={"validation": SimpleNamespace(labels=labels)},
        class_names=("a", "b"),
    )
    # Always the same answer is more often right, and says less.
    found = [
        SimpleNamespace(loss=1.0, predictions=np.array(answers))
        for answers in ([0, 0, 0, 0, 0], [0, 0, 1, 1, 1])
    ]
    for score, best in (("accuracy", 0), ("matthews", 1), ("f1", 1)):
        recipe = SimpleNamespace(best_by=score)
        ranks = [finetune._rank(recipe, examples, e) for e in found]
        assert ranks.index(max(ranks)) == best


@pytest.mark.slow
def test_a_classifier_and_its_files(run):
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["examples"] == 8
    assert results["baseline"]["accuracy"] == 0.5
    assert np.sum(results["confusion"]) == 8
    assert (run / "labels.txt").read_text() == "neg\npos\n"
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    hits = [row["label"] == row["prediction"] for row in rows]
    assert np.mean(hits) == results["test"]["accuracy"]
    model = keras_hub.models.TextClassifier.from_preset(str(run / "preset"))
    assert type(model) is LunaTextClassifier
    logits = model.predict([row["text"] for row in rows], verbose=0)
    said = [("neg", "pos")[i] for i in logits.argmax(axis=1)]
    assert said == [row["prediction"] for row in rows]
    served = tf.saved_model.load(str(run / "saved_model"))
    answer = served.signatures["serving_default"](
        text=tf.constant([row["text"] for row in rows])
    )
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)


@pytest.mark.slow
def test_evaluate_repeats_the_results(run, capsys):
    assert tune("--mode=evaluate", f"--model_dir={run}") == 0
    results = json.loads((run / "results.json").read_text())
    shown = f"{100 * results['test']['accuracy']:6.2f} %"
    assert shown in capsys.readouterr().out


@pytest.mark.slow
def test_export_needs_no_table(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "copied")
    shutil.rmtree(copied / "saved_model")
    flags = [f"--model_dir={copied}", f"--train_data={tmp_path}/gone.csv"]
    assert tune("--mode=export", *flags) == 0
    text = tf.constant(["good number 3", "bad number 4"])
    logits = [
        tf.saved_model.load(str(folder / "saved_model")).signatures[
            "serving_default"
        ](text=text)["logits"]
        for folder in (run, copied)
    ]
    np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.slow
def test_evaluate_with_other_classes(run, tmp_path, capsys):
    rows = [(f"number {i}", "fg"[i % 2]) for i in range(20)]
    other = write_table(tmp_path / "other.csv", rows)
    flags = ["--mode=evaluate", f"--model_dir={run}", f"--train_data={other}"]
    assert tune(*flags) == 2
    assert "has the classes f, g, but" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preset_on_another_file_system(preset, tmp_path, capsys):
    remote = f"ram://{tmp_path.name}"  # stands in for gs://
    for path in preset.rglob("*"):
        if path.is_file():
            name = f"{remote}/preset/{path.relative_to(preset)}"
            tf.io.gfile.makedirs(name.rpartition("/")[0])
            tf.io.gfile.copy(str(path), name)
    flags = [f"--preset={remote}/preset", f"--output_dir={remote}/out"]
    with pytest.raises(SystemExit) as end:
        export.main(flags)
    assert end.value.code == 0
    assert tf.io.gfile.exists(f"{remote}/out/saved_model.pb")
    with pytest.raises(SystemExit) as end:
        export.main(flags)
    assert end.value.code == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_pairs_without_a_header_and_from_scratch(preset, tmp_path):
    rows = [(i, f"one {i}", f"two {i}", i % 3) for i in range(30)]
    path = write_table(tmp_path / "a.tsv", rows[1:], rows[0])
    folder = tmp_path / "run"
    status = tune(
        *SMALL,
        f"--preset={preset}",
        f"--train_data={path}",
        f"--model_dir={folder}",
        "--nohas_header",
        "--text_column=2",
        "--pair_column=3",
        "--label_column=4",
        "--noload_weights",
        "--pooling=packed",
    )
    assert status == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["class_names"] == ["0", "1", "2"]
    assert results["start"].startswith("from scratch")
    served = tf.saved_model.load(str(folder / "saved_model"))
    answer = served.signatures["classify_pair"](
        text=tf.constant(["one 1"]), text_pair=tf.constant(["two 1"])
    )
    assert answer["probabilities"].shape == (1, 3)
    model = keras_hub.models.TextClassifier.from_preset(str(folder / "preset"))
    logits = model.predict((["one 1"], ["two 1"]), verbose=0)
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)


@pytest.mark.slow
def test_a_regression(preset, tmp_path):
    rows = [("x" * (i % 9), i % 9 / 4) for i in range(1, 60) if i % 9]
    path = write_table(tmp_path / "a.csv", rows)
    status = tune(
        *SMALL,
        f"--preset={preset}",
        f"--train_data={path}",
        f"--model_dir={tmp_path}/run",
        "--objective=regression",
    )
    assert status == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["test"]) >= {"pearson", "spearman"}
    served = tf.saved_model.load(str(tmp_path / "run" / "saved_model"))
    answer = served.signatures["serving_default"](text=tf.constant(["x"]))
    assert answer["score"].shape == (1,)


def test_scores():
    labels, said = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1])
    found = finetune_report.scores(labels, said, 2)
    assert found["accuracy"] == 0.6
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["matthews"] == pytest.approx(1 / 6)
    constant = finetune_report.scores(np.arange(4.0), np.ones(4), 0)
    assert constant["pearson"] == constant["spearman"] == 0.0
    rising = finetune_report.scores(np.arange(4.0), np.exp(np.arange(4.0)), 0)
    assert rising["spearman"] == pytest.approx(1.0)
    assert rising["pearson"] < 0.99


@pytest.mark.parametrize(
    "flags,message",
    [
        ("", "preset=null is not possible"),
        ("--preset=none --train_data=none.csv", "preset=none"),
        ("--preset={preset}", "train_data=null is not possible"),
        ("--preset={preset} --train_data=none.csv", "none.csv"),
        (
            "--preset={preset} --train_data={data} --label_column=stars",
            "must have one column 'stars'",
        ),
        (
            "--preset={preset} --train_data={data} --objective=regression",
            "a label that is no number",
        ),
        (
            "--preset={preset} --train_data={data} --best_by=pearson",
            "allowed are auto and accuracy, f1, matthews",
        ),
        (
            "--preset={preset} --train_data={data} --sequence_length=25",
            "at most the preset's 24 learned positions",
        ),
        (
            "--preset={preset} --train_data={data} --test_data={other}",
            "has the label 'maybe', which train_data has not",
        ),
    ],
)
def test_mistakes(preset, tmp_path, capsys, flags, message):
    data = reviews(tmp_path)
    other = write_table(tmp_path / "b.csv", [("text", "maybe")])
    given = flags.format(preset=preset, data=data, other=other).split()
    assert tune(*SMALL, f"--model_dir={tmp_path}/run", *given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--preset=none", "preset=none is not possible"),
        ("--preset=ram://none", "preset=ram://none is not possible"),
        ("--litert={folder}", "allowed is a file in a folder"),
        ("--litert={folder}/none/a.tflite", "allowed is a file in a folder"),
        ("--litert_length=12", "is not possible without litert"),
        ("--output_dir={data}", "is not empty"),
    ],
)
def test_mistakes_of_luna_export(preset, tmp_path, capsys, flags, message):
    data = reviews(tmp_path)
    given = [f"--preset={preset}", f"--output_dir={tmp_path}/out"]
    given += flags.format(folder=tmp_path, data=data).split()
    with pytest.raises(SystemExit) as end:
        export.main(given)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_segments_are_not_tuned(tmp_path, capsys):
    tokenizer = LunaWordPieceTokenizer(
        "[PAD] [UNK] [CLS] [SEP] [MASK] good bad number".split()
    )
    task = LunaMaskedLM(
        LunaBackbone(8, 1, 2, 8, 8, 3, max_sequence_length=8, num_segments=2),
        LunaMaskedLMPreprocessor(
            tokenizer, sequence_length=8, use_segments=True
        ),
    )
    task.save_to_preset(str(tmp_path / "preset"))
    flags = [f"--preset={tmp_path}/preset", f"--train_data={reviews(tmp_path)}"]
    assert tune(*SMALL, f"--model_dir={tmp_path}/run", *flags) == 2
    assert "allowed is one without segments" in capsys.readouterr().err


def test_help(capsys):
    assert tune("--help") == 0
    assert "--pair_column=TEXT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task.weights.h5", None, "holds no task.weights.h5"),
        ("task.json", b"{", "task.json is damaged"),
        ("model.weights.h5", b"", "is not usable"),
    ],
)
def test_exports_nothing_of_a_damaged_preset(
    preset, tmp_path, capsys, name, content, message
):
    folder = shutil.copytree(preset, tmp_path / "preset")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(SystemExit) as end:
        export.main([f"--preset={folder}", f"--output_dir={tmp_path}/out"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_was_cut(tmp_path, capsys):
    tokenizer = LunaWordPieceTokenizer(
        "[PAD] [UNK] [CLS] [SEP] [MASK] good bad number".split()
    )
    task = LunaMaskedLM(
        LunaBackbone(8, 1, 2, 8, 8, 3, max_sequence_length=8),
        LunaMaskedLMPreprocessor(tokenizer, sequence_length=8),
    )
    folder = tmp_path / "preset"
    task.save_to_preset(str(folder))
    path = folder / "assets" / "tokenizer" / "vocabulary.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-2]))
    data = reviews(tmp_path)
    flags = [f"--preset={folder}", f"--train_data={data}"]
    assert tune(*SMALL, f"--model_dir={tmp_path}/run", *flags) == 2
    assert "`vocabulary_size`, 8. Got: 6" in capsys.readouterr().err


def test_a_damaged_preset(preset, tmp_path, capsys):
    folder = shutil.copytree(preset, tmp_path / "preset")
    path = folder / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:1000])
    data = reviews(tmp_path)
    flags = [f"--preset={folder}", f"--train_data={data}"]
    assert tune(*SMALL, f"--model_dir={tmp_path}/run", *flags) == 2
    assert "is not usable" in capsys.readouterr().err


@pytest.mark.slow
def test_luna_export(preset, tmp_path, capsys):
    flags = [f"--preset={preset}", f"--output_dir={tmp_path}/out"]
    flags += [f"--litert={tmp_path}/a.tflite", "--litert_length=12"]
    with pytest.raises(SystemExit) as end:
        export.main(flags)
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "SavedModel in" in printed and "LiteRT file" in printed
    assert (tmp_path / "a.tflite").stat().st_size > 1000
    with pytest.raises(SystemExit) as end:
        export.main(flags)
    assert end.value.code == 2
    assert "is not empty" in capsys.readouterr().err
