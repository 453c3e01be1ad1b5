"""`LunaSeq2SeqBackbone`: configuration, sharing, padding, precision, LoRA."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from models.text_models import (
    SMALL,
    SOFTMAX,
    VOCABULARY,
    array,
    batch,
    seq2seq_backbone,
    seq2seq_lm,
)

from luna_tf.models import LunaSeq2SeqBackbone

# Every argument at another value than its default.
EVERYTHING = dict(
    SMALL,
    num_decoder_layers=1,
    num_pack_heads=4,
    num_decoder_heads=4,
    num_decoder_pack_heads=8,
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
    dynamic_packing=False,
    share_embeddings="decoder",
    contraction="direct",
    chunk_size=4,
    remat=True,
    seed=3,
)


@pytest.fixture(scope="module")
def backbone():
    return seq2seq_backbone()


@pytest.fixture(scope="module")
def everything():
    return LunaSeq2SeqBackbone(**EVERYTHING, dtype="mixed_bfloat16", name="it")


def test_every_argument_comes_back(everything):
    arguments = inspect.signature(LunaSeq2SeqBackbone).parameters
    assert set(arguments) - {"kwargs", "attention", "dtype"} == {*EVERYTHING}
    config = everything.get_config()
    again = LunaSeq2SeqBackbone.from_config(config)
    assert again.get_config() == config
    assert again.name == "it"
    assert again.decoder_blocks[0].compute_dtype == "bfloat16"
    for name, value in EVERYTHING.items():
        assert value != arguments[name].default
        assert config[name] == value == getattr(again, name), name


def test_arguments_reach_the_layers(everything):
    encoder, decoder = everything.encoder_blocks, everything.decoder_blocks
    assert (len(encoder), len(decoder)) == (2, 1)
    for block, heads, pack_heads in ((encoder[0], 2, 4), (decoder[0], 4, 8)):
        assert (block.num_heads, block.num_pack_heads) == (heads, pack_heads)
        assert (block.dropout, block.attention_dropout) == (0.2, 0.3)
        assert (block.activation_dropout, block.remat) == (0.4, True)
        assert block.activation is keras.activations.gelu
        assert (block.normalize_first, block.tie_key_value) == (True, False)
        assert block.contraction == "direct"
    assert decoder[0].chunk_size == 4
    for embedding in everything.encoder_embedding, everything.decoder_embedding:
        assert (embedding.scale, embedding.first_position) == (2.0, 3)
        assert (embedding.normalize, embedding.dropout) == (True, 0.2)
        assert embedding.positions.input_dim == 23
    assert everything.encoder_embedding.packed_embedding.dynamic is False
    blocks = encoder + decoder
    assert len({block.seed for block in blocks}) == len(blocks)


def test_sizes_of_the_decoder_default_to_those_of_the_encoder():
    backbone = LunaSeq2SeqBackbone(**{**SMALL, "num_pack_heads": 4})
    assert len(backbone.decoder_blocks) == 2
    block = backbone.decoder_blocks[0]
    assert (block.num_heads, block.num_pack_heads) == (2, 4)


@pytest.mark.parametrize(
    "sharing,tables", [("all", 1), ("decoder", 2), ("none", 3)]
)
def test_embeddings_are_shared_as_asked(sharing, tables):
    backbone = LunaSeq2SeqBackbone(**SMALL, share_embeddings=sharing)
    sizes = [np.prod(w.shape) for w in backbone.weights]
    assert sizes.count(VOCABULARY * 8) == tables
    shared = backbone.encoder_embedding.token_embedding
    assert (shared is backbone.token_embedding) == (sharing == "all")
    assert (
        backbone.decoder_embedding.token_embedding is backbone.token_embedding
    )


@pytest.mark.parametrize("kwargs", [{}, SOFTMAX], ids=["luna", "softmax"])
def test_an_example_depends_on_no_batch_mate(kwargs):
    backbone = seq2seq_backbone(**kwargs)
    inputs = batch()
    both = backbone(inputs)
    alone = {k: v[1:] for k, v in inputs.items()}
    for name in ("encoder_token_ids", "encoder_padding_mask"):
        alone[name] = alone[name][:, :3]
    got = backbone(alone)
    name = "encoder_sequence_output"
    np.testing.assert_allclose(got[name], both[name][1:, :3], atol=2e-5)
    name = "decoder_sequence_output"
    np.testing.assert_allclose(got[name], both[name][1:], atol=2e-5)


def test_results_do_not_depend_on_the_side_of_padding(backbone):
    right = batch((7, 3), (6, 4))
    left = {k: v.copy() for k, v in right.items()}
    for name, length, size in (("encoder", 3, 7), ("decoder", 4, 6)):
        for kind in ("token_ids", "padding_mask"):
            row = left[f"{name}_{kind}"][1]
            row[:] = np.roll(row, size - length)
    a, b = backbone(right), backbone(left)
    name = "decoder_sequence_output"
    np.testing.assert_allclose(a[name][0], b[name][0], atol=2e-5)
    np.testing.assert_allclose(a[name][1, :4], b[name][1, 2:], atol=2e-5)


@pytest.mark.parametrize("kwargs", [{}, SOFTMAX], ids=["luna", "softmax"])
def test_the_future_is_not_seen(kwargs):
    backbone = seq2seq_backbone(**kwargs)
    inputs = batch()
    changed = {k: v.copy() for k, v in inputs.items()}
    changed["decoder_token_ids"][:, 4:] = 5
    name = "decoder_sequence_output"
    a, b = array(backbone(inputs)[name]), array(backbone(changed)[name])
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
    assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-2


def test_a_fully_padded_row_is_finite(backbone):
    inputs = batch((7, 0), (6, 0))
    outputs = backbone(inputs)
    for x in outputs.values():
        assert np.isfinite(array(x)).all()
    alone = backbone({k: v[:1] for k, v in inputs.items()})
    for name, x in alone.items():
        np.testing.assert_allclose(x, outputs[name][:1], atol=2e-5)


@pytest.mark.parametrize("normalize_first", [False, True])
def test_every_weight_has_a_gradient(normalize_first):
    backbone = seq2seq_backbone(normalize_first=normalize_first)
    with tf.GradientTape() as tape:
        outputs = backbone(batch(), training=True)
        loss = tf.reduce_sum(outputs["decoder_sequence_output"] ** 2)
    variables = backbone.trainable_variables
    for v, g in zip(variables, tape.gradient(loss, variables), strict=True):
        assert g is not None, v.path


def test_mixed_precision_is_near():
    name = "decoder_sequence_output"
    exact = seq2seq_backbone()(batch())[name]
    mixed = seq2seq_backbone(dtype="mixed_bfloat16")(batch())[name]
    assert keras.backend.standardize_dtype(mixed.dtype) == "bfloat16"
    difference = np.abs(array(mixed).astype("float32") - array(exact))
    assert difference.mean() < 0.05


def test_lora_trains_its_factors_alone():
    backbone = seq2seq_backbone()
    before = array(backbone(batch())["decoder_sequence_output"])
    backbone.enable_lora(2)
    names = [v.name for v in backbone.trainable_variables]
    # Per block: pack query, query, pack key/value, key/value, in the decoder
    # for the cross attention; causal attention has no pack key/value.
    assert len(names) == 2 * (2 * 4 + 2 * (4 + 3))
    assert all("lora" in name for name in names)
    after = array(backbone(batch())["decoder_sequence_output"])
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_int8_reaches_tokens_and_output_and_is_near():
    model = seq2seq_lm(num_layers=1)
    before = array(model(batch()))
    model.backbone.quantize("int8")
    backbone = model.backbone
    assert backbone.token_embedding.quantization_mode == "int8"
    attention = backbone.decoder_blocks[0].self_attention
    assert attention.query.quantization_mode == "int8"
    difference = np.abs(array(model(batch())) - before)
    assert 0 < difference.mean() < 0.1 * before.std()


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"attention": "mean"}, "`attention` must be one of"),
        ({"share_embeddings": "some"}, "`share_embeddings` must be one of"),
        ({"packed_length": None}, "`packed_length` must be a positive"),
        ({"num_layers": 0}, "`num_layers` must be a positive"),
        (
            {**SOFTMAX, "tie_key_value": False},
            "`tie_key_value` must be True with attention='softmax'",
        ),
        ({"position_embedding": "rope"}, "`position_embedding` must be one"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LunaSeq2SeqBackbone(**{**SMALL, **kwargs})
