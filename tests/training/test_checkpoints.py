"""Checkpoints that come back whole, or not at all."""

import json
import resource
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training import files
from luna_tf.training.checkpoints import MARKER, CheckpointError, Checkpoints

DATA = "state.data-00000-of-00001"


class State:
    """The least of a training: model, optimizer, step and all they hold."""

    def __init__(self):
        self.model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        )
        self.optimizer = keras.optimizers.AdamW(0.1)
        self.optimizer.build(self.model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def checkpoints(self, folder, **arguments):
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "step": self.step,
        }
        return Checkpoints(str(folder), parts, **arguments)

    def variables(self):
        return [*self.model.variables, *self.optimizer.variables, self.step]

    def fill(self, number):
        """Gives every entry of every variable a value of its own."""
        for place, variable in enumerate(self.variables()):
            size = int(np.prod(variable.shape))
            values = 1000 * number + 20 * place + np.arange(size)
            variable.assign(values.reshape(variable.shape))

    def values(self):
        return [variable.numpy().tolist() for variable in self.variables()]


@pytest.fixture(scope="module")
def state():
    return State()


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    """A folder on a disk, and one that only TensorFlow's files reach."""
    if request.param == "ram":
        return f"ram://{tmp_path.name}/checkpoints"
    return str(tmp_path / "checkpoints")


def save_three(state, folder, **arguments):
    """Steps 10, 20 and 30; returns their values by step."""
    checkpoints = state.checkpoints(folder, **arguments)
    saved = {}
    for step in (10, 20, 30):
        state.fill(step)
        saved[step] = state.values()
        checkpoints.save(step, {"at": step})
    state.fill(99)
    return checkpoints, saved


def path_of(folder, step, name=None):
    names = [f"step-{step:08d}"] + ([name] if name else [])
    return files.join(str(folder), *names)


class TestWhole:
    def test_everything_comes_back(self, state, folder):
        checkpoints, saved = save_three(state, folder)
        restored = checkpoints.restore()
        assert (restored.step, restored.notes) == (30, {"at": 30})
        assert restored.skipped == []
        assert state.values() == saved[30]

    def test_another_process_finds_it(self, state, folder):
        _, saved = save_three(state, folder)
        other = State()
        # A folder may be given with a slash at its end.
        restored = other.checkpoints(f"{folder}/").restore()
        assert restored.step == 30
        assert other.values() == saved[30]

    def test_nothing_there_is_no_error(self, state, folder):
        assert state.checkpoints(folder).restore() is None
        assert state.checkpoints(folder).steps() == []

    @pytest.mark.parametrize("keep", [1, 2, 4])
    def test_the_newest_are_kept(self, state, folder, keep):
        checkpoints, _ = save_three(state, folder, keep=keep)
        assert checkpoints.steps() == [10, 20, 30][-keep:]
        for step in (10, 20, 30):
            kept = files.exists(path_of(folder, step))
            assert kept == (step in checkpoints.steps())

    def test_those_at_regular_steps_are_kept_besides(self, state, folder):
        checkpoints = state.checkpoints(folder, keep=1, every=20, count=2)
        kept = []
        for step in (10, 20, 30, 40, 50, 60, 70):
            checkpoints.save(step, {})
            kept.append(checkpoints.steps())
        assert kept[:4] == [[10], [20], [20, 30], [20, 40]]
        assert kept[4:] == [[20, 40, 50], [40, 60], [40, 60, 70]]
        # Another number does not bring back what is gone.
        more = state.checkpoints(folder, keep=3, every=10, count=0)
        more.save(80, {})
        assert more.steps() == [60, 70, 80]

    def test_saving_a_step_again_replaces_it(self, state, folder):
        checkpoints, _ = save_three(state, folder)
        state.fill(31)
        saved = state.values()
        checkpoints.save(30, {"at": 31})
        state.fill(99)
        assert checkpoints.restore().notes == {"at": 31}
        assert state.values() == saved

    def test_keep_below_1_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="keep must be at least 1.*: 0"):
            Checkpoints(str(tmp_path), {}, keep=0)


def cut(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def flip(place):
    """Returns what flips one bit, at a share of the way through a file."""

    def damage(path):
        content = bytearray(Path(path).read_bytes())
        content[int(place * len(content))] ^= 0x10
        Path(path).write_bytes(content)

    return damage


def replace(text):
    return lambda path: Path(path).write_text(text)


def empty(path):
    Path(path).write_bytes(b"")


DAMAGES = [
    (DATA, cut, "bytes, not"),
    (DATA, empty, "0 bytes, not"),
    (DATA, Path.unlink, f"{DATA} is missing"),
    *((DATA, flip(place), "hecksum") for place in (0.0, 0.25, 0.5, 0.99)),
    ("state.index", Path.unlink, "state.index is missing"),
    ("state.index", cut, "bytes, not"),
    *(("state.index", flip(place), "") for place in (0.0, 0.5)),
    (MARKER, Path.unlink, "was never finished"),
    (MARKER, cut, ""),
    (MARKER, empty, ""),
    (MARKER, replace("[]"), "of another format"),
    (MARKER, replace('{"format": 2}'), "of another format"),
    (MARKER, replace('{"format": 1}'), "of another format"),
]


class TestDamage:
    @pytest.fixture(scope="class")
    def run(self, state, tmp_path_factory):
        folder = tmp_path_factory.mktemp("checkpoints")
        return folder, *save_three(state, folder)

    @pytest.fixture
    def newest(self, run):
        """The newest folder, mended afterwards."""
        folder = Path(path_of(run[0], 30))
        whole = {path: path.read_bytes() for path in folder.iterdir()}
        yield folder
        for path, content in whole.items():
            path.write_bytes(content)

    @pytest.mark.parametrize(("name", "damage", "reason"), DAMAGES)
    def test_is_reported_and_the_one_before_is_used(
        self, state, run, newest, name, damage, reason
    ):
        _, checkpoints, saved = run
        damage(newest / name)
        state.fill(99)
        restored = checkpoints.restore()
        assert (restored.step, restored.notes) == (20, {"at": 20})
        assert state.values() == saved[20]
        (line,) = restored.skipped
        assert line.startswith(f"{newest}: ")
        assert reason in line
        assert len(line) > len(f"{newest}: ")

    def test_no_bit_of_the_index_can_change_what_is_read(
        self, state, run, newest
    ):
        _, checkpoints, saved = run
        path = newest / "state.index"
        whole = path.read_bytes()
        # The last part tells where the rest is, without a checksum.
        places = [*range(len(whole) - 60, len(whole)), *range(0, 300, 60)]
        for place in places:
            content = bytearray(whole)
            content[place] ^= 0x10
            path.write_bytes(content)
            restored = checkpoints.restore()
            assert state.values() == saved[restored.step], place

    def test_leaves_the_state_alone_when_none_is_whole(self, state, tmp_path):
        checkpoints, _ = save_three(state, tmp_path)
        for step in (10, 20, 30):
            flip(0.5)(path_of(tmp_path, step, DATA))
        before = state.values()
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore()
        lines = str(error.value).splitlines()
        assert lines[0] == "no checkpoint can be read:"
        for line, step in zip(lines[1:], (30, 20, 10), strict=True):
            assert line.startswith(f"  {path_of(tmp_path, step)}: ")
        assert state.values() == before

    def test_does_not_push_out_what_can_be_read(self, state, tmp_path):
        checkpoints, _ = save_three(state, tmp_path, keep=2)
        flip(0.5)(path_of(tmp_path, 30, DATA))
        assert checkpoints.restore().step == 20
        # For instance stopped before it came to step 30 again.
        state.fill(25)
        saved = state.values()
        checkpoints.save(25, {})
        restored = state.checkpoints(tmp_path, keep=1).restore()
        assert restored.step == 25
        assert state.values() == saved
        state.checkpoints(tmp_path, keep=1).save(26, {})
        assert state.checkpoints(tmp_path).restore().step == 26

    def test_another_model_is_refused(self, state, folder):
        save_three(state, folder)
        scale = tf.Variable(1.0)
        other = Checkpoints(
            folder, {"model": State().model, "step": state.step, "s": scale}
        )
        with pytest.raises(CheckpointError, match="does not fit this run"):
            other.restore()


class TestUnfinished:
    def test_is_skipped_and_replaced_by_the_next_save(self, state, folder):
        checkpoints, saved = save_three(state, folder)
        tf.io.gfile.remove(path_of(folder, 30, MARKER))
        # What a kill in the middle of TensorFlow's writing leaves.
        left = path_of(folder, 30, "state_temp/part-00000-of-00001.data")
        tf.io.gfile.makedirs(path_of(folder, 30, "state_temp"))
        files.write_text(left, "half")
        restored = checkpoints.restore()
        assert restored.step == 20
        assert restored.skipped == [
            f"{path_of(folder, 30)}: was never finished"
        ]
        assert state.values() == saved[20]

        state.fill(30)
        checkpoints.save(30, {"at": "again"})
        assert not files.exists(left)
        state.fill(99)
        assert checkpoints.restore().notes == {"at": "again"}
        assert state.values() == saved[30]

    def test_is_what_a_kill_while_removing_leaves(
        self, state, tmp_path, monkeypatch
    ):
        checkpoints, _ = save_three(state, tmp_path)

        def killed(path):
            raise KeyboardInterrupt

        monkeypatch.setattr(tf.io.gfile, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(30, {})
        restored = checkpoints.restore()
        assert restored.step == 20
        assert "was never finished" in restored.skipped[0]

    def test_does_not_count_among_those_to_keep(self, state, folder):
        checkpoints, _ = save_three(state, folder, keep=2)
        tf.io.gfile.remove(path_of(folder, 30, MARKER))
        checkpoints.save(40, {})
        tf.io.gfile.remove(path_of(folder, 40, MARKER))
        assert checkpoints.restore().step == 20

    def test_a_folder_is_finished_by_its_marker(self, state, tmp_path):
        # Whatever else is there is written before, and its size is known.
        checkpoints, _ = save_three(state, tmp_path)
        marker = json.loads(Path(path_of(tmp_path, 30, MARKER)).read_text())
        sizes = {
            path.name: path.stat().st_size
            for path in Path(path_of(tmp_path, 30)).iterdir()
            if path.name != MARKER
        }
        assert marker["bytes"] == sizes
        assert DATA in sizes


class TestWriting:
    def test_on_a_full_disk_loses_nothing(self, tmp_path):
        numbers = tf.Variable(np.arange(50_000.0))
        checkpoints = Checkpoints(str(tmp_path), {"numbers": numbers})
        checkpoints.save(1, {})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(CheckpointError) as error:
                checkpoints.save(2, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(error.value).startswith(path_of(tmp_path, 2))
        assert "could not be written" in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        numbers.assign(np.zeros(50_000))
        restored = checkpoints.restore()
        assert restored.step == 1
        assert restored.skipped == [
            f"{path_of(tmp_path, 2)}: was never finished"
        ]
        assert numbers.numpy().tolist() == list(range(50_000))
        # There is room again.
        checkpoints.save(2, {})
        assert checkpoints.restore().step == 2

    def test_below_a_file_is_a_readable_error(self, state, tmp_path):
        (tmp_path / "file").write_text("")
        checkpoints = state.checkpoints(tmp_path / "file" / "run")
        with pytest.raises(CheckpointError, match="could not be written"):
            checkpoints.save(1, {})


def stream(size=100):
    """Shuffled examples, of which some wait in a buffer."""
    numbers = tf.data.Dataset.range(size).shuffle(10, seed=1).repeat()
    return iter(numbers.batch(3, drop_remainder=True).prefetch(2))


def take(iterator, count):
    return [next(iterator).numpy().tolist() for _ in range(count)]


class TestStreams:
    def test_go_on_where_they_were(self, state, folder):
        checkpoints = state.checkpoints(folder)
        iterator = stream()
        take(iterator, 40)  # into the second epoch
        checkpoints.save(40, {}, iterator)
        expected = take(iterator, 40)
        fresh = stream()
        assert take(stream(), 40) != expected
        assert checkpoints.restore(lambda: fresh).step == 40
        assert take(fresh, 40) == expected

    def test_a_damaged_position_is_reported(self, state, tmp_path):
        checkpoints = state.checkpoints(tmp_path)
        iterator = stream()
        expected = {}
        for step in (10, 20):
            state.fill(step)
            take(iterator, 10)
            checkpoints.save(step, {}, iterator)
            expected[step] = state.values()
        flip(0.5)(path_of(tmp_path, 20, "input-0.data-00000-of-00001"))
        fresh = stream()
        restored = checkpoints.restore(lambda: fresh)
        assert restored.step == 10
        assert len(restored.skipped) == 1
        assert state.values() == expected[10]
        again = stream()
        take(again, 10)
        assert take(fresh, 5) == take(again, 5)

    def test_another_pipeline_is_refused(self, state, tmp_path):
        checkpoints = state.checkpoints(tmp_path)
        checkpoints.save(10, {}, stream())
        other = iter(tf.data.Dataset.range(3))
        with pytest.raises(CheckpointError, match="no checkpoint can be read"):
            checkpoints.restore(lambda: other)

    def test_another_number_of_pipelines_is_refused(self, state, tmp_path):
        def group(count):
            together = tf.Module()
            for number in range(count):
                setattr(together, f"pipeline_{number}", stream())
            return together

        checkpoints = state.checkpoints(tmp_path)
        checkpoints.save(10, {}, group(2))
        assert checkpoints.restore(lambda: group(2)).step == 10
        for count in (1, 3):
            with pytest.raises(CheckpointError, match="does not fit this run"):
                checkpoints.restore(lambda count=count: group(count))

    def test_one_that_was_saved_without_is_refused(self, state, tmp_path):
        checkpoints, _ = save_three(state, tmp_path)
        with pytest.raises(CheckpointError, match="input-0"):
            checkpoints.restore(stream)


class TestWorkers:
    def test_only_the_first_writes_the_state(self, state, folder):
        checkpoints = state.checkpoints(folder, worker=1, num_workers=2)
        checkpoints.save(10, {})
        assert checkpoints.restore() is None

    def test_meet_before_and_after_the_inputs_are_written(
        self, state, tmp_path
    ):
        seen = []

        def barrier():
            names = {path.name for path in tmp_path.rglob("*")}
            seen.append(
                [
                    name in names
                    for name in ("state.index", "input-0.index", MARKER)
                ]
            )

        checkpoints = state.checkpoints(tmp_path, barrier=barrier)
        checkpoints.save(10, {}, stream())
        assert seen == [[True, False, False], [True, True, False]]

    def test_each_keeps_the_position_of_its_own_stream(self, state, folder):
        streams = [stream(), stream()]
        take(streams[0], 3)
        take(streams[1], 8)
        # Worker 1 writes between the two barriers of worker 0.
        other = state.checkpoints(folder, worker=1, num_workers=2)
        meetings = []

        def barrier():
            meetings.append(None)
            if len(meetings) == 2:
                other.save(10, {}, streams[1])

        chief = state.checkpoints(folder, num_workers=2, barrier=barrier)
        chief.save(10, {}, streams[0])
        for checkpoints, iterator in zip((chief, other), streams, strict=True):
            fresh = stream()
            assert checkpoints.restore(lambda it=fresh: it).step == 10
            assert take(fresh, 5) == take(iterator, 5)

    def test_another_number_of_them_cannot_share_the_streams(
        self, state, tmp_path
    ):
        checkpoints = state.checkpoints(tmp_path)
        checkpoints.save(10, {}, stream())
        two = state.checkpoints(tmp_path, num_workers=2)
        with pytest.raises(CheckpointError, match="of 1 workers, not of 2"):
            two.restore(stream)

    def test_another_number_of_them_may_share_the_state(self, state, folder):
        save_three(state, folder)
        two = state.checkpoints(folder, worker=1, num_workers=2)
        assert two.restore().step == 30
