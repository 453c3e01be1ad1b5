"""What any released version saved loads in this one, and computes the same."""

import json
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import luna_tf  # noqa: F401, registers the layers

ROOT = pathlib.Path(__file__).parent / "artifacts"
FOLDERS = sorted(p.parent for p in ROOT.glob("*/example.npz"))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda p: p.name)
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def example(folder):
    with np.load(folder / "example.npz") as z:
        arrays = dict(z)
    expected = {
        name.removeprefix("expected/"): arrays.pop(name)
        for name in list(arrays)
        if name.startswith("expected/")
    }
    assert expected
    return arrays, expected


def assert_expected(outputs, expected):
    assert outputs.keys() == expected.keys()
    for name, y in outputs.items():
        np.testing.assert_allclose(
            np.asarray(y), expected[name], rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_there_are_artefacts_and_they_are_small():
    assert FOLDERS
    for folder in FOLDERS:
        assert sum(p.stat().st_size for p in folder.iterdir()) < 300_000


def test_keras_file_loads(folder, example):
    inputs, expected = example
    model = keras.models.load_model(folder / "model.keras")
    assert_expected(model(inputs), expected)


def test_weights_load(folder, example):
    inputs, expected = example
    # The architecture, without the weights that are in the same file.
    with zipfile.ZipFile(folder / "model.keras") as z:
        config = json.loads(z.read("config.json"))
    model = keras.saving.deserialize_keras_object(config)
    model.load_weights(folder / "model.weights.h5")
    assert_expected(model(inputs), expected)


def test_saved_model_loads(folder, example, tmp_path):
    inputs, expected = example
    shutil.unpack_archive(folder / "saved_model.zip", tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    outputs = loaded.serve([inputs["ids"], inputs["context"]])
    assert_expected(outputs, expected)
