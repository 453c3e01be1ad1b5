"""Tiny runs of every task but ListOps, from files as users have them."""

import json

import numpy as np
import pytest
from luna_tf.trainers import flags, lra, lra_tasks
from luna_tf.trainers.lra_recipe import PROGRAM, LRARecipe

from luna_tf.training import recipes

TINY = (
    "--hidden_dim=8 --intermediate_dim=8 --num_layers=1 --num_heads=2 "
    "--packed_length=3 --batch_size=8 --train_steps=4 --warmup_steps=2 "
    "--eval_every=2 --steps_per_loop=2 --nojit_compile --train_minutes=null"
).split()
ESCAPED = "&lt;br"


def call(*arguments):
    """Runs luna-lra in this process; returns its status."""
    with pytest.raises(SystemExit) as end:
        lra.main(["luna-lra", *map(str, arguments)])
    return end.value.code


def text_file(folder):
    path = folder / "reviews.csv"
    words = {"neg": "bad dull <br /> worse", "pos": "good fun best of all"}
    lines = ["text,label,source"]
    for label, text in words.items():
        for i in range(20):
            lines.append(f"{text} number {i},{label},mine")
    lines.append("other,neg,theirs")
    path.write_text("\n".join(lines) + "\n")
    return path


def pair_files(folder):
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("eval", 7), ("test", 9)):
        rows = []
        for i in range(count):
            texts = ["".join(rng.choice(list("abc "), 30)) + "x" for _ in "12"]
            rows.append("\t".join([f"{i % 2}.0", f"a{i}", f"b{i}", *texts]))
        path = folder / f"new_aan_pairs.{name}.tsv"
        path.write_text("\n".join(rows) + "\n")
    return folder


def picture_file(folder):
    rng = np.random.default_rng(0)
    path = folder / "pictures.npz"
    arrays = {}
    for name, count in (("train", 40), ("test", 12)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (count, 9, 9), np.uint8)
        arrays[f"y_{name}"] = np.arange(count) % 3
    np.savez(path, **arrays)
    return path


RUNS = {
    "text": (text_file, "--rows=source=mine --sequence_length=20"),
    "retrieval": (pair_files, "--sequence_length=20"),
    "image": (picture_file, "--image_size=9 --num_classes=3 --pixels=tokens"),
    "image values": (picture_file, "--image_size=9 --num_classes=3"),
    "pathfinder": (
        None,
        "--pictures=40 --difficulty=easy",
    ),
}
EXAMPLES = {
    "text": (28, 4, 8),
    "retrieval": (20, 7, 9),
    "image": (36, 4, 12),
    "pathfinder": (32, 4, 4),
}


@pytest.fixture(scope="module", params=RUNS)
def finished(request, tmp_path_factory):
    """A finished run: task, folder, results and what was printed."""
    root = tmp_path_factory.mktemp("runs")
    make, arguments = RUNS[request.param]
    task = request.param.partition(" ")[0]
    (root / "files").mkdir()
    places = [f"--model_dir={root / 'run'}"]
    if make is not None:
        places.append(f"--data_dir={make(root / 'files')}")
    command = [f"--task={task}", *TINY, *arguments.split(), *places]
    assert call(*command) == 0
    results = json.loads((root / "run" / "results.json").read_text())
    return task, root / "run", results, command


class TestRun:
    def test_every_test_example_was_scored(self, finished):
        task, folder, results, _ = finished
        assert results["test"]["examples"] == EXAMPLES[task][2]
        rows = (folder / "predictions.csv").read_text().splitlines()
        assert len(rows) == 1 + EXAMPLES[task][2]
        assert np.sum(results["confusion"]) == EXAMPLES[task][2]
        assert len(results["confusion"]) == len(results["classes"])
        if task == "text":
            assert set(results["groups"]["entries"]) == {"neg", "pos"}
        assert results["title"] == f"Luna on {lra_tasks.TASKS[task].title}"

    def test_trivial_baselines_stand_beside(self, finished):
        _, _, results, _ = finished
        assert 0 < results["reference_lines"]["majority"] < 1

    def test_attention_is_kept_for_the_report(self, finished):
        task, folder, _, _ = finished
        if lra_tasks.TASKS[task].picture is None:
            found = json.loads((folder / "attention.json").read_text())
            documents = lra_tasks.TASKS[task].documents
            assert len(found["examples"]) == 4 * documents
            for example in found["examples"]:
                count = len(example["tokens"])
                assert count == len(example["lifts"]) > 0
                lengths = np.array([len(t) for t in example["tokens"]])
                for lifts in example["slots"].values():
                    # All attention but what falls on the marks.
                    mean = np.average(lifts, weights=lengths)
                    assert 0.1 < mean <= 1.01
        else:
            start = (folder / "attention.png").read_bytes()[:8]
            assert start == b"\x89PNG\r\n\x1a\n"

    def test_the_saved_model_answers_alike(self, finished, tmp_path):
        _, folder, _, command = finished
        path = tmp_path / "answers.csv"
        assert (
            call(
                *command,
                "--mode=evaluate",
                f"--weights={folder / 'saved_model'}",
                f"--predictions={path}",
            )
            == 0
        )
        assert path.read_text() == (folder / "predictions.csv").read_text()

    def test_evaluates_into_a_folder_of_its_own(self, finished, tmp_path):
        task, folder, results, command = finished
        fresh = tmp_path / "fresh"
        assert (
            call(
                *(c for c in command if not c.startswith("--model_dir")),
                f"--model_dir={fresh}",
                f"--cache_dir={tmp_path}",
                "--config=small",
                "--mode=evaluate",
                f"--weights={folder / 'best.weights.h5'}",
            )
            == 0
        )
        found = json.loads((fresh / "evaluation.json").read_text())
        assert found["test"] == results["test"]
        assert found["confusion"] == results["confusion"]
        assert found["weights"].endswith("best.weights.h5")
        assert not (fresh / "results.json").exists()

    def test_the_report_shows_it(self, finished, tmp_path, capsys):
        task, folder, results, _ = finished
        assert call("report", folder, f"--output_dir={tmp_path}") == 0
        page = (tmp_path / "report.html").read_text()
        assert f"{100 * results['test']['accuracy']:.1f} %" in page
        assert "Luna-256" in page and "Luna-256" in (
            (tmp_path / "report.md").read_text()
        )
        if task == "text":
            assert "<br " not in page
            assert ESCAPED in page


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--task=text", "data_dir='aclImdb' is not possible"),
            ("--task=text", "aclImdb_v1.tar.gz:\n  train/neg/*.txt, train/"),
            ("--task=text", "one .csv or .tsv file"),
            ("--task=retrieval --data_dir=x", "no new_aan_pairs.train.tsv in"),
            ("--task=retrieval --data_dir=x", "google-research/long-range-ar"),
            ("--task=image --data_dir=x", "folder cifar-10-batches-py. Get"),
            ("--data_dir=x", "basic_train.tsv, basic_val.tsv, basic_test.tsv"),
            ("--data_dir=x", "luna-lra does without --data_dir"),
            ("--task=pathfinder --data_dir=x", "metadata/0.npy and so on"),
            ("--task=pathx --data_dir=x", "luna-lra does without --data_dir"),
            (
                "--task=image --max_real_tokens=9",
                "without black_is_padding: of pictures only black is",
            ),
            ("--predictions=no/x.csv", "there is no folder no"),
            ("--predictions=x.csv --mode=train", "not possible with --mode=t"),
            ("--task=text --data_dir=null", "needs data_dir"),
            ("--task=chess", "should be one of <listops|text|retrieval|"),
            (
                "--task=image --max_depth=3",
                "max_depth=3 is not possible with task=image: it is for list",
            ),
            ("--pixels=values", "it is for image, pathfinder, pathx"),
            ("--train_examples=null", "task=listops needs train_examples"),
            (
                "--task=pathfinder --image_size=48",
                "allowed is 32, 64, 128 or 256",
            ),
            (
                "--task=pathfinder --pixels=tokens --sequence_length=1027",
                "allowed is at most 1026",
            ),
            (
                "--task=image --sequence_length=9",
                "sequence_length=9 is not possible with pixels=values",
            ),
            ("--sequence_length=2", "allowed is at least 3"),
            ("--attention=tpu", "`attention` must be one of"),
            ("--num_classes=3", "it is for text, image"),
            (
                "--task=image --black_is_padding",
                "black_is_padding=True is not possible with pixels=values",
            ),
            (
                "--task=image --pixels=tokens --pixel_mean=0.1",
                "pixel_mean=0.1 and pixel_std=0.5 are not possible",
            ),
            (
                "--task=image --pooling=cls",
                "pooling=cls is not possible with pixels=values",
            ),
        ],
    )
    def test_bad_input_is_told_at_once(
        self, tmp_path, monkeypatch, capsys, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        assert call(*arguments.split()) == 2
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told
        assert not list(tmp_path.rglob("*.tfrecord"))

    def test_a_recipe_follows_from_the_task(self):
        for words, config, folder in (
            ([], "default", "runs/listops"),
            (["--task=listops"], "default", "runs/listops"),
            (["--task=text"], "text_small", "runs/text"),
            (["--config=small"], "default", "runs/listops"),
            (["--task=text", "--config=small"], "text_small", "runs/text"),
            (["--task=image", "--config=paper"], "image_paper", "runs/image"),
            (["--config=paper"], "paper", "runs/listops"),
            (["--config=text_paper"], "text_paper", "runs/text"),
        ):
            command = flags.parse(PROGRAM, ["luna-lra", *words])
            assert (command.config, command.model_dir) == (config, folder)

    def test_classes_of_the_data_are_checked(self, tmp_path, capsys):
        path = picture_file(tmp_path)
        places = f"--data_dir={path}", f"--model_dir={tmp_path / 'run'}"
        assert call("--task=image", "--image_size=9", *places) == 2
        assert "Allowed is --num_classes=3." in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("finished", "other"),
        [
            ("text", "--num_classes=3"),
            ("retrieval", "--sequence_length=30"),
        ],
        indirect=["finished"],
    )
    def test_a_saved_model_of_another_recipe(self, finished, other, capsys):
        _, folder, _, command = finished
        weights = f"--weights={folder / 'saved_model'}"
        given = *command, other, "--config=small", "--mode=evaluate", weights
        assert call(*given) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "--weights=" in told or "--num_classes=2" in told


class TestOverwrite:
    @pytest.mark.parametrize("finished", ["text"], indirect=True)
    def test_a_command_that_cannot_be_leaves_the_old_run(
        self, finished, tmp_path, capsys
    ):
        _, folder, _, command = finished
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        empty = tmp_path / "empty.csv"
        empty.write_text("text,label\n")
        for other in ("--attention=sofmax", f"--data_dir={empty}"):
            assert call(*command, "--overwrite", other) == 2
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


class TestTrivialBaselines:
    @pytest.mark.parametrize("finished", ["text"], indirect=True)
    def test_words_are_counted(self, finished, tmp_path):
        pytest.importorskip("sklearn")
        _, folder, results, _ = finished
        # These reviews have one word each that tells.
        assert results["reference_lines"]["tf_idf"] == 1.0
        margin = 100 * (results["test"]["accuracy"] - 1.0)
        assert results["margin_points"] == pytest.approx(margin)
        assert call("report", folder, f"--output_dir={tmp_path}") == 0
        assert "TF-IDF" in (tmp_path / "report.md").read_text()


def copy_files(folder, to):
    """Copies what a report reads: the files, not checkpoints and exports."""
    to.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())


class TestReport:
    @pytest.mark.parametrize("finished", ["text"], indirect=True)
    def test_a_run_from_before_a_field_was_stands_with_its_like(
        self, finished, tmp_path
    ):
        _, folder, _, _ = finished
        older = tmp_path / "older"
        copy_files(folder, older)
        recipe = (older / "recipe.yaml").read_text()
        lines = recipe.splitlines(keepends=True)
        kept = [x for x in lines if not x.startswith(("decay_norms", "seed:"))]
        (older / "recipe.yaml").write_text("".join(kept) + "seed: 1\n")
        assert len(kept) == len(lines) - 2
        assert call("report", folder, older, f"--output_dir={tmp_path}") == 0
        text = (tmp_path / "report.md").read_text()
        assert "decay_norms" not in text
        assert "2 seeds" in text

    @pytest.mark.parametrize("finished", ["text"], indirect=True)
    def test_a_report_that_cannot_be_written(self, finished, tmp_path, capsys):
        (tmp_path / "report.html").mkdir()
        folder = finished[1]
        assert call("report", folder, f"--output_dir={tmp_path}") == 2
        assert "cannot be written to" in capsys.readouterr().err

    def test_a_folder_without_a_run(self, tmp_path, capsys):
        assert call("report", tmp_path) == 2
        told = capsys.readouterr().err
        assert f"left out: {tmp_path} holds no results.json" in told
        assert "no finished run among the folders" in told

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("results.json", '{"title": "x"}'),
            ("results.json", "[]"),
            ("attention.json", '{"examples": [{'),
            ("history.csv", "step,train_loss\n1,x\n"),
            ("environment.json", '{"a": 1}'),
            ("recipe.yaml", None),
        ],
    )
    @pytest.mark.parametrize("finished", ["text"], indirect=True)
    def test_a_damaged_run_is_left_out(
        self, finished, tmp_path, capsys, name, text
    ):
        _, folder, _, _ = finished
        damaged = tmp_path / "damaged"
        copy_files(folder, damaged)
        if text is None:
            (damaged / name).unlink()
        else:
            (damaged / name).write_text(text)
        output = f"--output_dir={tmp_path}"
        assert call("report", damaged, folder, output) == 0
        assert f"left out: {damaged} holds no" in capsys.readouterr().err
        assert "damaged" not in (tmp_path / "report.md").read_text()

    def test_no_folder_at_all(self, capsys):
        assert call("report", "--output_dir=x") == 2
        assert "which runs?" in capsys.readouterr().err


PAPER = {
    "paper": (10, 6_048_256, 512),
    "text_paper": (2, 5_245_952, 256),
    "retrieval_paper": (2, 1_639_936, 128),
    "image_paper": (10, 122_624, 64),
    "pathfinder_paper": (2, 317_056, 128),
    "pathx_paper": (2, 2_283_136, 128),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipes_have_the_official_sizes(name):
    # reference counts of the release of 2021, less the token embedding; its
    # position tables have two rows more, which nothing reads.
    values = recipes.read_yaml(name, PROGRAM.folder)
    recipe = recipes.build(LRARecipe, values, origin=name)
    _, official, width = PAPER[name]
    model = lra.make_model(recipe)
    vocabulary = model.embedding.vocabulary_size
    assert model.count_params() == official + (vocabulary - 2) * width


class TestGenerate:
    TINY = "generate", "--pictures=20", "--difficulty=easy", "--data_seed=3"
    READ = "--task=pathfinder", "--difficulty=easy", "--max_real_tokens=400"

    def test_the_layout_of_the_release_trains(self, tmp_path, capsys):
        root = tmp_path / "lra"
        assert call(*self.TINY, f"--output_dir={root}") == 0
        assert f"20 pictures in {root}" in capsys.readouterr().out
        assert len(list(root.rglob("sample_*.png"))) == 20
        places = f"--data_dir={root}", f"--model_dir={tmp_path / 'run'}"
        command = *self.READ, *TINY, *places
        assert call(*command) == 0
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["test"]["examples"] == 2

    def test_records_train_too(self, tmp_path, capsys):
        root = tmp_path / "records"
        command = (*self.TINY, f"--output_dir={root}", "--format=tfrecord")
        assert call(*command) == 0
        places = f"--data_dir={root}", f"--model_dir={tmp_path / 'run'}"
        command = *self.READ, *TINY, *places
        for other, message in (
            ("--difficulty=hard", "difficulty=hard is not possible with data"),
            ("--image_size=64", "image_size=64 is not possible with data_dir"),
            ("--max_real_tokens=9", "allowed is at least"),
        ):
            assert call(*command, other) == 2
            assert message in capsys.readouterr().err
        assert call(*command) == 0
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["test"]["examples"] == 2

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            ("", 2, "missing fields: output_dir"),
            ("--output_dir=x --image_size=48", 2, "one of (32, 64, 128, 256)"),
            ("--output_dir=x --pictures=3", 2, "at least 10"),
            ("--output_dir=x more", 2, "unexpected argument 'more'"),
            ("--output_dir=file/x --pictures=10", 1, "file"),
        ],
    )
    def test_bad_input(
        self, tmp_path, monkeypatch, capsys, arguments, status, message
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("")
        assert call("generate", *arguments.split()) == status
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told

    def test_help(self, capsys):
        assert call("generate", "--help") == 0
        assert "--data_seed=INT" in capsys.readouterr().out


@pytest.mark.parametrize("black", [True, False])
def test_positions_are_those_of_the_picture(black):
    values = recipes.read_yaml("pathfinder_small", PROGRAM.folder)
    values |= {"black_is_padding": black, "max_real_tokens": None}
    network = lra.make_model(recipes.build(LRARecipe, values, "test"))
    # Or a pixel's place would depend on which others are black.
    assert network.embedding.positions_skip_padding is not black
