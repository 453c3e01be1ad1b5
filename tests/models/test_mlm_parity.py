"""Equality with the authors' masked language model and its heads."""

import functools

import numpy as np
import pytest
from golden_cases import (
    GoldenFile,
    assert_close,
    assert_gradients_close,
    cases,
    formula_weights,
)
from gradients import run
from models.text_models import array
from official import official_gradients

from luna_tf.interop import fairseq
from luna_tf.models import LunaBackbone, LunaMaskedLM, LunaTextClassifier
from luna_tf.models.mlm_architectures import NAMES, architecture

golden = functools.cache(GoldenFile)
PADDING = 1


def sizes(meta):
    return dict(
        vocabulary_size=meta["vocab"],
        num_layers=meta["layers"],
        num_heads=meta["num_heads"],
        hidden_dim=meta["embed_dim"],
        intermediate_dim=meta["ffn_dim"],
        packed_length=meta["projection_length"],
        tie_key_value=meta["tie_kv"],
        activation=meta["activation"],
        dropout=0.0,
        attention_dropout=0.0,
    )


@functools.cache
def masked_lm(name, dynamic=True):
    data = golden(name)
    model = LunaMaskedLM(
        LunaBackbone(
            **sizes(data.meta),
            max_sequence_length=data.meta["max_positions"],
            dynamic_packing=dynamic,
        )
    )
    fairseq.load_weights(
        model, data.weights, layer_norm_offset=data.layer_norm_offset
    )
    return model


def inputs_of(tokens):
    return {
        "token_ids": tokens,
        "padding_mask": (tokens != PADDING).astype("int32"),
    }


def everywhere(tokens):
    places = np.arange(tokens.shape[1], dtype="int32")
    return np.broadcast_to(places, tokens.shape).copy()


@pytest.mark.parametrize("name,case", cases("mlm_*"))
def test_masked_lm(name, case):
    data = golden(name)
    model = masked_lm(name, dynamic=case != "fixproj")
    tokens = data.below(f"{case}/in/")["tokens"]
    expected = data.below(f"{case}/out/")
    inputs = inputs_of(tokens)
    real = tokens != PADDING

    found = model.backbone(inputs)
    x, p = (array(found[k]) for k in ("sequence_output", "packed_output"))
    assert_close(x[real], expected["features"][real], 3e-5)
    rows = expected["packed_features"].shape[1]
    used = np.ones((len(tokens), rows), bool)
    if "projected_padding_mask" in expected:
        used = ~expected["projected_padding_mask"]
    assert_close(p[:, :rows][used], expected["packed_features"][used], 3e-5)
    mask = array(found["packed_padding_mask"])
    np.testing.assert_array_equal(mask[:, :rows], used.astype("int32"))
    assert not mask[:, rows:].any()

    logits = model({**inputs, "mask_positions": everywhere(tokens)})
    assert_close(array(logits)[real], expected["logits"][real], 3e-5)
    hidden = data.below(f"{case}/in/")["masked_tokens"].astype(bool)
    assert_close(array(logits)[hidden], expected["logits_masked_tokens"], 3e-5)


@pytest.mark.parametrize(
    "name,case",
    [p for p in cases("mlm_*") if golden(p[0]).below(f"{p[1]}/cot/")],
)
def test_gradients(name, case):
    data = golden(name)
    model = masked_lm(name, dynamic=case != "fixproj")
    tokens = data.below(f"{case}/in/")["tokens"]

    def logits(**inputs):
        return {"logits": model(inputs)}

    inputs = {**inputs_of(tokens), "mask_positions": everywhere(tokens)}
    variables = model.trainable_variables
    _, _, found = run(logits, variables, inputs, data.below(f"{case}/cot/"))
    got = official_gradients(model, found)
    expected = data.below(f"{case}/gw/")
    unused = data.meta["no_grad"][case]
    for key in unused:
        assert not got[key].any(), key
    got = {k: v for k, v in got.items() if k in expected}
    assert_gradients_close(got, expected, 3e-5)


@pytest.mark.parametrize("case", ["pad", "short"])
def test_pre_norm_encoder_with_segments(case):
    data = golden("sentence_encoder_prenorm_sinusoidal")
    meta = data.meta
    backbone = LunaBackbone(
        **sizes(meta),
        num_pack_heads=meta["num_pheads"],
        normalize_first=True,
        normalize_embeddings=False,
        position_embedding="sinusoidal",
        embedding_scale=meta["embed_dim"] ** 0.5,
        num_segments=meta["num_segments"],
    )
    fairseq.load_weights(
        backbone, data.weights, layer_norm_offset=data.layer_norm_offset
    )
    given = data.below(f"{case}/in/")
    tokens, expected = given["tokens"], data.below(f"{case}/out/")
    found = backbone(
        {**inputs_of(tokens), "segment_ids": given["segment_labels"]}
    )
    real = tokens != PADDING
    x, p = (array(found[k]) for k in ("sequence_output", "packed_output"))
    assert_close(x[real], expected["x"][real], 3e-5)
    rows = expected["proj"].shape[1]
    used = array(found["packed_padding_mask"])[:, :rows] == 1
    assert used.any(axis=1).all()
    assert_close(p[:, :rows][used], expected["proj"][used], 3e-5)


HEADS = {
    "first": "sentence_classification_head",
    "packed": "pooling_classification_head",
    "attention": "attention_classification_head",
}


@functools.cache
def classifier(pooling):
    data = golden("bert_heads_rel2021")
    meta = data.meta
    model = LunaTextClassifier(
        LunaBackbone(**sizes(meta), max_sequence_length=32),
        num_classes=meta["classes"],
        pooling=pooling,
        hidden_dim=meta["inner_dim"],
        dropout=0.0,
    )
    prefixes = (
        "encoder.sentence_encoder.",
        f"classification_heads.{HEADS[pooling]}.",
    )
    weights = {k: v for k, v in data.weights.items() if k.startswith(prefixes)}
    fairseq.load_weights(
        model, weights, layer_norm_offset=data.layer_norm_offset
    )
    return model


@pytest.mark.parametrize("case", ["pad", "nopad"])
@pytest.mark.parametrize("pooling", HEADS)
def test_classification_heads(pooling, case):
    data = golden("bert_heads_rel2021")
    tokens = data.below(f"{case}/in/")["tokens"]
    expected = data.below(f"{case}/out/")[HEADS[pooling]]
    logits = classifier(pooling)(inputs_of(tokens))
    assert_close(array(logits), expected, 3e-5)


def test_official_names_go_both_ways():
    for name in ("mlm_tied", "mlm_untied"):
        data, model = golden(name), masked_lm(name)
        offset = data.layer_norm_offset
        state = fairseq.state_dict(model, layer_norm_offset=offset)
        aliases = data.meta["aliases"]
        assert state.keys() == data.weights.keys() | aliases.keys()
        for key, value in state.items():
            expected = data.weights[aliases.get(key, key)]
            np.testing.assert_allclose(value, expected, atol=1e-6)


def test_bert_initialisation_draws_the_packed_sequence_as_tables():
    model = LunaMaskedLM(
        LunaBackbone(300, 1, 2, 64, 64, 16, max_sequence_length=64)
    )
    fairseq.initialize(model, "bert", seed=1)
    state = fairseq.state_dict(model)
    for name in ("projected_embeddings", "embed_tokens.weight"):
        weights = state[f"encoder.sentence_encoder.{name}"]
        assert abs(weights.std() / 0.02 - 1) < 0.1, name
    assert not state["encoder.lm_head.bias"].any()


COUNTS = {
    "luna_bert": (93_248_256, 769),
    "luna_base_512": (93_248_256, 769),
    "luna_base_tied_512": (93_248_256, 769),
    "luna_base_untied_512": (107_422_464, 769),
    "luna_base_2048": (94_526_208, 769),
    "luna_large_512": (329_262_080, 1025),
    "luna_large_2048": (329_393_152, 1025),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_official_parameter_counts(name):
    fixed, per_token = COUNTS[name]
    model = LunaMaskedLM(LunaBackbone(40, **architecture(name)))
    assert model.count_params() == fixed + 40 * per_token


def test_published_parameter_counts():
    # With the 50,265 tokens of RoBERTa, of which nothing but two tables and a
    # bias depend.
    for name, published in (
        ("luna_base_tied_512", 131_902_041),
        ("luna_base_untied_512", 146_076_249),
    ):
        fixed, per_token = COUNTS[name]
        assert fixed + 50_265 * per_token == published


@pytest.mark.slow
@pytest.mark.parametrize("key", ["bert_base_tied_512", "bert_base_untied_512"])
def test_full_size(key):
    data = golden("fullsize_head")
    model = LunaMaskedLM(LunaBackbone(500, **architecture(f"luna_{key[5:]}")))
    fairseq.load_weights(
        model,
        formula_weights(data.meta, data, key),
        layer_norm_offset=data.layer_norm_offset,
    )
    tokens = data.below(f"{key}/in/")["src_tokens"]
    expected = data.below(f"{key}/out/")
    inputs = inputs_of(tokens)
    real = tokens != PADDING
    places = everywhere(tokens)
    logits = array(model({**inputs, "mask_positions": places}))[..., :16]
    assert_close(logits[real], expected["logits_first16"][real], 1e-4)
    p = array(model.backbone(inputs)["packed_output"])[..., :8]
    assert_close(p, expected["packed_first8"], 1e-4)
