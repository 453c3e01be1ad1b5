"""Rematerialisation changes nothing but memory."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    SLOTS,
    array,
    assert_all_close,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaTransformerBlock


def block(remat, **kwargs):
    layer = LunaTransformerBlock(
        6,
        2,
        dropout=0.3,
        attention_dropout=0.2,
        activation_dropout=0.4,
        tie_key_value=False,
        remat=remat,
        seed=11,
        **kwargs,
    )
    x, p = sequences()
    layer.build(x.shape, p.shape)
    return randomize(layer)


def steps(layer, jit, number=2):
    """Outputs and gradients of some training steps, one after the other."""
    x, p = sequences()
    masks = {
        "padding_mask": right_padded([7, 4]),
        "packed_mask": right_padded([2, 3], SLOTS),
    }
    results = []
    for _ in range(number):
        outputs, g_inputs, g_weights = gradients.run(
            lambda x, p: dict(
                zip("xp", layer(x, p, training=True, **masks), strict=True)
            ),
            layer.trainable_variables,
            {"x": x, "p": p},
            {"x": np.ones_like(x) / 7, "p": p},
            jit,
        )
        results.append([*outputs.values(), *g_inputs.values(), *g_weights])
    return results


def assert_equal(plain, remat, tolerance=1e-6):
    # JAX compiles what it rematerialises, and rounds otherwise.
    if keras.backend.backend() == "tensorflow":
        tolerance = 0
    for x, y in zip(plain, remat, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
def test_remat_with_dropout_changes_no_bit(contraction, first):
    config = dict(contraction=contraction, normalize_first=first)
    plain = steps(block(False, **config), jit=False)
    remat = steps(block(True, **config), jit=False)
    for a, b in zip(plain, remat, strict=True):
        assert_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
def test_remat_with_dropout_is_the_same_in_xla(contraction):
    # XLA may fuse otherwise; another dropout mask would differ by ~1.
    (plain,) = steps(block(False, contraction=contraction), True, 1)
    (remat,) = steps(block(True, contraction=contraction), True, 1)
    for x, y in zip(plain, remat, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_remat_changes_no_bit_in_mixed_precision(policy):
    (plain,) = steps(block(False, dtype=policy), False, 1)
    (remat,) = steps(block(True, dtype=policy), False, 1)
    assert_equal(plain, remat, 2e-3)


def test_every_step_draws_new_dropout_masks():
    layer, (x, p) = block(True), sequences()
    first, second = (array(layer(x, p, training=True)[0]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_remat_returns_scores_too():
    x, p = sequences()
    plain, remat = (
        block(remat)(x, p, return_attention_scores=True, training=True)
        for remat in (False, True)
    )
    assert len(remat) == 4
    assert_all_close(remat, plain, 0)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="counts what JAX keeps"
)
def test_remat_keeps_only_the_inputs_of_a_block():
    # Its counterpart for TensorFlow is in test_layers_tensorflow.py.
    import jax

    x, p = sequences(length=256)

    def saved(remat):
        blocks = [block(remat, contraction="direct") for _ in range(3)]

        def encode(x, p):
            for layer in blocks:
                x, p = layer(x, p, training=True)
            return x, p

        backward = jax.eval_shape(lambda *y: jax.vjp(encode, *y)[1], x, p)
        sizes = [y.size * y.dtype.itemsize for y in jax.tree.leaves(backward)]
        weights = 4 * sum(layer.count_params() for layer in blocks)
        return sum(sizes) - weights

    inputs = 3 * (x.nbytes + p.nbytes)
    assert saved(True) < 1.1 * inputs
    assert saved(False) > 5 * inputs
