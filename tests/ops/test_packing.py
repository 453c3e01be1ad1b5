"""Pack and unpack as functions: both orders, precision, the cost rule."""

import functools

import keras
import numpy as np
import pytest

from luna_tf.ops import (
    choose_contraction,
    masked_softmax,
    pack_absorbed,
    pack_direct,
    unpack_absorbed,
    unpack_direct,
)

B, S, L, H, K, D = 2, 7, 3, 2, 4, 6


@functools.cache
def draw():
    rng = np.random.default_rng(0)
    shapes = {
        "x": (B, S, D),
        "q": (B, L, H, K),
        "p": (B, L, H, K),
        "w_k": (D, H, K),
        "w_v": (D, H, K),
        "b": (H, K),
        "w_o": (H, K, D),
    }
    return {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in shapes.items()
    }


MASK = np.arange(S)[None] < np.array([[7], [4]])


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(
        numpy(a), numpy(b), rtol=tolerance, atol=tolerance
    )


def test_masked_softmax_is_a_softmax():
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    close(masked_softmax(logits), softmax(logits), 1e-6)


def test_masked_softmax_is_exactly_zero_where_masked():
    mask = np.array([[True, False, True]])
    got = numpy(masked_softmax(np.array([[1.0, 99.0, 2.0]], "float32"), mask))
    assert got[0, 1] == 0
    close(got[:, [0, 2]], softmax(np.array([[1.0, 2.0]])), 1e-6)


def test_masked_softmax_of_an_empty_row_is_zero():
    mask = np.array([[False, False], [True, True]])
    got = numpy(masked_softmax(np.zeros((2, 2), "float32"), mask))
    np.testing.assert_array_equal(got, [[0, 0], [0.5, 0.5]])


def test_masked_softmax_of_huge_logits_is_finite():
    logits = np.array([[1e30, -1e30, 3e38], [-3e38, -3e38, -3e38]], "float32")
    got = numpy(masked_softmax(logits))
    np.testing.assert_allclose(got, [[0, 0, 1], [1 / 3] * 3], rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_pack_orders_agree(masked, bias):
    a = draw()
    mask = MASK if masked else None
    value_bias = a["b"] if bias else None
    key = np.einsum("bsd,dhk->bshk", a["x"], a["w_k"])
    value = np.einsum("bsd,dhk->bshk", a["x"], a["w_v"])
    # Any bias of the key: a softmax does not see it.
    key = key + a["b"] if bias else key
    value = value + a["b"] if bias else value
    direct, scores = pack_direct(a["q"], key, value, mask)
    absorbed, scores_2 = pack_absorbed(
        a["q"], a["x"], a["w_k"], a["w_v"], value_bias, mask
    )
    close(direct, absorbed)
    close(scores(), scores_2())
    logits = np.einsum("blhk,bshk->bhls", a["q"], key)
    if masked:
        logits = np.where(MASK[:, None, None], logits, -np.inf)
    close(scores(), softmax(logits))
    close(direct, np.einsum("bhls,bshk->blhk", softmax(logits), value))


@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_unpack_orders_agree(masked, bias):
    a = draw()
    mask = MASK[:, -L:] if masked else None
    query_bias = a["b"] if bias else None
    query = np.einsum("btd,dhk->bthk", a["x"], a["w_k"])
    query = (query + a["b"] if bias else query) * 0.5
    direct, scores = unpack_direct(query, a["q"], a["p"], mask)
    direct = np.einsum("bthk,hkd->btd", numpy(direct), a["w_o"])
    absorbed, scores_2 = unpack_absorbed(
        a["x"], a["w_k"], query_bias, a["q"], a["p"], a["w_o"], 0.5, mask
    )
    close(direct, absorbed)
    close(scores(), scores_2())
    logits = np.einsum("bthk,blhk->bhtl", query, a["q"])
    if masked:
        keep = mask[:, None, None]
        weights = np.where(keep, np.exp(logits), 0)
        total = weights.sum(-1, keepdims=True)
        expected = weights / np.where(total > 0, total, 1)
    else:
        expected = softmax(logits)
    close(scores(), expected)


@pytest.mark.parametrize("order", ["direct", "absorbed"])
def test_pack_scores_are_before_dropout(order):
    a = draw()

    def drop(weights):
        return weights * 0

    if order == "direct":
        x = a["x"].reshape(B, S, 1, D)[..., :K].repeat(H, 2)
        values, scores = pack_direct(a["q"], x, x, dropout=drop)
    else:
        values, scores = pack_absorbed(
            a["q"], a["x"], a["w_k"], a["w_v"], dropout=drop
        )
    assert not numpy(values).any()
    close(numpy(scores()).sum(-1), np.ones((B, H, L)))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_pack_orders_agree_under_dropout(bias):
    # The value bias is weighted by what is left of the weights, in both.
    a = draw()
    keep = np.random.default_rng(1).integers(0, 2, (B, H, L, S)) * 2.0
    keep[0, 0, 0] = 0
    keep = keep.astype("float32")
    value_bias = a["b"] if bias else None
    key = np.einsum("bsd,dhk->bshk", a["x"], a["w_k"])
    value = np.einsum("bsd,dhk->bshk", a["x"], a["w_v"])
    value = value + a["b"] if bias else value
    direct, _ = pack_direct(
        a["q"], key, value, MASK, lambda weights: weights * keep
    )
    absorbed, _ = pack_absorbed(
        a["q"],
        a["x"],
        a["w_k"],
        a["w_v"],
        value_bias,
        MASK,
        lambda weights: weights * keep.reshape(B, H * L, S),
    )
    close(direct, absorbed)
    assert not numpy(direct)[0, 0, 0].any()


def rounded(dtype):
    """The arrays in a low precision, and their exact values in float64."""
    low = {k: keras.ops.cast(v * 3, dtype) for k, v in draw().items()}
    exact = {
        k: numpy(keras.ops.cast(v, "float32")).astype("float64")
        for k, v in low.items()
    }
    return low, exact


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_and_softmax_are_in_float32(dtype):
    # Logits of up to a few hundred: in bfloat16 their spacing would be 1.
    a, e = rounded(dtype)
    q, k = e["q"], e["p"]
    pack = softmax(np.einsum("blhk,bshk->bhls", q, k))
    folded = softmax(
        np.einsum(
            "blhk,bshk->bhls", q, np.einsum("bsd,dhk->bshk", e["x"], e["w_k"])
        )
    )
    query = np.einsum("btd,dhk->bthk", e["x"], e["w_k"]) + e["b"]
    unfolded = softmax(np.einsum("bthk,blhk->bhtl", query, e["q"]))
    got = {
        "pack_direct": pack_direct(a["q"], a["p"], a["p"]),
        "pack_absorbed": pack_absorbed(a["q"], a["x"], a["w_k"], a["w_v"]),
        "unpack_direct": unpack_direct(a["q"], a["p"], a["p"]),
        "unpack_absorbed": unpack_absorbed(
            a["x"], a["w_k"], a["b"], a["q"], a["p"], a["w_o"], 1.0
        ),
    }
    expected = {
        "pack_direct": pack,
        "pack_absorbed": folded,
        "unpack_direct": pack,
        "unpack_absorbed": unfolded,
    }
    for name, (output, scores) in got.items():
        assert keras.backend.standardize_dtype(output.dtype) == dtype, name
        weights = scores()
        assert keras.backend.standardize_dtype(weights.dtype) == "float32"
        np.testing.assert_allclose(
            numpy(weights), expected[name], atol=1e-4, err_msg=name
        )


def test_choose_contraction_counts_multiply_adds():
    for width in (8, 64):
        for context_width in (8, 64):
            for heads in (1, 2, 8):
                for slots in (1, 4, 32):
                    for r in (1, 2):
                        direct = r * context_width * width + 2 * slots * width
                        absorbed = 2 * heads * slots * context_width
                        assert choose_contraction(
                            width, heads, slots, r, context_width
                        ) == ("absorbed" if absorbed < direct else "direct")


def test_choose_contraction_of_the_official_models():
    # 512 wide, 8 heads, 16 slots: the LRA models.
    assert choose_contraction(512, 8, 16, 2) == "absorbed"
    # 1024 wide, 16 heads, 128 slots.
    assert choose_contraction(1024, 16, 128, 2) == "direct"


def test_an_unknown_packed_length_is_direct():
    assert choose_contraction(512, 8, None, 2) == "direct"
