"""Equality with the authors' code, on vectors that it produced."""

import functools

import gradients
import numpy as np
import pytest
from golden_cases import (
    GoldenFile,
    assert_close,
    assert_gradients_close,
    cases,
)
from official import official_gradients

from luna_tf import LunaAttention, LunaTransformerBlock
from luna_tf.interop import fairseq
from luna_tf.layers import LunaCausalAttention, LunaDecoderBlock

golden = functools.cache(GoldenFile)

# Two of the four modes, each kernel and each compiler once: XLA takes seconds.
MODES = pytest.mark.parametrize(
    "contraction,jit", [("direct", False), ("absorbed", True)]
)


def keep(mask):
    return None if mask is None else ~mask


@MODES
@pytest.mark.parametrize("name,case", cases("mha_*", "edge_*"))
def test_attention(name, case, contraction, jit):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    layer = LunaAttention(
        data.meta["num_heads"],
        num_pack_heads=data.meta["num_pheads"],
        tie_key_value=data.meta["tie_kv"],
        use_bias=data.meta.get("bias", True),
        contraction=contraction,
    )
    context = inputs.get("context")
    layer.build(
        inputs["query"].shape,
        inputs["pquery"].shape,
        None if context is None else context.shape,
    )
    fairseq.load_weights(layer, data.weights)

    def attend(
        query,
        pquery,
        context=None,
        context_padding_mask=None,
        pcontext_padding_mask=None,
    ):
        mask = keep(context_padding_mask)
        where = "query_mask" if context is None else "context_mask"
        output, packed, pack, unpack = layer(
            query,
            pquery,
            context,
            packed_mask=keep(pcontext_padding_mask),
            return_attention_scores=True,
            **{where: mask},
        )
        return {
            "attn": output,
            "pcontext": packed,
            "attn_weights": unpack,
            "pack": pack,
        }

    cotangents = data.below(f"{case}/cot/") or None
    outputs, g_inputs, g_weights = gradients.run(
        attend, layer.trainable_variables, inputs, cotangents, jit
    )
    np.testing.assert_allclose(
        outputs.pop("pack").sum(-1),
        expected_pack_sums(inputs, layer),
        atol=1e-5,
    )
    good = slice(None)
    if name.startswith("edge_"):
        assert all(np.isfinite(x).all() for x in outputs.values())
        good = [0, 2]  # the official result of row 1 is NaN
    for key, expected in data.below(f"{case}/out/").items():
        assert_close(outputs[key][good], expected[good])
    if cotangents:
        assert_gradients_close(g_inputs, data.below(f"{case}/gin/"))
        assert_gradients_close(
            official_gradients(layer, g_weights), data.below(f"{case}/gw/")
        )


def expected_pack_sums(inputs, layer):
    mask = inputs.get("context_padding_mask")
    slots = inputs["pquery"].shape[1]
    sums = np.ones((len(inputs["query"]), layer.num_pack_heads, slots))
    if mask is not None:
        sums *= ~mask.all(1)[:, None, None]
    return sums


@MODES
@pytest.mark.parametrize("name,case", cases("encoder_layer_*"))
def test_encoder_layer(name, case, contraction, jit):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    block = LunaTransformerBlock(
        data.meta["ffn_dim"],
        data.meta["num_heads"],
        num_pack_heads=data.meta["num_pheads"],
        tie_key_value=data.meta["tie_kv"],
        normalize_first=data.meta["normalize_before"],
        activation=data.meta["activation"],
        contraction=contraction,
    )
    block.build(inputs["x"].shape, inputs["px"].shape)
    fairseq.load_weights(
        block, data.weights, layer_norm_offset=data.layer_norm_offset
    )

    def encode(x, px, padding_mask=None, projected_padding_mask=None):
        x, px = block(
            x,
            px,
            padding_mask=keep(padding_mask),
            packed_mask=keep(projected_padding_mask),
        )
        return {"x": x, "px": px}

    outputs, g_inputs, g_weights = gradients.run(
        encode,
        block.trainable_variables,
        inputs,
        data.below(f"{case}/cot/"),
        jit,
    )
    for key, expected in data.below(f"{case}/out/").items():
        assert_close(outputs[key], expected)
    assert_gradients_close(g_inputs, data.below(f"{case}/gin/"))
    assert_gradients_close(
        official_gradients(block, g_weights), data.below(f"{case}/gw/")
    )


@MODES
@pytest.mark.parametrize("name,case", cases("causal_*"))
def test_causal_attention(name, case, contraction, jit):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    layer = LunaCausalAttention(
        data.meta["num_heads"],
        tie_key_value=data.meta["tie_kv"],
        chunk_size=16,
        contraction=contraction,
    )
    layer.build(inputs["query"].shape, inputs["pquery"].shape)
    fairseq.load_weights(layer, data.weights)

    def attend(query, pquery, pkey_padding_mask=None):
        mask = keep(pkey_padding_mask)
        return {"attn": layer(query, pquery, packed_mask=mask)}

    cotangents = data.below(f"{case}/cot/") or None
    outputs, g_inputs, g_weights = gradients.run(
        attend, layer.trainable_variables, inputs, cotangents, jit
    )
    assert_close(outputs["attn"], data.below(f"{case}/out/")["attn"])
    if cotangents:
        assert_gradients_close(g_inputs, data.below(f"{case}/gin/"))
        assert_gradients_close(
            official_gradients(layer, g_weights), data.below(f"{case}/gw/")
        )


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("name,case", cases("causal_*"))
def test_causal_attention_in_steps(name, case, contraction):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    expected = data.below(f"{case}/step/")
    layer = LunaCausalAttention(
        data.meta["num_heads"],
        tie_key_value=data.meta["tie_kv"],
        contraction=contraction,
    )
    layer.build(inputs["query"].shape, inputs["pquery"].shape)
    fairseq.load_weights(layer, data.weights)
    cache = layer.initial_cache(
        inputs["pquery"], keep(inputs.get("pkey_padding_mask"))
    )
    query, steps = inputs["query"], expected["attn"]
    # A prefill, then one by one.
    prefill = max(0, query.shape[1] - 6)
    if prefill:
        output, cache = layer(query[:, :prefill], cache=cache)
        assert_close(output, steps[:, :prefill])
    for t in range(prefill, query.shape[1]):
        output, cache = layer(query[:, t : t + 1], cache=cache)
        assert_close(output, steps[:, t : t + 1])
    state = {
        "prev_pquery": cache["pack_query"],
        "prev_key_accum_mat": cache["key_sums"],
        "prev_value_accum_mat": cache["value_sums"],
    }
    for key, value in state.items():
        assert_close(value, expected[f"state/{key}"], 3e-5)
    counts = expected["state/prev_num_steps"][:, 0]
    np.testing.assert_array_equal(cache["num_tokens"], counts)


def decoder_block(data, inputs, contraction):
    block = LunaDecoderBlock(
        data.meta["ffn_dim"],
        data.meta["num_heads"],
        num_pack_heads=data.meta["num_pheads"],
        tie_key_value=data.meta["tie_kv"],
        normalize_first=data.meta["normalize_before"],
        activation=data.meta["activation"],
        contraction=contraction,
        chunk_size=4,
    )
    names = "x", "px", "encoder_out"
    block.build(*(inputs[name].shape for name in names))
    fairseq.load_weights(
        block, data.weights, layer_norm_offset=data.layer_norm_offset
    )
    return block


@MODES
@pytest.mark.parametrize("name,case", cases("decoder_layer_*"))
def test_decoder_layer(name, case, contraction, jit):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    block = decoder_block(data, inputs, contraction)

    def decode(
        x,
        px,
        encoder_out,
        encoder_padding_mask=None,
        encoder_projected_padding_mask=None,
    ):
        x, px = block(
            x,
            px,
            encoder_out,
            packed_mask=keep(encoder_projected_padding_mask),
            encoder_padding_mask=keep(encoder_padding_mask),
        )
        return {"x": x, "px": px}

    outputs, g_inputs, g_weights = gradients.run(
        decode,
        block.trainable_variables,
        inputs,
        data.below(f"{case}/cot/"),
        jit,
    )
    for key in ("x", "px"):
        assert_close(outputs[key], data.below(f"{case}/out/")[key])
    assert_gradients_close(g_inputs, data.below(f"{case}/gin/"))
    assert_gradients_close(
        official_gradients(block, g_weights), data.below(f"{case}/gw/")
    )


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("name,case", cases("decoder_layer_*"))
def test_decoder_layer_in_steps(name, case, contraction):
    data = golden(name)
    inputs = data.below(f"{case}/in/")
    expected = data.below(f"{case}/step/")
    block = decoder_block(data, inputs, contraction)
    cache, packed = block.initial_cache(
        inputs["px"],
        inputs["encoder_out"],
        keep(inputs.get("encoder_projected_padding_mask")),
        keep(inputs.get("encoder_padding_mask")),
    )
    assert_close(packed, expected["px_first"])
    for t in range(inputs["x"].shape[1]):
        output, cache = block(inputs["x"][:, t : t + 1], cache=cache)
        assert_close(output, expected["x"][:, t : t + 1])
