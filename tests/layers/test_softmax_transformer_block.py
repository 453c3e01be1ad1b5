"""`SoftmaxTransformerBlock`: what differs from Luna's block, and what not."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    array,
    assert_all_close,
    randomize,
    right_padded,
    sequences,
    softmax,
)

from luna_tf.layers import LunaTransformerBlock, _masks
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock

X = sequences()[0]
MASK = right_padded([7, 4])
PRE_AND_POST = pytest.mark.parametrize(
    "first", [False, True], ids=["post", "pre"]
)


def make(**kwargs):
    block = SoftmaxTransformerBlock(6, 2, **kwargs)
    block.build(X.shape)
    return randomize(block)


def encode(block, x, mask):
    """The block in float64 numpy."""

    def norm(layer, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * array(layer.gamma) + array(layer.beta)

    def dense(layer, x):
        return x @ array(layer.kernel) + array(layer.bias)

    def attention(x):
        # Query, key, value, output: kernel and bias of each.
        weights = [array(w) for w in block.self_attention.weights]
        q, k, v = (
            np.einsum("btd,dhk->bhtk", x, weights[i])
            + weights[i + 1][:, None, :]
            for i in (0, 2, 4)
        )
        logits = np.einsum("bhtk,bhsk->bhts", q, k) * q.shape[-1] ** -0.5
        shares = softmax(logits, mask[:, None, None, :])
        y = np.einsum("bhts,bhsk->bthk", shares, v)
        return np.einsum("bthk,hkd->btd", y, weights[6]) + weights[7]

    def feedforward(x):
        x = dense(block.feedforward_intermediate_dense, x)
        x = array(block.activation(keras.ops.convert_to_tensor(x)))
        return dense(block.feedforward_output_dense, x)

    for inner, layer in (
        (attention, block.self_attention_layer_norm),
        (feedforward, block.feedforward_layer_norm),
    ):
        if block.normalize_first:
            x = x + inner(norm(layer, x))
        else:
            x = norm(layer, x + inner(x))
    return x


def step(block, x=X, mask=MASK, jit=False):
    """Output, gradient of the input, gradients of the weights, in training."""
    outputs, g_inputs, g_weights = gradients.run(
        lambda x: {"y": block(x, padding_mask=mask, training=True)},
        block.trainable_variables,
        {"x": x},
        {"y": X},
        jit,
    )
    return [outputs["y"], g_inputs["x"], *g_weights]


# === What it computes ===


@PRE_AND_POST
def test_equals_the_formulas(first):
    block = make(normalize_first=first, activation="gelu")
    got = block(X, padding_mask=MASK)
    assert_all_close([got], [encode(block, X.astype("float64"), MASK)], 2e-5)


@PRE_AND_POST
def test_compiles_to_the_same(first):
    block = make(normalize_first=first)
    for eager, compiled in zip(step(block), step(block, jit=True), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def test_has_the_weights_of_a_luna_block_but_for_the_attention():
    luna = LunaTransformerBlock(6, 2)
    luna.build(X.shape, (2, 3, 8))
    softmax_block = make()
    attention = 4 * (8 * 8 + 8)
    assert softmax_block.self_attention.count_params() == attention
    rest = luna.count_params() - luna.self_attention.count_params()
    rest -= luna.packed_layer_norm.count_params()
    assert softmax_block.count_params() - attention == rest


def test_initializers_reach_every_kernel_and_bias():
    block = SoftmaxTransformerBlock(
        6, 2, kernel_initializer="ones", bias_initializer="ones"
    )
    block(X)
    for weight in block.weights:
        if "layer_norm" not in weight.path:
            assert (array(weight) == 1).all(), weight.path


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    exact, mixed = make()(X, MASK), make(dtype=policy)
    got = mixed(X, MASK)
    dtype = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    spec = mixed.compute_output_spec(keras.KerasTensor(X.shape))
    assert (spec.shape, spec.dtype) == (X.shape, dtype)
    assert {w.dtype for w in mixed.weights} == {"float32"}
    np.testing.assert_allclose(array(got), array(exact), atol=0.1)


# === Masks ===


@PRE_AND_POST
def test_padding_changes_nothing_else(first):
    block = make(normalize_first=first)
    filled = np.where(MASK[..., None], X, 100.0).astype("float32")
    expected = array(block(X, padding_mask=MASK))
    got = array(block(filled, padding_mask=MASK))
    np.testing.assert_allclose(got[MASK], expected[MASK], rtol=1e-5, atol=1e-5)
    alone = array(block(X[1:, :4]))
    np.testing.assert_allclose(expected[1:, :4], alone, rtol=1e-5, atol=1e-5)


@PRE_AND_POST
def test_the_mask_of_the_input_counts_and_travels(first):
    block = make(normalize_first=first)
    x = keras.ops.convert_to_tensor(X)
    _masks.set_mask(x, keras.ops.convert_to_tensor(MASK))
    outputs = block(x)
    assert_all_close([outputs], [block(X, padding_mask=MASK)], 0)
    for tensor in (x, outputs):
        np.testing.assert_array_equal(array(_masks.get_mask(tensor)), MASK)
    assert _masks.get_mask(block(X)) is None


def test_a_symbolic_mask_travels_through_a_stack():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 8, mask_zero=True)(ids)
    for _ in range(2):
        x = SoftmaxTransformerBlock(6, 2)(x)
    model = keras.Model(ids, x)
    got = array(model(np.array([[3, 4, 0, 0]])))
    alone = array(model(np.array([[3, 4]])))
    np.testing.assert_allclose(got[:, :2], alone, rtol=1e-5, atol=1e-5)


def test_a_fully_padded_row_is_finite():
    got = step(make(), mask=right_padded([7, 0]))
    assert all(np.isfinite(y).all() for y in got)


# === Dropout and rematerialisation ===

DROPOUTS = dict(
    dropout=0.3, attention_dropout=0.2, activation_dropout=0.4, seed=11
)


@pytest.mark.parametrize("name", ["dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_alone(name):
    block = make(**{"attention_dropout": 0.0, name: 0.5})
    assert_all_close([block(X)], [make()(X)], 1e-6)
    first, second = (array(block(X, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_attention_dropout_acts_in_training_alone():
    block = make(attention_dropout=0.5)
    assert_all_close([block(X)], [make()(X)], 1e-5)
    first, second = (array(block(X, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert_all_close([make()(X, training=True)], [make()(X)], 1e-6)


def test_attention_dropout_defaults_to_dropout():
    assert make(dropout=0.3).attention_dropout == 0.3


@PRE_AND_POST
def test_remat_with_dropout_changes_no_result(first):
    blocks = [
        make(**DROPOUTS, normalize_first=first, remat=remat)
        for remat in (False, True)
    ]
    for _ in range(2):
        plain, remat = (step(block) for block in blocks)
        for a, b in zip(plain, remat, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="`gradients.run` does so on JAX in every test",
)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_weights_given_by_a_stateless_scope_have_gradients(graph):
    # TensorFlow's `recompute_grad` finds none for tensors that are neither
    # arguments nor variables.
    import tensorflow as tf

    block = make(**DROPOUTS, remat=True)
    variables = block.trainable_variables

    def scoped_step():
        values = [tf.convert_to_tensor(v.value) for v in variables]
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope([*zip(variables, values, strict=True)]):
                y = block(X, padding_mask=MASK, training=True)
            loss = tf.reduce_sum(y * X)
        return tape.gradient(loss, values)

    got = tf.function(scoped_step)() if graph else scoped_step()
    expected = step(make(**DROPOUTS))[2:]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_fit_misses_no_gradient():
    # Keras warns about weights without one, and warnings are errors here.
    x = keras.Input((7, 8))
    y = SoftmaxTransformerBlock(6, 2, remat=True, dropout=0.1)(x)
    model = keras.Model(x, keras.layers.Dense(1)(y[:, 0]))
    model.compile("adam", "mse", jit_compile=False)
    history = model.fit(X, X[:, 0, :1], epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# === Configuration and wrong arguments ===


def test_every_argument_comes_back():
    given = dict(
        DROPOUTS,
        intermediate_dim=6,
        num_heads=4,
        activation="gelu",
        layer_norm_epsilon=1e-3,
        normalize_first=True,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        remat=True,
        name="block",
        dtype="mixed_bfloat16",
    )
    block = SoftmaxTransformerBlock(**given)
    config = block.get_config()
    again = SoftmaxTransformerBlock.from_config(config)
    assert again.get_config() == config
    for name in ("num_heads", "remat", "seed", "layer_norm_epsilon", "name"):
        assert config[name] == given[name]
    registered = keras.saving.get_registered_object(
        "luna_tf>SoftmaxTransformerBlock"
    )
    assert registered is SoftmaxTransformerBlock


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("intermediate_dim", 0, "positive"),
        ("num_heads", True, "positive"),
        ("num_heads", 3, "divide the width of `inputs`, 8"),
        ("dropout", 1.0, r"\[0, 1\)"),
        ("attention_dropout", -0.1, r"\[0, 1\)"),
        ("activation_dropout", 2, r"\[0, 1\)"),
    ],
)
def test_wrong_argument(name, value, allowed):
    given = {"intermediate_dim": 6, "num_heads": 2, name: value}
    with pytest.raises(ValueError, match=f"`{name}`.*{allowed}") as raised:
        SoftmaxTransformerBlock(**given).build(X.shape)
    assert f"Got: {value!r}" in str(raised.value)


def test_wrong_inputs():
    with pytest.raises(ValueError, match="`inputs` must have rank 3"):
        make()(X[0])
    with pytest.raises(ValueError, match=r"`padding_mask`.*\(2, 7\)"):
        make()(X, padding_mask=MASK[:, :3])
    with pytest.raises(ValueError, match="nonzero = keep"):
        make()(X, padding_mask=MASK.astype("float32"))
