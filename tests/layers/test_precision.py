"""Mixed precision: what must stay in float32, and what 65,536 keys need."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    SLOTS,
    array,
    attention,
    numpy,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaAttention, LunaTransformerBlock

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
POLICIES = pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", "mixed_float16"]
)


def rounded(x, dtype="bfloat16"):
    """`x` rounded to a low precision, as an array of float64."""
    return array(keras.ops.cast(keras.ops.cast(x, dtype), "float32"))


@POLICIES
@ORDERS
def test_mixed_precision_is_close_to_float32(policy, contraction):
    layers = [
        LunaAttention(2, contraction=contraction, dtype=dtype)
        for dtype in ("float32", policy)
    ]
    x, p = sequences()
    masks = None, right_padded([7, 4]), right_padded([2, 3], SLOTS)
    results = []
    for layer in layers:
        layer.build(x.shape, p.shape)
        results.append(randomize(layer)(x, p, *masks))
    for exact, mixed in zip(*results, strict=True):
        dtype = keras.backend.standardize_dtype(mixed.dtype)
        assert dtype == policy.removeprefix("mixed_")
        np.testing.assert_allclose(array(mixed), array(exact), atol=0.05)


@POLICIES
@ORDERS
def test_softmaxes_are_in_float32(policy, contraction):
    layer = LunaAttention(2, contraction=contraction, dtype=policy)
    x, p = sequences(length=200)
    layer.build(x.shape, p.shape)
    randomize(layer)
    *_, pack, unpack = numpy(layer(x, p, return_attention_scores=True))
    for weights in (pack, unpack):
        assert weights.dtype == np.float32
        # Weights rounded to bfloat16 miss 1 by about 1e-3.
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@ORDERS
def test_logits_beyond_the_range_of_float16_are_fine(contraction):
    layer = LunaAttention(1, contraction=contraction, dtype="mixed_float16")
    x, p = sequences()
    layer.build(x.shape, p.shape)
    for weight in layer.weights:
        if weight.name == "kernel":
            weight.assign(np.eye(8).reshape(weight.shape))
    x, p = np.sign(x) * 400, np.sign(p) * 400
    got = numpy(layer(x, p, return_attention_scores=True))
    expected = attention(layer, x, p)
    assert np.abs(np.einsum("btd,bld->btl", x, p)).max() * 8**-0.5 > 65504
    for y, z in zip(got, expected, strict=True):
        np.testing.assert_allclose(array(y), z, rtol=5e-3, atol=1e-3)


@POLICIES
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
def test_block_computes_in_the_compute_dtype(policy, first):
    block = LunaTransformerBlock(6, 2, normalize_first=first, dtype=policy)
    x, p = sequences()
    dtype = policy.removeprefix("mixed_")
    for y in block(x, p):
        assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert {w.dtype for w in block.weights} == {"float32"}
    spec = block.compute_output_spec(
        *(keras.KerasTensor(y.shape) for y in (x, p))
    )
    assert [y.dtype for y in spec] == [dtype] * 2


@POLICIES
def test_gradients_reach_every_weight_in_float32(policy):
    block = LunaTransformerBlock(6, 2, dtype=policy)
    x, p = sequences()
    block.build(x.shape, p.shape)
    _, _, got = gradients.run(
        lambda x, p: dict(zip("xp", block(x, p), strict=True)),
        block.trainable_variables,
        {"x": x, "p": p},
        {"x": x, "p": p},
    )
    for weight, gradient in zip(block.trainable_variables, got, strict=True):
        assert gradient is not None, weight.path
        assert gradient.dtype == np.float32
        assert np.isfinite(gradient).all(), weight.path


KEYS, WIDE = 65536, 8


@pytest.fixture(scope="module")
def many_keys():
    """A layer in bfloat16, 65,536 keys, and the exact packed output."""
    layer = LunaAttention(1, dtype="mixed_bfloat16", use_bias=False)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(1, SLOTS, WIDE))
    # A common offset, as after a ReLU: sums grow, their errors do not cancel.
    x = rng.normal(size=(1, KEYS, WIDE)) + 1
    p, x = rounded(p), rounded(x)
    layer.build((1, 2, WIDE), p.shape, x.shape)
    eye = np.eye(WIDE)[:, None]
    for name in ("pack_query", "pack_key_value"):
        getattr(layer, name).kernel.assign(eye)
    # The query is rounded after scaling, as any projection is.
    q = rounded(rounded(p) * WIDE**-0.5)
    logits = np.einsum("bld,bsd->bls", q, x)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    exact = np.einsum("bls,bsd->bld", weights, x)
    exact /= weights.sum(-1, keepdims=True)
    return layer, p.astype("float32"), x.astype("float32"), logits, exact


def relative_error(got, exact):
    return np.abs(array(got) - exact).max() / np.abs(exact).max()


@ORDERS
def test_65536_keys_in_bfloat16_are_exact_up_to_rounding(
    many_keys, contraction
):
    layer, p, x, _, exact = many_keys
    layer.contraction = contraction
    query = x[:, :2]
    _, packed, pack, _ = layer(query, p, x, return_attention_scores=True)
    assert keras.backend.standardize_dtype(packed.dtype) == "bfloat16"
    assert relative_error(packed, exact) < 2**-8
    np.testing.assert_allclose(array(pack).sum(-1), 1, atol=1e-4)


def test_65536_keys_break_a_softmax_in_bfloat16(many_keys):
    # The bound above means something: the same sums with weights and total in
    # bfloat16, added up in chunks as hardware does, miss it by far.
    *_, x, logits, exact = many_keys
    weights = rounded(np.exp(rounded(logits - logits.max(-1, keepdims=True))))
    values = rounded(weights[..., None] * x[:, None])
    packed, total = np.zeros((1, SLOTS, WIDE)), np.zeros((1, SLOTS, 1))
    for chunk in range(0, KEYS, 64):
        piece = slice(chunk, chunk + 64)
        packed = rounded(packed + values[:, :, piece].sum(2))
        total = rounded(total + weights[..., piece].sum(-1, keepdims=True))
    assert relative_error(packed / total, exact) > 4 * 2**-8
