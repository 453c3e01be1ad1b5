"""`LunaTransformerBlock`: residuals, norms, feed-forward, scores."""

import keras
import numpy as np
import pytest
from layers.luna_reference import (
    LENGTH,
    SLOTS,
    array,
    assert_all_close,
    numpy,
    randomize,
    right_padded,
    sequences,
)
from layers.luna_reference import attention as attention_formula

from luna_tf import LunaTransformerBlock, PackedEmbedding

MASKS = {
    "padding_mask": right_padded([7, 4]),
    "packed_mask": right_padded([2, 3], SLOTS),
}


def make(**kwargs):
    block = LunaTransformerBlock(6, 2, **kwargs)
    x, p = sequences()
    block.build(x.shape, p.shape)
    return randomize(block)


def encode(block, x, p, padding_mask=None, packed_mask=None, epsilon=1e-5):
    """The block in float64 numpy."""

    def norm(layer, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * array(layer.gamma) + array(layer.beta)

    def dense(layer, x):
        return x @ array(layer.kernel) + array(layer.bias)

    def identity(layer, x):
        return x

    before, after = (
        (norm, identity) if block.normalize_first else (identity, norm)
    )
    norms = block.self_attention_layer_norm, block.packed_layer_norm
    y, q, *scores = attention_formula(
        block.self_attention,
        before(norms[0], x),
        before(norms[1], p),
        query_mask=padding_mask,
        packed_mask=packed_mask,
    )
    x, p = after(norms[0], x + y), after(norms[1], p + q)
    last = block.feedforward_layer_norm
    y = dense(block.feedforward_intermediate_dense, before(last, x))
    y = array(block.activation(keras.ops.convert_to_tensor(y)))
    y = dense(block.feedforward_output_dense, y)
    return after(last, x + y), p, *scores


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_equals_the_formulas(contraction, first, tied):
    block = make(
        num_pack_heads=4,
        tie_key_value=tied,
        normalize_first=first,
        contraction=contraction,
        activation="gelu",
    )
    x, p = sequences()
    got = block(x, p, return_attention_scores=True, **MASKS)
    expected = encode(block, x.astype("float64"), p.astype("float64"), **MASKS)
    assert_all_close(got, expected, 2e-5)


def test_layer_norm_epsilon_is_used():
    block = make(layer_norm_epsilon=0.5)
    x, p = sequences()
    expected = encode(
        block, x.astype("float64"), p.astype("float64"), epsilon=0.5
    )
    assert_all_close(block(x, p), expected[:2], 2e-5)


def test_scores_of_both_attentions_on_request():
    block = make(num_pack_heads=4)
    x, p = sequences()
    plain = block(x, p)
    scored = numpy(block(x, p, return_attention_scores=True))
    assert len(plain) == 2
    assert_all_close(plain, scored[:2], 0)
    assert [s.shape for s in scored[2:]] == [
        (2, 4, SLOTS, LENGTH),
        (2, 2, LENGTH, SLOTS),
    ]


def test_symbolic_scores_have_the_shapes_of_eager_ones():
    x, p = keras.Input((None, 8)), keras.Input((SLOTS, 8))
    block = LunaTransformerBlock(6, 2, num_pack_heads=4)
    outputs = block(x, p, return_attention_scores=True)
    assert [y.shape for y in outputs] == [
        (None, None, 8),
        (None, SLOTS, 8),
        (None, 4, SLOTS, None),
        (None, 2, None, SLOTS),
    ]
    got = keras.Model([x, p], outputs)(list(sequences()))
    expected = block(*sequences(), return_attention_scores=True)
    assert_all_close(got, expected, 1e-6)


def test_initializers_reach_every_kernel_and_bias():
    block = LunaTransformerBlock(
        6, 2, kernel_initializer="ones", bias_initializer="ones"
    )
    block(*sequences())
    for weight in block.weights:
        if "layer_norm" not in weight.path:
            assert (array(weight) == 1).all(), weight.path


def test_a_new_block_is_trainable_in_every_weight():
    block = LunaTransformerBlock(6, 2, tie_key_value=False)
    block(*sequences())
    assert len(block.trainable_variables) == len(block.weights) == 14 + 6 + 4


def test_packed_length_may_change_between_calls():
    # Nothing in the block has the length of p.
    block = make()
    for slots in (1, 5):
        x, p = sequences(slots=slots)
        assert block(x, p)[1].shape == (2, slots, 8)


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
def test_fit_learns_and_misses_no_gradient(contraction):
    # Keras warns about variables without gradients, and warnings are errors
    # here: the untied key biases, which a softmax cancels, must have one.
    keras.utils.set_random_seed(0)
    x = keras.Input((5, 8))
    block = LunaTransformerBlock(
        16, 2, tie_key_value=False, contraction=contraction
    )
    y, p = block(x, PackedEmbedding(3)(x))
    pooled = keras.layers.Concatenate()([y[:, -1], p[:, 0]])
    model = keras.Model(x, keras.layers.Dense(1)(pooled))
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    data = sequences(64, length=5)[0]
    # The mean over the sequence: only attention brings it to the last token.
    target = data.mean(axis=1)[:, :1] * 3
    history = model.fit(data, target, epochs=20, batch_size=16, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    for weight in model.weights:
        if weight.path.endswith(("pack_key/bias", "attention/key/bias")):
            assert not array(weight).any(), weight.path
