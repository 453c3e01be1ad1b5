import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import (
    IMAGES,
    TENSORS,
    EventAccumulator,
)

from luna_tf.models import LRAClassifier
from luna_tf.visualize import attention_per_head
from luna_tf.visualize.tensorboard import FigureLogger


def logged(folder):
    events = EventAccumulator(str(folder), {IMAGES: 0, TENSORS: 0})
    events.Reload()
    return {
        tag: {
            event.step: tf.io.decode_png(
                event.tensor_proto.string_val[2]
            ).numpy()
            for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
    }


@pytest.fixture
def model():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model


def fit(model, logger, epochs=4):
    data = np.ones((4, 2)), np.ones((4, 1))
    model.fit(*data, epochs=epochs, verbose=0, callbacks=[logger])


def test_before_training_and_every_second_epoch(model, tmp_path):
    seen = []

    def draw(found):
        seen.append(float(found.weights[1][0]))
        return {"one": Figure((1, 2), dpi=50), "two": Figure((2, 1), dpi=50)}

    fit(model, FigureLogger(tmp_path, draw, every=2))
    images = logged(tmp_path)
    assert {tag: list(steps) for tag, steps in images.items()} == {
        "one": [0, 2, 4],
        "two": [0, 2, 4],
    }
    assert images["one"][0].shape == (100, 50, 4)
    assert seen[0] == 0 and len(set(seen)) == 3


def test_what_packed_slots_look_at_moves(tmp_path):
    model = LRAClassifier(9, 2, 6, 1, 2, 8, 8, packed_length=3, seed=0)
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    ids = np.random.default_rng(0).integers(1, 9, (8, 6))

    def draw(model):
        pack, _ = model.attention_scores(ids[:1])[-1]
        return {"attention": attention_per_head(pack[0])}

    labels = (ids[:, 0] > 4).astype("int32")
    logger = FigureLogger(tmp_path, draw)
    model.fit(ids, labels, epochs=1, verbose=0, callbacks=[logger])
    images = logged(tmp_path)["attention"]
    assert list(images) == [0, 1]
    assert images[0].std() > 5  # not an empty page
    assert (images[0] != images[1]).any()


def test_steps_go_on_with_the_epochs(model, tmp_path):
    logger = FigureLogger(tmp_path, lambda model: {"a": Figure((1, 1))})
    data = np.ones((4, 2)), np.ones((4, 1))
    arguments = {"verbose": 0, "callbacks": [logger]}
    model.fit(*data, epochs=2, **arguments)
    model.fit(*data, initial_epoch=2, epochs=3, **arguments)
    assert list(logged(tmp_path)["a"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_positive(every, tmp_path):
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        FigureLogger(tmp_path, dict, every)


def test_figures_have_names(model, tmp_path):
    with pytest.raises(ValueError, match="figures by name"):
        fit(model, FigureLogger(tmp_path, lambda model: Figure()))
