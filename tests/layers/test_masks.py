"""Padding: explicit and travelling masks, empty rows, batch mates."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    LENGTH,
    SLOTS,
    WIDTH,
    array,
    assert_all_close,
    numpy,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaAttention, LunaTransformerBlock, PackedEmbedding
from luna_tf.layers import _masks

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
X_MASK = right_padded([7, 4])
P_MASK = right_padded([2, 3], SLOTS)


def attention(contraction="auto", **kwargs):
    layer = LunaAttention(2, contraction=contraction, **kwargs)
    x, p = sequences()
    layer.build(x.shape, p.shape)
    return randomize(layer)


def blocks(contraction="auto", number=3, **kwargs):
    x, p = sequences()
    result = []
    for index in range(number):
        block = LunaTransformerBlock(6, 2, contraction=contraction, **kwargs)
        block.build(x.shape, p.shape)
        result.append(randomize(block, seed=index))
    return result


def with_mask(x, mask):
    return _masks.set_mask(
        keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(mask)
    )


@ORDERS
def test_travelling_masks_act_like_explicit_ones(contraction):
    layer = attention(contraction)
    x, p = sequences()
    context = sequences(seed=3)[0]
    explicit = layer(
        x, p, context, X_MASK, P_MASK, ~X_MASK, return_attention_scores=True
    )
    travelling = layer(
        with_mask(x, X_MASK),
        with_mask(p, P_MASK),
        with_mask(context, ~X_MASK),
        return_attention_scores=True,
    )
    assert_all_close(travelling, explicit, 0)
    open_ = layer(x, p, context)
    assert np.abs(array(open_[0]) - array(explicit[0])).max() > 1e-3


def test_an_explicit_mask_wins_over_a_travelling_one():
    layer = attention()
    x, p = sequences()
    got = layer(
        with_mask(x, ~X_MASK),
        with_mask(p, ~P_MASK),
        query_mask=X_MASK,
        packed_mask=P_MASK,
    )
    assert_all_close(got, layer(x, p, None, X_MASK, P_MASK), 0)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "int64"])
def test_integer_masks_mean_nonzero_is_keep(dtype):
    layer, (block,) = attention(), blocks(number=1)
    x, p = sequences()
    masks = X_MASK, P_MASK
    numbers = [(mask * 2).astype(dtype) for mask in masks]
    assert_all_close(layer(x, p, None, *numbers), layer(x, p, None, *masks), 0)
    assert_all_close(block(x, p, *numbers), block(x, p, *masks), 0)


def test_attention_attaches_both_masks_to_its_outputs():
    x, p = sequences()
    output, packed = attention()(x, p, None, X_MASK, P_MASK)
    np.testing.assert_array_equal(array(_masks.get_mask(output)), X_MASK)
    np.testing.assert_array_equal(array(_masks.get_mask(packed)), P_MASK)


def test_without_masks_none_are_attached():
    x, p = sequences()
    for layer in (attention(), *blocks(number=1)):
        assert [_masks.get_mask(y) for y in layer(x, p)] == [None, None]


def test_keras_masks_survive_three_blocks_eagerly():
    x, p = with_mask(sequences()[0], X_MASK), with_mask(sequences()[1], P_MASK)
    for block in blocks():
        x, p = block(x, p)
        np.testing.assert_array_equal(array(_masks.get_mask(x)), X_MASK)
        np.testing.assert_array_equal(array(_masks.get_mask(p)), P_MASK)


def embedded_stack(stack, dynamic=True):
    """Functional model: token ids with padding 0, p, then the blocks."""
    ids = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(9, WIDTH, mask_zero=True)
    packed = PackedEmbedding(SLOTS, dynamic=dynamic)
    x = embedding(ids)
    p = packed(x)
    masks = []
    for block in stack:
        x, p = block(x, p)
        masks += [_masks.get_mask(x), _masks.get_mask(p)]
    return keras.Model(ids, [x, p]), embedding, packed, masks


IDS = np.array([[5, 3, 0, 0, 0], [1, 2, 3, 4, 5]])


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "fixed"])
def test_keras_masks_survive_three_blocks_symbolically(dynamic):
    stack = blocks()
    model, embedding, packed, masks = embedded_stack(stack, dynamic)
    assert [mask is None for mask in masks] == [False, not dynamic] * 3
    # The masks that travel are the right ones: same result as explicit ones.
    got = model(IDS)
    x, p = array(embedding(IDS)), array(packed(embedding(IDS)))
    x, p = x.astype("float32"), p.astype("float32")
    x_mask = IDS != 0
    p_mask = right_padded([2, 5], SLOTS) if dynamic else None
    for block in stack:
        x, p = numpy(block(x, p, padding_mask=x_mask, packed_mask=p_mask))
    assert_all_close(got, (x, p), 1e-6)


@ORDERS
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
def test_a_padded_batch_equals_each_row_truncated(contraction, first):
    # The first row has two tokens, fewer than slots.
    model, *_ = embedded_stack(blocks(contraction, normalize_first=first))
    x, p = (array(y) for y in model(IDS))
    x_0, p_0 = (array(y) for y in model(IDS[:1, :2]))
    x_1, p_1 = (array(y) for y in model(IDS[1:]))
    assert_all_close((x[:1, :2], p[:1, :2]), (x_0, p_0[:, :2]))
    assert_all_close((x[1:], p[1:]), (x_1, p_1))


@ORDERS
def test_an_example_never_depends_on_its_batch_mates(contraction):
    model, *_ = embedded_stack(blocks(contraction))
    longer = np.array([[5, 3, 0, 0, 0], [7, 0, 0, 0, 0], [8] * 5])
    for mine, others in zip(model(IDS), model(longer), strict=True):
        assert_all_close([mine[:1]], [others[:1]], 1e-6)


@ORDERS
def test_masked_content_is_never_read(contraction):
    layer = attention(contraction)
    x, p = sequences()
    context = sequences(seed=3)[0]
    garbage = np.where(X_MASK[..., None], context, 1e6).astype("float32")
    assert_all_close(
        layer(x, p, garbage, context_mask=X_MASK),
        layer(x, p, context, context_mask=X_MASK),
    )


EMPTY_X = right_padded([7, 0])
EMPTY_P = right_padded([0, 3], SLOTS)


@ORDERS
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fully_padded_rows_have_zero_weights(contraction, policy):
    layer = attention(contraction, tie_key_value=False, dtype=policy)
    x, p = sequences()
    output, packed, pack, unpack = numpy(
        layer(x, p, None, EMPTY_X, EMPTY_P, return_attention_scores=True)
    )
    assert not pack[1].any() and pack[0].all()
    assert not unpack[0].any() and unpack[1].all()
    # What is left is the sum of nothing, plus the bias of the output.
    assert not packed[1].any()
    bias = numpy(keras.ops.cast(layer.attention_output.bias, output.dtype))
    np.testing.assert_array_equal(output[0], np.tile(bias, (LENGTH, 1)))
    assert np.isfinite(output.astype("float32")).all()


@ORDERS
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
def test_fully_padded_rows_have_finite_gradients(contraction, jit):
    # Row 0 has no slots left, row 1 no keys, row 2 is good.
    layer = attention(contraction)
    x, p = sequences(batch=3)
    masks = [right_padded([7, 0, 5]), right_padded([0, 3, 2], SLOTS)]
    ones = {"x": np.ones_like(x), "p": np.ones_like(p)}

    def attend(rows):
        def function(x, p):
            given = [mask[rows] for mask in masks]
            outputs = layer(x, p, None, *given)
            return dict(zip("xp", outputs, strict=True))

        return gradients.run(
            function,
            layer.trainable_variables,
            {"x": x[rows], "p": p[rows]},
            {key: value[rows] for key, value in ones.items()},
            jit,
        )

    outputs, g_inputs, g_weights = attend(slice(0, 3))
    for y in (*outputs.values(), *g_inputs.values(), *g_weights):
        assert np.isfinite(y).all()
    if not jit:  # the good row is what it is alone
        alone, g_alone, _ = attend(slice(2, 3))
        for got, expected in ((outputs, alone), (g_inputs, g_alone)):
            for key in "xp":
                np.testing.assert_allclose(
                    got[key][2:], expected[key], rtol=1e-5, atol=1e-5
                )


@ORDERS
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
def test_fully_padded_rows_leave_a_stack_of_blocks_finite(contraction, first):
    stack = blocks(contraction, normalize_first=first)
    x, p = sequences()

    def encode(x, p):
        for block in stack:
            x, p = block(x, p, EMPTY_X, EMPTY_P)
        return {"x": x, "p": p}

    outputs, g_inputs, g_weights = gradients.run(
        encode,
        [v for block in stack for v in block.trainable_variables],
        {"x": x, "p": p},
        {"x": np.ones_like(x), "p": np.ones_like(p)},
    )
    for y in (*outputs.values(), *g_inputs.values(), *g_weights):
        assert np.isfinite(y).all()
