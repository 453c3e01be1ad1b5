"""`LRAClassifier` with two documents, and with values in place of tokens."""

import gradients
import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.models import LRAClassifier
from luna_tf.models.lra_head import join_pairs

SMALL = dict(
    num_classes=4,
    max_sequence_length=9,
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=12,
    packed_length=3,
)
TOKENS = dict(SMALL, vocabulary_size=11)
PAIRS = dict(TOKENS, num_documents=2, head_hidden_dim=6)
INTERACTION = dict(PAIRS, pair_features="interaction", pooling="mean")
VALUES = dict(SMALL, input_type="values", vocabulary_size=None, padding_id=None)
SOFTMAX = dict(PAIRS, attention="softmax", packed_length=None)
BOTH = dict(VALUES, num_documents=2)

IDS = np.array(
    [
        [[2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0]],
        [[1, 3, 0, 0, 0, 0], [2, 2, 5, 7, 0, 0]],
    ],
    "int32",
)
GREYS = np.linspace(-1, 1, 24).reshape(2, 2, 6).astype("float32")


def make(**kwargs):
    model = LRAClassifier(**kwargs)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(size=weight.shape) * 0.3 + 0.1)
    return model


def logits(model, inputs, **kwargs):
    return keras.ops.convert_to_numpy(model(inputs, **kwargs))


def example_of(model):
    inputs = IDS if model.input.name == "token_ids" else GREYS
    return inputs if len(model.input_shape) == 3 else inputs[:, 0]


CONFIGS = dict(interaction=INTERACTION, softmax=SOFTMAX, values=VALUES)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return make(**CONFIGS[request.param])


# === Every kind of input ===


def test_configuration_and_weights_come_back(model, tmp_path):
    again = LRAClassifier.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    inputs = example_of(model)
    expected = logits(model, inputs)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(logits(loaded, inputs), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(logits(clone, inputs), expected)


@pytest.mark.parametrize("config", [INTERACTION, VALUES])
def test_export(config, tmp_path):
    model = make(**{**config, "num_layers": 1})
    model.export(tmp_path / "m", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    inputs = example_of(model)
    for part in (inputs, inputs[:1, ..., :3]):
        np.testing.assert_allclose(
            loaded.serve(part), logits(model, part), atol=1e-6
        )


def test_every_weight_has_a_gradient(model):
    rng = np.random.default_rng(1)
    _, _, got = gradients.run(
        lambda inputs: {"logits": model(inputs)},
        model.trainable_variables,
        {"inputs": example_of(model)},
        {"logits": rng.normal(size=(2, 4)).astype("float32")},
    )
    for weight, gradient in zip(model.trainable_variables, got, strict=True):
        # Not what a softmax cancels, nor what the last block makes of `p`.
        if "key/bias" in weight.path or "1/packed_layer_norm" in weight.path:
            continue
        assert gradient.any(), weight.path


def test_an_empty_batch_gives_no_logits(model):
    inputs = example_of(model)[:0]
    assert tuple(logits(model, inputs).shape) == (0, 4)


def test_compiled_by_xla_is_the_same():
    model = make(**{**PAIRS, "num_layers": 1})
    compiled = tf.function(
        lambda ids: model(ids),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, 2, None], tf.int32)],
    )
    np.testing.assert_allclose(
        compiled(IDS), logits(model, IDS), rtol=1e-5, atol=1e-5
    )


# === Two documents ===


def features_of(a, b, kind):
    return {
        "concatenation": np.concatenate([b, a], axis=-1),
        "interaction": np.concatenate([a, b, a * b, a - b], axis=-1),
    }[kind]


@pytest.mark.parametrize("config", [PAIRS, INTERACTION, SOFTMAX, BOTH])
def test_one_encoder_reads_both_documents(config):
    pairs = make(**config)
    single = {**config, "num_documents": 1, "head_hidden_dim": None}
    kind = single.pop("pair_features", "concatenation")
    single = LRAClassifier(**single)
    single.embedding.set_weights(pairs.embedding.get_weights())
    for ours, theirs in zip(single.blocks, pairs.blocks, strict=True):
        ours.set_weights(theirs.get_weights())
    # Without the head, the pooled vectors are what is left.
    encode = keras.Model(single.input, single.get_layer("pooling").output)
    inputs = example_of(pairs)
    a, b = (np.array(encode(inputs[:, i])) for i in (0, 1))
    x = features_of(a, b, kind)
    for layer in pairs.head:
        x = layer(x)
    np.testing.assert_allclose(logits(pairs, inputs), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["concatenation", "interaction"])
def test_order_of_the_documents(kind):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5))
    got = join_pairs(np.concatenate([a, b]), kind)
    np.testing.assert_array_equal(np.array(got), features_of(a, b, kind))


@pytest.mark.parametrize("config", [PAIRS, SOFTMAX])
def test_a_pair_depends_on_no_batch_mate_and_on_no_padding(config):
    model = make(**config)
    both = logits(model, IDS)
    alone = [logits(model, IDS[:1]), logits(model, IDS[1:, :, :4])]
    np.testing.assert_allclose(both, np.concatenate(alone), atol=1e-5)
    assert np.abs(logits(model, IDS[:, ::-1]) - both).max() > 1e-3


def test_an_empty_document_is_finite():
    ids = IDS.copy()
    ids[0, 1] = 0
    assert np.isfinite(logits(make(**PAIRS), ids)).all()


# === Values ===


def test_values_are_not_padding_and_are_not_rounded_to_tokens():
    model = make(**VALUES)
    zeros = np.zeros((1, 6), "float32")
    changed = zeros.copy()
    changed[0, 4] = 0.01
    expected = logits(model, zeros)
    assert np.abs(logits(model, changed) - expected).max() > 1e-6
    assert np.abs(logits(model, zeros[:, :4]) - expected).max() > 1e-6


def test_values_in_half_precision():
    expected = logits(make(**VALUES), GREYS[:, 0])
    mixed = make(**VALUES, dtype="mixed_bfloat16")
    got = logits(mixed, GREYS[:, 0])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.2)


@pytest.mark.parametrize(
    "name,value", [("vocabulary_size", 11), ("padding_id", 0)]
)
def test_values_refuse_what_only_tokens_have(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}` must be None.*Got: {value}"
    ):
        make(**{**VALUES, name: value})


@pytest.mark.parametrize(
    "config,inputs,message",
    [
        (dict(VALUES, max_sequence_length=4), GREYS[:, 0], "sequence_length"),
        (PAIRS, IDS[:, 0], "shape"),
        (TOKENS, IDS, "shape"),
        (VALUES, GREYS, "shape"),
    ],
)
def test_another_kind_of_input_is_an_error(config, inputs, message):
    with pytest.raises(ValueError, match=message):
        make(**config)(inputs)
