"""The mean of the weights of several checkpoints."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training.averaging import average_checkpoints, last_steps
from luna_tf.training.checkpoints import CheckpointError, Checkpoints


def make_model(width=2):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(width),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=1),
        ]
    )
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def values_at(step, model):
    """Weights that differ by step and by place."""
    rng = np.random.default_rng(step)
    return [
        rng.normal(size=variable.shape).astype("float32")
        if "float" in variable.dtype
        else np.full(variable.shape, step, variable.dtype)
        for variable in model.variables
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 2, 4, … 10."""
    folder = str(tmp_path_factory.mktemp("run") / "checkpoints")
    model, optimizer = make_model()
    checkpoints = Checkpoints(
        folder, {"model": model, "optimizer": optimizer}, keep=9
    )
    for step in range(2, 12, 2):
        for v, value in zip(
            model.variables, values_at(step, model), strict=True
        ):
            v.assign(value)
        checkpoints.save(step, {})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def floats(model, values):
    return [
        value
        for variable, value in zip(model.variables, values, strict=True)
        if "float" in variable.dtype
    ]


def check_mean(model, steps):
    got = floats(model, [v.numpy() for v in model.variables])
    rows = [floats(model, values_at(step, model)) for step in steps]
    assert len(got) == 6
    for value, column in zip(got, zip(*rows, strict=True), strict=True):
        mean = np.mean(np.stack(column).astype(np.float64), axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-7)


def test_the_mean_of_the_last_ones(saved):
    model, _ = make_model()
    steps = last_steps(saved, 3)
    assert steps == [6, 8, 10]
    average_checkpoints(model, saved, steps)
    check_mean(model, steps)


def test_of_a_remote_folder(saved):
    remote = "ram://averaged/checkpoints"
    for path in tf.io.gfile.glob(f"{saved}/*/*"):
        copy = path.replace(saved, remote)
        tf.io.gfile.makedirs(copy.rpartition("/")[0])
        tf.io.gfile.copy(path, copy)
    model, _ = make_model()
    steps = last_steps(remote, 2)
    assert steps == [8, 10]
    average_checkpoints(model, remote, steps)
    check_mean(model, steps)


def test_one_alone_comes_back_bit_for_bit(saved):
    model, _ = make_model()
    average_checkpoints(model, saved, [4])
    got = floats(model, [v.numpy() for v in model.variables])
    for one, other in zip(got, floats(model, values_at(4, model)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fewer_than_asked_for_are_all_there_are(saved, tmp_path):
    assert last_steps(saved, 99) == [2, 4, 6, 8, 10]
    assert last_steps(str(tmp_path / "nothing"), 3) == []


def test_of_regular_steps_and_the_last(saved, folder):
    assert last_steps(saved, 3, every=4) == [4, 8, 10]
    assert last_steps(saved, 2, every=5) == [10]
    assert last_steps(saved, 1, every=4) == [10]
    shutil.rmtree(folder / "step-00000010")
    assert last_steps(str(folder), 3, every=4) == [4, 8]


def test_damaged_ones_are_passed_over(folder):
    (folder / "step-00000010" / "checkpoint.json").unlink()
    (folder / "step-00000006" / "state.index").unlink()
    assert last_steps(str(folder), 2) == [4, 8]


class TestError:
    def check(self, folder, steps, message, width=2):
        model, _ = make_model(width)
        before = [v.numpy() for v in model.variables]
        with pytest.raises(CheckpointError, match=message):
            average_checkpoints(model, str(folder), steps)
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)

    def test_of_a_step_that_is_not_there(self, folder):
        self.check(folder, [2, 3], "step-00000003 cannot .* never finished")

    def test_of_damaged_data_leaves_the_model_alone(self, folder):
        data = folder / "step-00000004" / "state.data-00000-of-00001"
        content = bytearray(data.read_bytes())
        content[: len(content) // 2] = bytes(len(content) // 2)
        data.write_bytes(content)
        self.check(folder, [2, 4], "step-00000004 cannot be read")

    def test_of_another_model(self, folder):
        self.check(folder, [2], "step-00000002 cannot be read", width=4)

    def test_of_no_steps(self, folder):
        with pytest.raises(ValueError, match="steps must name a checkpoint"):
            average_checkpoints(make_model()[0], str(folder), [])
        with pytest.raises(ValueError, match="count must be at least 1"):
            last_steps(str(folder), 0)
        with pytest.raises(ValueError, match="every must be at least 1"):
            last_steps(str(folder), 1, 0)
