"""Equality with the authors' translation models, on vectors they produced."""

import functools

import keras
import numpy as np
import pytest
from golden_cases import (
    GoldenFile,
    assert_close,
    cases,
    formula_weights,
    names,
)
from models.text_models import array

from luna_tf.interop import fairseq
from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM

golden = functools.cache(GoldenFile)
PADDING, END = 1, 2
CASES = [pair for pair in cases("nmt_*") if pair[1] != "greedy"]


@functools.cache
def official_model(name):
    """Our model with configuration and weights of a golden file."""
    data = golden(name)
    meta, options = data.meta, data.meta["options"]
    sharing = "none"
    if options.get("share_decoder_input_output_embed"):
        sharing = "decoder"
    if options.get("share_all_embeddings"):
        sharing = "all"
    learned = options.get("encoder_learned_pos")
    model = LunaSeq2SeqLM(
        LunaSeq2SeqBackbone(
            vocabulary_size=meta["vocab"],
            num_layers=meta["encoder_layers"],
            num_heads=meta["encoder_heads"],
            hidden_dim=meta["embed_dim"],
            intermediate_dim=meta["ffn_dim"],
            packed_length=meta["projection_length"],
            num_decoder_layers=meta["decoder_layers"],
            num_pack_heads=meta["encoder_pheads"],
            num_decoder_heads=meta["decoder_heads"],
            num_decoder_pack_heads=meta["decoder_pheads"],
            tie_key_value=not options.get("untie_luna_kv", False),
            dropout=0.0,
            normalize_first=options.get("encoder_normalize_before", False),
            position_embedding="learned" if learned else "sinusoidal",
            max_sequence_length=64,
            embedding_scale=1.0 if options.get("no_scale_embedding") else None,
            normalize_embeddings=options.get("layernorm_embedding", False),
            dynamic_packing=not options.get("fix_projection_length", False),
            share_embeddings=sharing,
        )
    )
    fairseq.load_weights(
        model, data.weights, layer_norm_offset=data.layer_norm_offset
    )
    return model


def model_inputs(data, case):
    inputs = data.below(f"{case}/in/")
    source, target = inputs["src_tokens"], inputs["prev_output_tokens"]
    return {
        "encoder_token_ids": source,
        "encoder_padding_mask": (source != PADDING).astype("int32"),
        "decoder_token_ids": target,
        "decoder_padding_mask": (target != PADDING).astype("int32"),
    }


@pytest.mark.parametrize("name,case", CASES)
def test_teacher_forced_outputs(name, case):
    data, model = golden(name), official_model(name)
    inputs = model_inputs(data, case)
    # The official code leaves values at padding, which nobody reads.
    source = inputs["encoder_padding_mask"] == 1
    target = inputs["decoder_padding_mask"] == 1
    expected = data.below(f"{case}/out/")
    assert_close(array(model(inputs))[target], expected["logits"][target], 3e-5)

    backbone = model.backbone
    embedded = backbone.decoder_embedding(
        inputs["decoder_token_ids"], padding_mask=target
    )
    inner = [embedded]
    encoded, p = backbone.encode(inputs["encoder_token_ids"], source)
    assert_close(array(encoded)[source], expected["encoder_out"][source], 3e-5)
    rows = expected["encoder_projected_out"].shape[1]
    used = np.ones((len(source), rows), bool)
    if "encoder_projected_padding_mask" in expected:
        used = ~expected["encoder_projected_padding_mask"]
    assert_close(
        array(p)[:, :rows][used], expected["encoder_projected_out"][used], 3e-5
    )
    for block in backbone.decoder_blocks:
        x, p = block(inner[-1], p, encoded)
        inner.append(x)
    for k, x in enumerate(inner):
        want = expected[f"decoder_inner_{k}"]
        assert_close(array(x)[target], want[target], 3e-5)


@pytest.mark.parametrize(
    "name,case",
    [pair for pair in CASES if golden(pair[0]).below(f"{pair[1]}/step/")],
)
def test_step_logits(name, case):
    data, model = golden(name), official_model(name)
    inputs = model_inputs(data, case)
    cache = model.initial_cache(
        inputs["encoder_token_ids"],
        inputs["encoder_padding_mask"],
        max_length=16,
    )
    for t, token_ids in enumerate(inputs["decoder_token_ids"].T):
        logits, cache = model.next_logits(token_ids[:, None], cache, t)
        want = data.below(f"{case}/step/")["logits"][:, t : t + 1]
        assert_close(array(logits), want, 3e-5)


@pytest.mark.parametrize("name", names("nmt_*"))
def test_greedy_tokens(name):
    data, model = golden(name), official_model(name)
    source = data.below("greedy/in/")["src_tokens"]
    expected = data.below("greedy/out/")["tokens"]
    prompt = np.full_like(expected, PADDING)
    prompt[:, 0] = END
    model.compile(sampler="greedy")
    outputs = model.generate(
        {
            "encoder_token_ids": source,
            "encoder_padding_mask": (source != PADDING).astype("int32"),
            "decoder_token_ids": prompt,
            "decoder_padding_mask": (prompt == END).astype("int32"),
        },
        stop_token_ids=None,  # nor does the official run stop
    )
    np.testing.assert_array_equal(outputs["decoder_token_ids"], expected)


@pytest.mark.parametrize("name", names("nmt_*"))
def test_official_names_go_both_ways(name):
    data, model = golden(name), official_model(name)
    offset = data.layer_norm_offset
    state = fairseq.state_dict(model.backbone, layer_norm_offset=offset)
    aliases = data.meta.get("aliases", {})
    assert state.keys() == data.weights.keys() | aliases.keys()
    for key, array_ in state.items():
        expected = data.weights[aliases.get(key, key)]
        np.testing.assert_allclose(array_, expected, atol=1e-6)
    fairseq.load_weights(model, state, layer_norm_offset=offset)


def test_tied_entries_must_be_equal():
    model = official_model("nmt_tied_post")
    state = fairseq.state_dict(model)
    name = "decoder.output_projection.weight"
    state[name] = state[name] + 1
    with pytest.raises(ValueError, match="not equal: decoder.output_proj"):
        fairseq.load_weights(model, state)


def test_official_initialisation():
    model = LunaSeq2SeqBackbone(
        600, 1, 2, 64, 64, 8, share_embeddings="none", normalize_first=True
    )
    fairseq.initialize(model, seed=1)
    state = fairseq.state_dict(model)
    for name in (
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.output_projection.weight",
    ):
        assert abs(state[name].std() * 8 - 1) < 0.02, name
    bound = (3 / 128) ** 0.5
    for name in ("self_attn.pc_proj", "encoder_attn.pc_proj"):
        peak = np.abs(state[f"decoder.layers.0.{name}.weight"]).max()
        assert 0.95 * bound < peak <= bound
    assert (state["decoder.proj_layer_norm.weight"] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key,fixed",
    [("nmt_base_tied", 48_894_976), ("nmt_base_untied", 56_774_656)],
)
def test_full_size(key, fixed):
    data = golden("fullsize_head")
    vocabulary_size = 500
    backbone = LunaSeq2SeqBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=6,
        num_heads=8,
        hidden_dim=512,
        intermediate_dim=2048,
        packed_length=32,
        tie_key_value=key == "nmt_base_tied",
    )
    count = backbone.count_params()
    assert count == fixed + 512 * vocabulary_size
    assert count == data.meta["models"][key]["parameter_count"]
    fairseq.load_weights(
        backbone,
        formula_weights(data.meta, data, key),
        layer_norm_offset=data.layer_norm_offset,
    )
    inputs = model_inputs(data, key)
    x = backbone(inputs)["decoder_sequence_output"]
    x = keras.ops.copy(x)
    logits = array(backbone.token_embedding(x, reverse=True))
    real = inputs["decoder_padding_mask"] == 1
    expected = data.below(f"{key}/out/")
    assert_close(logits[..., :16][real], expected["logits_first16"][real], 3e-5)
    np.testing.assert_array_equal(
        logits.argmax(-1)[real], expected["argmax"][real]
    )
