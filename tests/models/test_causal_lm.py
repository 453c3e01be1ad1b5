"""`LunaCausalLM`: decoder-only model, cache, bytes, `generate`."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from models.text_models import (
    OTHERS,
    SMALL,
    TARGETS,
    array,
    byte_preprocessor,
    causal_lm,
    randomize,
    splits,
)

from luna_tf.models import LunaCausalLMBackbone, LunaCausalLMByteTokenizer

# Every argument at another value than its default.
EVERYTHING = dict(
    SMALL,
    tie_key_value=False,
    dropout=0.2,
    attention_dropout=0.3,
    activation_dropout=0.4,
    activation="gelu",
    normalize_first=True,
    position_embedding="learned",
    first_position=3,
    max_sequence_length=20,
    embedding_scale=2.0,
    normalize_embeddings=True,
    share_embeddings=False,
    contraction="direct",
    chunk_size=4,
    remat=True,
    seed=3,
)
IDS = np.array([[5, 6, 7, 8, 9, 4], [10, 11, 12, 13, 14, 5]], "int32")


@pytest.fixture(scope="module")
def model():
    return causal_lm()


@pytest.fixture(scope="module")
def byte_model():
    return causal_lm(byte_preprocessor(), vocabulary_size=256)


def logits(model, ids, mask=None):
    mask = np.ones_like(ids) if mask is None else mask
    return array(model({"token_ids": ids, "padding_mask": mask}))


def test_every_argument_comes_back():
    arguments = inspect.signature(LunaCausalLMBackbone).parameters
    assert set(arguments) - {"kwargs", "dtype"} == {*EVERYTHING}
    backbone = LunaCausalLMBackbone(**EVERYTHING, dtype="mixed_bfloat16")
    config = backbone.get_config()
    again = LunaCausalLMBackbone.from_config(config)
    assert again.get_config() == config
    assert again.decoder_blocks[0].compute_dtype == "bfloat16"
    for name, value in EVERYTHING.items():
        assert value != arguments[name].default
        assert config[name] == value == getattr(again, name), name
    sizes = [np.prod(w.shape) for w in backbone.weights]
    assert sizes.count(SMALL["vocabulary_size"] * 8) == 2


def test_there_is_no_cross_attention_and_p_is_its_own(model):
    names = {w.path for w in model.backbone.weights}
    assert not [name for name in names if "cross_attention" in name]
    assert [name for name in names if "packed_embedding" in name]


def test_the_future_is_not_seen(model):
    changed = IDS.copy()
    changed[:, 4:] = 20
    a, b = logits(model, IDS), logits(model, changed)
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
    assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-2
    # Nor is the length of the text, which would tell where it ends.
    np.testing.assert_allclose(logits(model, IDS[:, :2]), a[:, :2], atol=1e-5)


def test_padding_on_either_side_changes_nothing(model):
    mask = np.array([[1, 1, 1, 0, 0, 0]] * 2)
    right = logits(model, IDS * mask, mask)
    left = logits(
        model, np.roll(IDS * mask, 3, axis=1), np.roll(mask, 3, axis=1)
    )
    np.testing.assert_allclose(right[:, :3], left[:, 3:], atol=2e-5)
    np.testing.assert_allclose(
        right[:, :3], logits(model, IDS[:, :3]), atol=2e-5
    )


def test_every_weight_has_a_gradient(model):
    with tf.GradientTape() as tape:
        outputs = model({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
        loss = tf.reduce_sum(outputs**2)
    variables = model.trainable_variables
    for v, g in zip(variables, tape.gradient(loss, variables), strict=True):
        assert g is not None, v.path


@pytest.mark.parametrize("split", splits(6), ids=str)
def test_any_split_gives_the_parallel_logits(model, split):
    expected = logits(model, IDS)
    assert expected.dtype == np.float32
    cache, start = model.initial_cache(2, 6), 0
    for length in split:
        got, cache = model.next_logits(
            IDS[:, start : start + length], cache, start
        )
        np.testing.assert_allclose(
            got, expected[:, start : start + length], atol=5e-5
        )
        start += length


def test_the_cache_has_one_size():
    model = causal_lm()
    shapes = []
    for length in (4, 4000):
        leaves = keras.tree.flatten(model.initial_cache(3, length))
        assert {leaf.shape[0] for leaf in leaves} == {3}
        shapes.append([tuple(leaf.shape) for leaf in leaves])
    assert shapes[0] == shapes[1]


def test_generate_is_the_argmax_of_the_parallel_form():
    model = randomize(causal_lm(share_embeddings=False), seed=3)
    given = np.array([[1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    ids = np.pad(IDS, ((0, 0), (0, 1))) * given
    expected = ids.copy()
    for t in range(1, 7):
        best = logits(model, expected[:, :t])[:, -1].argmax(-1)
        expected[:, t] = np.where(given[:, t], ids[:, t], best)
    model.compile(sampler="greedy", run_eagerly=True)
    got = model.generate(
        {"token_ids": ids, "padding_mask": given}, stop_token_ids=None
    )
    np.testing.assert_array_equal(got["token_ids"], expected)


@pytest.mark.slow
def test_generate_compiles_with_xla(byte_model):
    byte_model.compile(sampler="greedy", run_eagerly=True)
    expected = byte_model.generate(["en", "e"], max_length=7)
    byte_model.compile(sampler="greedy", jit_compile=True)
    assert byte_model.generate(["en", "e"], max_length=7) == expected


@pytest.mark.slow
def test_it_learns_strings_and_stops(byte_model):
    byte_model.compile(optimizer=keras.optimizers.Adam(0.02), sampler="greedy")
    texts = ["sol", "luna"] * 2
    x, y, weight = byte_model.preprocessor(texts)
    preprocessor, byte_model.preprocessor = byte_model.preprocessor, None
    byte_model.fit(
        x, y, sample_weight=weight, epochs=120, verbose=0, shuffle=False
    )
    byte_model.preprocessor = preprocessor
    byte_model.compile(sampler="greedy", run_eagerly=True)
    assert byte_model.generate(["s", "l"]) == ["sol", "luna"]


def test_strings_reach_fit(byte_model):
    byte_model.compile(optimizer="sgd", run_eagerly=True)
    history = byte_model.fit(
        np.array(TARGETS), batch_size=3, verbose=0, shuffle=False
    )
    assert np.isfinite(history.history["loss"][0])


def test_bytes_are_bytes():
    tokenizer = LunaCausalLMByteTokenizer()
    text = "Ábaco ñ 月"
    ids = [int(i) for i in tokenizer(text)]
    assert ids == list(text.encode())
    assert tokenizer.detokenize(ids) == text
    special = tokenizer.special_token_ids
    for byte in special[1:]:
        with pytest.raises(UnicodeDecodeError):
            bytes([byte]).decode()


@pytest.mark.parametrize("name", [*OTHERS, "num_layers"])
def test_the_cache_of_another_model_is_an_error(model, name):
    other = causal_lm(**OTHERS.get(name, {name: 3}))
    cache = other.initial_cache(2, 6)
    other.next_logits(IDS, cache, 0)
    message = "`cache` must come from"
    if name == "packed_length":
        message += ".* `packed_length` 3. Got: 4 in decoder_block_0"
    with pytest.raises(ValueError, match=message):
        model.next_logits(IDS, cache, 0)


def test_the_end_of_learned_positions_is_an_error():
    model = causal_lm(position_embedding="learned", max_sequence_length=7)
    cache = model.initial_cache(2, 7)
    for index in (1, tf.constant(1)):
        model.next_logits(IDS, cache, index)
    message = "`index` .* `max_sequence_length`, 7. Got: index 2, 6 tokens"
    for index in (2, tf.constant(2)):
        with pytest.raises(ValueError, match=message):
            model.next_logits(IDS, cache, index)


def test_training_needs_the_vocabulary_of_the_model():
    model = causal_lm()
    model.preprocessor = byte_preprocessor()
    model.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="`vocabulary_size`, 30. Got: 256"):
        model.fit(np.array(TARGETS), verbose=0, shuffle=False)


def test_bad_input(byte_model, model):
    byte_model.compile(sampler="greedy")
    with pytest.raises(ValueError, match="`inputs` must have fewer than 11"):
        byte_model.generate("a text of many bytes")
    with pytest.raises(ValueError, match="`cache` must come from"):
        model.next_logits(IDS, {}, 0)
    with pytest.raises(ValueError, match="`vocabulary_size`, 30. Got: 256"):
        causal_lm(byte_preprocessor())
    learned = dict(position_embedding="learned", max_sequence_length=9)
    with pytest.raises(ValueError, match="`max_length` must not exceed.* 9"):
        causal_lm(**learned).initial_cache(1, 10)
    with pytest.raises(ValueError, match="`sequence_length` .* 9. Got: 12"):
        causal_lm(byte_preprocessor(), vocabulary_size=256, **learned)
    with pytest.raises(ValueError, match="`packed_length` must be a positive"):
        LunaCausalLMBackbone(**{**SMALL, "packed_length": 0})
