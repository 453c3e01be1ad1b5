"""What every trainer does around its training."""

import dataclasses
import io
import json
import pathlib
import signal
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from luna_tf.trainers import flags, session
from luna_tf.trainers.machine import Machine

from luna_tf.training import recipes
from luna_tf.training.checkpoints import CheckpointError
from luna_tf.training.recipes import RecipeError, setting
from luna_tf.training.records import (
    NonFiniteLossError,
    Rates,
    TrainingLog,
    TrainingResult,
    WorkerLostError,
)
from luna_tf.training.sources import IndexedSource
from luna_tf.training.strategy import Placement, StrategyError

NAMES = {**session.TRAINING_FILES, "results.json": "results"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The least that a trainer's recipe has."""

    train_steps: int = setting("Steps.", group="Training", default=20)
    eval_every: int = setting("Interval.", group="Training", default=10)
    steps_per_loop: int = setting("Loop.", group="Training", default=5)
    train_minutes: float | None = setting(
        "Time.", group="Training", default=None
    )
    rate: float = setting("Rate.", group="Training", default=1e-4)
    heads: int | None = setting("Heads.", group="Model", default=None)


@pytest.fixture
def make(tmp_path):
    """Makes the command of a run in a folder of its own."""

    def make(machine=None, overwrite=False, folder=tmp_path / "run", **fields):
        return flags.Command(
            recipe=Recipe(**fields),
            config="default",
            model_dir=str(folder),
            mode="train",
            overwrite=overwrite,
            machine=machine or Machine(),
        )

    return make


def placement(**arguments):
    values = {"name": "one_device", "reason": "one device, CPU (as asked for)"}
    strategy = tf.distribute.get_strategy()
    return Placement(strategy, **{**values, **arguments})


def started(command, **fields):
    """Leaves the folder as a run has it that just began."""
    session.open_folder(command, NAMES)
    before = dataclasses.replace(
        command, recipe=dataclasses.replace(command.recipe, **fields)
    )
    session.record(before, placement(), "float32")
    return pathlib.Path(command.model_dir)


class TestOpenFolder:
    def test_a_new_one_is_made(self, make):
        command = make()
        session.open_folder(command, NAMES)
        folder = pathlib.Path(command.model_dir)
        assert list(folder.iterdir()) == []

    def test_one_with_other_files_is_taken(self, make):
        # Such as data that were generated before.
        command = make()
        folder = pathlib.Path(command.model_dir)
        (folder / "data").mkdir(parents=True)
        session.open_folder(command, NAMES)
        assert (folder / "data").is_dir()

    def test_the_same_recipe_goes_on(self, make):
        folder = started(make())
        (folder / "checkpoints").mkdir()
        session.open_folder(make(), NAMES)
        assert (folder / "checkpoints").is_dir()

    def test_a_run_that_was_killed_at_once_goes_on(self, make):
        folder = started(make())
        (folder / "environment.json").unlink()
        session.open_folder(make(), NAMES)

    def test_more_steps_go_on(self, make):
        started(make(), train_steps=10)
        session.open_folder(make(), NAMES)

    def test_flags_of_the_machine_may_change(self, make):
        started(make(machine=Machine(logical_cpus=2)))
        machine = Machine(logical_cpus=4, checkpoint_every=5)
        session.open_folder(make(machine=machine), NAMES)

    def test_a_changed_recipe_is_refused_naming_its_fields(self, make):
        folder = started(make(), heads=4, rate=0.5, train_steps=10)
        before = (folder / "recipe.yaml").read_text()
        with pytest.raises(RecipeError) as error:
            session.open_folder(make(), NAMES)
        message = str(error.value)
        assert message.startswith(f"--model_dir={folder} holds a run with")
        assert "rate was 0.5, now 0.0001, heads was 4, now null." in message
        assert "train_steps was" not in message
        assert "Only train_steps and train_minutes may grow" in message
        assert "--overwrite" in message
        assert (folder / "recipe.yaml").read_text() == before

    def test_fewer_steps_are_refused(self, make):
        started(make(), train_steps=21)
        with pytest.raises(RecipeError, match="train_steps was 21, now 20"):
            session.open_folder(make(), NAMES)

    @pytest.mark.parametrize("now", [3.0, None])
    def test_more_minutes_go_on(self, make, now):
        started(make(), train_minutes=2.0, train_steps=10)
        session.open_folder(make(train_minutes=now), NAMES)

    @pytest.mark.parametrize("before", [3.0, None])
    def test_fewer_minutes_are_refused(self, make, before):
        started(make(), train_minutes=before)
        was = f"train_minutes was {before or 'null'}, now 2.0"
        with pytest.raises(RecipeError, match=was):
            session.open_folder(make(train_minutes=2.0), NAMES)

    @pytest.mark.parametrize(
        "present",
        [
            ("results.json",),
            ("recipe.yaml", "results.json"),
            ("environment.json",),
            ("checkpoints", "history.csv"),
        ],
    )
    def test_files_of_who_knows_what_are_refused(self, make, present):
        command = make()
        folder = pathlib.Path(command.model_dir)
        folder.mkdir()
        for name in present:
            (folder / name).write_text("{}")
        with pytest.raises(RecipeError) as error:
            session.open_folder(command, NAMES)
        for name in present:
            assert name in str(error.value)
        assert "nothing to go on from" in str(error.value)
        assert "--overwrite" in str(error.value)

    def test_overwrite_removes_the_run_and_nothing_else(self, make):
        folder = started(make())
        (folder / "checkpoints" / "step-1").mkdir(parents=True)
        (folder / "checkpoints" / "step-1" / "state").write_text("")
        (folder / "data").mkdir()
        (folder / "notes.txt").write_text("mine")
        command = make(overwrite=True, rate=0.5)
        before = sorted(folder.rglob("*"))
        session.open_folder(command, NAMES)
        assert sorted(folder.rglob("*")) == before
        session.clear_folder(command, NAMES)
        assert {p.name for p in folder.iterdir()} == {"data", "notes.txt"}

    def test_only_the_chief_touches_it(self, make):
        command = make()
        session.open_folder(command, NAMES, is_chief=False)
        assert not pathlib.Path(command.model_dir).exists()
        folder = started(command)
        again = make(overwrite=True)
        session.open_folder(again, NAMES, is_chief=False)
        assert (folder / "recipe.yaml").exists()
        # All refuse alike, or the others would wait for the chief.
        with pytest.raises(RecipeError, match="another recipe"):
            session.open_folder(make(rate=0.5), NAMES, is_chief=False)

    def test_one_that_cannot_be_written_to(self, make, tmp_path):
        (tmp_path / "file").write_text("")
        command = make(folder=tmp_path / "file" / "run")
        with pytest.raises(RecipeError) as error:
            session.open_folder(command, NAMES)
        message = str(error.value)
        assert message.startswith(f"--model_dir={tmp_path}/file/run cannot be")
        assert len(message.splitlines()) == 1

    def test_beyond_the_local_disk(self, make, tmp_path):
        command = make(folder=f"ram://{tmp_path.name}/run")
        session.open_folder(command, NAMES)
        session.record(command, placement(), "float32")
        session.open_folder(command, NAMES)
        changed = make(folder=command.model_dir, rate=0.5)
        with pytest.raises(RecipeError, match="rate was 0.0001, now 0.5"):
            session.open_folder(changed, NAMES)


class TestRecord:
    def test_the_recipe_can_be_given_again(self, make, tmp_path):
        folder = started(make(heads=2))
        text = (folder / "recipe.yaml").read_text()
        assert text.splitlines()[0] == (
            f"# What this run did; --config={folder}/recipe.yaml repeats it."
        )
        values = recipes.read_yaml(f"{folder}/recipe.yaml", tmp_path)
        assert recipes.build(Recipe, values, "there") == Recipe(heads=2)

    def test_every_start_adds_an_environment(self, make, monkeypatch):
        folder = started(make())
        monkeypatch.setattr(sys, "argv", ["luna-lra", "--config=quick"])
        session.record(make(), placement(), "mixed_bfloat16")
        starts = json.loads((folder / "environment.json").read_text())
        assert len(starts) == 2
        assert starts[0]["precision"] == "float32"
        assert starts[1]["precision"] == "mixed_bfloat16"
        assert starts[1]["command"] == ["luna-lra", "--config=quick"]
        assert starts[1]["devices_used"] == "one device, CPU (as asked for)"
        assert starts[1]["replicas"] == 1
        assert starts[1]["packages"]["keras"]


class TestRunProgram:
    def status(self, error=None, returned=0):
        def run(command):
            assert command == "command"
            if error is not None:
                raise error
            return returned

        return session.run_program("luna-x", run, "command")

    @pytest.mark.parametrize("returned", [0, 75, 130])
    def test_of_the_run_itself(self, returned):
        assert self.status(returned=returned) == returned

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (NonFiniteLossError(4, None), 1),
            (CheckpointError("no room"), 1),
            (OSError("no room"), 1),
            (tf.errors.PermissionDeniedError(None, None, "no room"), 1),
            (tf.errors.ResourceExhaustedError(None, None, "no room"), 1),
            (KeyboardInterrupt(), 130),
            (WorkerLostError("gone"), 76),
        ],
    )
    def test_of_what_goes_wrong(self, error, status, capsys):
        assert self.status(error) == status
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.strip().startswith("luna-x: ")
        assert str(error) in told.err
        assert len(told.err.strip().splitlines()) == 1

    def test_of_what_the_user_can_put_right(self, capsys):
        with pytest.raises(SystemExit) as end:
            self.status(RecipeError("width=0"))
        assert end.value.code == 2
        assert capsys.readouterr().err == (
            "luna-x: width=0\nTry luna-x --help.\n"
        )

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("bug"),
            ZeroDivisionError("bug"),
            tf.errors.InternalError(None, None, "bug"),
        ],
    )
    def test_a_mistake_of_ours_is_not_hidden(self, error):
        with pytest.raises(type(error), match="bug"):
            self.status(error)


class TestStart:
    @pytest.fixture
    def chosen(self, monkeypatch):
        """Arguments of `choose_strategy`; a test may set what it returns."""
        from luna_tf.training import strategy

        chosen = types.SimpleNamespace(arguments=None, result=placement())

        def choose(*arguments):
            chosen.arguments = arguments
            if isinstance(chosen.result, Exception):
                raise chosen.result
            return chosen.result

        monkeypatch.setattr(strategy, "choose_strategy", choose)
        return chosen

    def test_tells_what_was_chosen(self, make, chosen, capsys):
        machine = Machine(
            distribution_strategy="mirrored", logical_cpus=2, tpu=None
        )
        assert session.start(make(machine=machine)) is chosen.result
        assert chosen.arguments == ("mirrored", None, 2)
        assert capsys.readouterr().out == (
            "Devices: one device, CPU (as asked for)\n"
        )

    def test_devices_that_cannot_be_had(self, make, chosen):
        chosen.result = StrategyError("tpu='x' was not found")
        with pytest.raises(RecipeError, match="^tpu='x' was not found$"):
            session.start(make())

    def test_one_worker_speaks(self, make, chosen, monkeypatch):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        chosen.result = placement(worker=1, num_workers=2)
        session.start(make())
        print("not to be seen", flush=True)
        assert not sys.stdout.isatty()
        assert stream.getvalue() == ""

    def test_another_backend_is_refused(self, make, chosen, monkeypatch):
        import keras

        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(RecipeError, match="KERAS_BACKEND=jax is not"):
            session.start(make())


class TestSchedule:
    def test_of_a_command(self, make):
        machine = Machine(checkpoint_every=15, profile_steps="3,7")
        schedule = session.schedule(make(machine=machine))
        assert (schedule.train_steps, schedule.eval_every) == (20, 10)
        assert schedule.steps_per_loop == 5
        assert schedule.checkpoint_every == 15
        assert schedule.profile_steps == (3, 7)

    @pytest.mark.parametrize(
        ("machine", "fields", "message"),
        [
            ({}, {"eval_every": 12}, "must divide eval_every.*: eval_every=12"),
            ({"checkpoint_every": 7}, {}, "must divide checkpoint_every"),
            ({"profile_steps": "7,7"}, {}, "profile_steps must be two rising"),
        ],
    )
    def test_that_does_not_fit(self, make, machine, fields, message):
        command = make(machine=Machine(**machine), **fields)
        with pytest.raises(RecipeError, match=message):
            session.schedule(command)


class TestTexts:
    log = TrainingLog(
        step=1200,
        seconds=60.0,
        epoch=None,
        loss=1.23456,
        metrics={"accuracy": 0.5125},
        learning_rate=2e-3,
        gradient_norm=1.0,
        rates=None,
    )

    def test_progress_without_a_measured_speed(self):
        text = session.progress_text(self.log)
        assert text == "loss 1.235  accuracy 51.2 %  lr 0.002"

    def test_progress(self):
        log = dataclasses.replace(self.log, rates=Rates(12.345, 790.0, 5e6))
        assert session.progress_text(log).endswith(
            "lr 0.002  12.3 steps/s  790 examples/s  5,000,000 tokens/s"
        )

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
    )
    def test_a_stop(self, number, status):
        result = TrainingResult(1200, 60.0, number, None, None, None, None)
        text = session.stopped_text(result, "runs/x")
        assert text.startswith(f"{number.name} at step 1,200. The same command")
        assert "runs/x" in text
        assert session.stopped_status(result) == status


def test_the_batch_of_a_loss_that_is_not_finite_is_kept(tmp_path, capsys):
    source = IndexedSource(9, lambda i: {"token_ids": tf.stack([i, i], 1)})
    error = NonFiniteLossError(4, np.array([7, 2]))
    session._keep_batch(None, source, error, str(tmp_path))
    path = tmp_path / "not_finite_step_5.npz"
    with np.load(path) as batch:
        assert batch["token_ids"].tolist() == [[7, 7], [2, 2]]
        assert batch["indices"].tolist() == [7, 2]
    assert str(path) in capsys.readouterr().err
    # A stream has no indices to go by.
    session._keep_batch(None, None, NonFiniteLossError(5, None), str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_input_benchmark_counts_what_comes(monkeypatch):
    strategy = tf.distribute.get_strategy()
    batch = {"token_ids": tf.zeros([4, 2**18], tf.int32)}  # 4 MiB

    def batches(source, first, last, batch_size):
        assert source == "source" and batch_size == 4
        while True:
            yield batch

    # Every look at the clock takes half a second.
    now = iter(np.arange(0.0, 100.0, 0.5))
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setitem(sys.modules, "time", clock)
    trainer = types.SimpleNamespace(
        training_iterator=batches,
        loop=types.SimpleNamespace(strategy=strategy),
        batch_size=4,
    )
    text = session.input_benchmark(trainer, "source")
    # 19 batches in 10.5 seconds.
    assert text.startswith(
        "Input pipeline alone: 1.8 steps/s, 7 examples/s, 7.2 MiB/s"
    )
