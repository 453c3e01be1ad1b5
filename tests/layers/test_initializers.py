"""Kernels start out with the scale that their initializer means."""

import keras
import numpy as np
import pytest

from luna_tf.layers import LunaAttention, LunaCausalAttention
from luna_tf.layers._initializers import MatrixInitializer
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock

WIDTH, HEADS = 48, 4
KINDS = {
    "self": (LunaAttention, WIDTH // HEADS),
    "causal": (LunaCausalAttention, WIDTH // HEADS),
    "wide": (LunaCausalAttention, 2 * WIDTH // HEADS),
}


def kernels(layer):
    """Name to the matrix of a kernel."""
    found = {
        variable.path.split("/")[-2]: keras.ops.convert_to_numpy(variable)
        for variable in layer.trainable_variables
        if variable.path.endswith("/kernel")
    }
    assert len(found) >= 5
    return {
        name: kernel.reshape(
            layer.num_heads * layer.head if "output" in name else WIDTH, -1
        )
        for name, kernel in found.items()
    }


def build(kind, initializer, tied=True):
    cls, head = KINDS[kind]
    layer = cls(
        HEADS,
        key_dim=head,
        tie_key_value=tied,
        kernel_initializer=initializer,
    )
    layer.build((2, 5, WIDTH), (2, 3, WIDTH))
    layer.head = head
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_glorot_and_he_see_matrices(kind, tied):
    for name, kernel in kernels(build(kind, "glorot_uniform", tied)).items():
        expected = (2 / sum(kernel.shape)) ** 0.5
        assert kernel.std() == pytest.approx(expected, rel=0.05), name
    for name, kernel in kernels(build(kind, "he_normal", tied)).items():
        expected = (2 / len(kernel)) ** 0.5
        assert kernel.std() == pytest.approx(expected, rel=0.06), name


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonal_kernels_are_orthogonal(kind):
    for kernel in kernels(build(kind, "orthogonal")).values():
        if len(kernel) > len(kernel.T):
            kernel = kernel.T
        product = kernel @ kernel.T
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)


def test_the_baseline_starts_alike():
    block = SoftmaxTransformerBlock(2 * WIDTH, HEADS)
    block.build((2, 5, WIDTH))
    attention = block.self_attention
    for layer in ("query", "key", "value", "output"):
        kernel = keras.ops.convert_to_numpy(
            getattr(attention, f"{layer}_dense").kernel
        )
        expected = WIDTH**-0.5
        assert kernel.std() == pytest.approx(expected, rel=0.05), layer


def test_survives_serialization():
    first = MatrixInitializer(keras.initializers.GlorotNormal(seed=3), 6)
    config = keras.saving.serialize_keras_object(first)
    again = keras.saving.deserialize_keras_object(config)
    draws = [
        keras.ops.convert_to_numpy(initializer((6, 2, 4)))
        for initializer in (first, again, first.clone())
    ]
    assert draws[0].shape == (6, 2, 4)
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])
    matrix = keras.initializers.GlorotNormal(seed=3)((6, 8))
    np.testing.assert_array_equal(
        draws[0].reshape(6, 8), keras.ops.convert_to_numpy(matrix)
    )
