"""Configurations, clones, `.keras` files and weights on every backend."""

import keras
import numpy as np
import pytest
from layers.luna_models import INPUTS, OTHER, functional, subclassed
from layers.luna_reference import array, assert_all_close, sequences

from luna_tf import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)
from luna_tf.layers import LunaCausalAttention, LunaDecoderBlock

# Every argument at another value than its default.
CONFIGS = {
    LunaAttention: dict(
        num_heads=2,
        key_dim=4,
        num_pack_heads=4,
        tie_key_value=False,
        dropout=0.1,
        use_bias=False,
        contraction="absorbed",
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer="l2",
        bias_regularizer="l1",
        activity_regularizer="l2",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
        seed=3,
        name="a",
        dtype="mixed_bfloat16",
        trainable=False,
    ),
    LunaCausalAttention: dict(
        num_heads=2,
        key_dim=3,
        tie_key_value=False,
        dropout=0.1,
        use_bias=False,
        chunk_size=5,
        contraction="absorbed",
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer="l2",
        bias_regularizer="l1",
        activity_regularizer="l2",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
        seed=3,
        name="e",
        dtype="mixed_bfloat16",
        trainable=False,
    ),
    PackedEmbedding: dict(
        packed_length=3,
        dynamic=False,
        embeddings_initializer="ones",
        embeddings_regularizer="l2",
        embeddings_constraint="non_neg",
        name="b",
        dtype="mixed_float16",
        trainable=False,
    ),
    LunaTransformerBlock: dict(
        intermediate_dim=6,
        num_heads=2,
        num_pack_heads=4,
        tie_key_value=False,
        dropout=0.1,
        attention_dropout=0.2,
        activation_dropout=0.3,
        activation="gelu",
        layer_norm_epsilon=1e-3,
        normalize_first=True,
        contraction="direct",
        kernel_initializer="he_normal",
        bias_initializer="ones",
        remat=True,
        seed=3,
        name="c",
        dtype="mixed_bfloat16",
        trainable=False,
    ),
    LunaDecoderBlock: dict(
        intermediate_dim=6,
        num_heads=2,
        num_pack_heads=4,
        tie_key_value=False,
        dropout=0.1,
        attention_dropout=0.2,
        activation_dropout=0.3,
        activation="gelu",
        layer_norm_epsilon=1e-3,
        normalize_first=True,
        contraction="direct",
        chunk_size=5,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        remat=True,
        seed=3,
        name="f",
        dtype="mixed_bfloat16",
        trainable=False,
    ),
    LunaEmbedding: dict(
        vocabulary_size=9,
        hidden_dim=8,
        packed_length=3,
        max_sequence_length=5,
        position_embedding="sinusoidal",
        first_position=2,
        scale=2.0,
        normalize=False,
        layer_norm_epsilon=1e-3,
        dropout=0.1,
        padding_id=1,
        dynamic_packing=False,
        embeddings_initializer="ones",
        token_embedding=keras.layers.Embedding(9, 8, name="shared"),
        num_segments=2,
        positions_skip_padding=False,
        max_real_tokens=4,
        seed=3,
        name="d",
        dtype="mixed_bfloat16",
        trainable=False,
    ),
}
CLASSES = pytest.mark.parametrize("cls", CONFIGS, ids=lambda c: c.__name__)


@CLASSES
def test_every_argument_is_in_the_config_and_comes_back(cls):
    import inspect

    given = CONFIGS[cls]
    arguments = set(inspect.signature(cls.__init__).parameters)
    arguments -= {"self", "kwargs"}
    assert arguments <= given.keys()  # a new argument must be added above
    layer = cls(**given)
    config = layer.get_config()
    assert arguments <= config.keys()
    defaults = {
        k: v.default for k, v in inspect.signature(cls).parameters.items()
    }
    again = cls.from_config(config)
    assert again.get_config() == config
    assert again.trainable is False
    assert again.dtype_policy.name == given["dtype"]
    for name in arguments:
        assert given[name] != defaults[name]
        if isinstance(given[name], (int, float)):
            assert config[name] == given[name], name


@CLASSES
def test_config_is_json(cls):
    import json

    config = cls(**CONFIGS[cls]).get_config()
    assert (
        cls.from_config(json.loads(json.dumps(config))).get_config() == config
    )


@CLASSES
def test_registered_under_the_package(cls):
    name = f"luna_tf>{cls.__name__}"
    assert keras.saving.get_registered_name(cls) == name
    assert keras.saving.get_registered_object(name) is cls
    layer = cls(**CONFIGS[cls])
    saved = keras.saving.serialize_keras_object(layer)
    assert saved["registered_name"] == name
    assert isinstance(keras.saving.deserialize_keras_object(saved), cls)


MODELS = pytest.mark.parametrize(
    "make", [functional, subclassed], ids=lambda f: f.__name__
)


@pytest.fixture(scope="module")
def models():
    return {make: make() for make in (functional, subclassed)}


def assert_same(a, b):
    for inputs in (INPUTS, OTHER):
        assert_all_close(a(inputs), b(inputs), 0)


@MODELS
def test_keras_file_is_equal_bit_for_bit(make, models, tmp_path):
    models[make].save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_same(loaded, models[make])


@MODELS
def test_weights_file_is_equal_bit_for_bit(make, models, tmp_path):
    models[make].save_weights(tmp_path / "m.weights.h5")
    other = make()
    for weight in other.weights:
        weight.assign(weight * 0)
    other.load_weights(tmp_path / "m.weights.h5")
    assert_same(other, models[make])


def test_clone_model_is_equal_bit_for_bit(models):
    model = models[functional]
    clone = keras.models.clone_model(model)
    assert not set(map(id, clone.layers)) & set(map(id, model.layers))
    clone.set_weights(model.get_weights())
    assert_same(clone, model)


def test_functional_config_round_trip(models):
    model = models[functional]
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert_same(again, model)


def test_mixed_precision_survives_a_keras_file(tmp_path):
    x, p = keras.Input((None, 8)), keras.Input((3, 8))
    block = LunaTransformerBlock(6, 2, dropout=0.5, dtype="mixed_bfloat16")
    model = keras.Model([x, p], block(x, p))
    inputs = list(sequences())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].dtype_policy.name == "mixed_bfloat16"
    assert_all_close(loaded(inputs), model(inputs), 0)


@CLASSES
def test_symbolic_outputs_have_the_dtype_and_shape_of_eager_ones(cls):
    layer = cls(**CONFIGS[cls])
    arrays = {
        PackedEmbedding: [sequences()[0]],
        LunaEmbedding: [INPUTS[0]],
    }.get(cls, list(sequences()))
    inputs = [
        keras.Input(y.shape[1:], dtype=y.dtype.name, batch_size=2)
        for y in arrays
    ]
    named = [{}, {}]
    if cls is LunaEmbedding:  # the configuration has segments
        named = [{"segment_ids": x} for x in (inputs[0], 0 * arrays[0])]
    symbolic = keras.tree.flatten(layer(*inputs, **named[0]))
    eager = keras.tree.flatten(layer(*arrays, **named[1]))
    for s, e in zip(symbolic, eager, strict=True):
        assert s.shape == tuple(e.shape)
        assert s.dtype == keras.backend.standardize_dtype(e.dtype)
    assert np.isfinite(array(eager[0])).all()
