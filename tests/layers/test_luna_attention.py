"""`LunaAttention`: values, attention scores, gradients of cancelled biases."""

import gradients
import numpy as np
import pytest
from layers.luna_reference import (
    LENGTH,
    SLOTS,
    WIDTH,
    array,
    assert_all_close,
    attention,
    numpy,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaAttention

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
HEADS = pytest.mark.parametrize("heads,pack_heads", [(2, 4), (4, 1), (2, None)])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def inputs(cross, masked):
    x, p = sequences()
    result = {"query": x, "packed": p}
    if cross:
        # Another length and another width than the query's.
        result["context"] = sequences(length=5, width=6, seed=1)[0]
    if masked:
        result["query_mask"] = right_padded([7, 4])
        result["packed_mask"] = right_padded([2, 3], SLOTS)
        if cross:
            result["context_mask"] = right_padded([3, 5], 5)
    return result


def built(layer, given):
    context = given.get("context")
    layer.build(
        given["query"].shape,
        given["packed"].shape,
        None if context is None else context.shape,
    )
    return randomize(layer)


@ORDERS
@TIED
@HEADS
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
def test_equals_the_formulas(
    contraction, tied, heads, pack_heads, cross, masked
):
    layer = LunaAttention(
        heads,
        num_pack_heads=pack_heads,
        tie_key_value=tied,
        contraction=contraction,
    )
    given = inputs(cross, masked)
    built(layer, given)
    got = layer(**given, return_attention_scores=True)
    assert_all_close(got, attention(layer, **given))


@ORDERS
def test_without_bias(contraction):
    layer = LunaAttention(2, use_bias=False, contraction=contraction)
    given = inputs(cross=False, masked=True)
    built(layer, given)
    assert {w.name for w in layer.weights} == {"kernel"}
    got = layer(**given, return_attention_scores=True)
    assert_all_close(got, attention(layer, **given))


@ORDERS
def test_scores_of_both_attentions_on_request(contraction):
    layer = LunaAttention(2, num_pack_heads=4, contraction=contraction)
    given = inputs(cross=True, masked=True)
    built(layer, given)
    plain = layer(**given)
    output, packed, pack, unpack = numpy(
        layer(**given, return_attention_scores=True)
    )
    assert len(plain) == 2
    assert_all_close(plain, (output, packed), 0)
    assert pack.shape == (2, 4, SLOTS, 5)
    assert unpack.shape == (2, 2, LENGTH, SLOTS)
    np.testing.assert_allclose(pack.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(unpack.sum(-1), 1, rtol=1e-6)
    assert not pack[0, ..., 3:].any() and pack[0, ..., :3].all()
    assert not unpack[0, ..., 2:].any() and unpack[0, ..., :2].all()


def test_tying_shares_one_projection_in_each_attention():
    x, p = sequences()
    counts = {}
    for tied in (True, False):
        layer = LunaAttention(2, tie_key_value=tied)
        layer(x, p)
        counts[tied] = layer.count_params()
    one = WIDTH * WIDTH + WIDTH
    assert counts == {True: 5 * one, False: 7 * one}


def test_sublayers_do_not_start_out_equal():
    layer = LunaAttention(
        2, tie_key_value=False, kernel_initializer="he_normal"
    )
    layer(*sequences())
    kernels = [array(w).ravel() for w in layer.weights if w.name == "kernel"]
    assert len({tuple(kernel) for kernel in kernels}) == 7


@ORDERS
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
def test_cancelled_key_biases_get_a_gradient_of_exactly_zero(contraction, jit):
    # A softmax does not see the bias of its keys. Rounding noise in place of
    # zero would be blown up to full steps by Adam.
    layer = LunaAttention(2, tie_key_value=False, contraction=contraction)
    x, p = sequences()
    layer.build(x.shape, p.shape)
    randomize(layer)
    rng = np.random.default_rng(1)
    cotangents = {
        "x": rng.normal(size=x.shape).astype("float32"),
        "p": rng.normal(size=p.shape).astype("float32"),
    }
    _, _, got = gradients.run(
        lambda x, p: dict(zip("xp", layer(x, p), strict=True)),
        layer.trainable_variables,
        {"x": x, "p": p},
        cotangents,
        jit,
    )
    zero = {
        variable.path.split("/", 1)[1]
        for variable, gradient in zip(
            layer.trainable_variables, got, strict=True
        )
        if not np.any(gradient)
    }
    assert zero == {"pack_key/bias", "key/bias"}


def test_regularizers_and_constraints_reach_every_projection():
    layer = LunaAttention(
        2,
        tie_key_value=False,
        kernel_regularizer="l2",
        bias_regularizer="l1",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
    )
    layer(*sequences())
    assert len(layer.losses) == 14
    for weight in layer.trainable_variables:
        expected = "NonNeg" if weight.name == "kernel" else "MaxNorm"
        assert type(weight.constraint).__name__ == expected


@pytest.mark.parametrize("contraction", ["direct", "absorbed", "auto"])
def test_activity_regularizer_sees_every_projection(contraction):
    # Also where the absorbed order would not form the projected tensors.
    layer = LunaAttention(
        2,
        tie_key_value=False,
        activity_regularizer="l2",
        contraction=contraction,
    )
    given = inputs(cross=False, masked=False)
    built(layer, given)
    got = layer(**given, return_attention_scores=True)
    assert len(layer.losses) == 7
    assert_all_close(got, attention(layer, **given))


def test_constant_initializers_are_used():
    layer = LunaAttention(2, kernel_initializer="ones", bias_initializer="ones")
    layer(*sequences())
    assert all((array(w) == 1).all() for w in layer.weights)
