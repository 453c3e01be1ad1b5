"""No tensor of a causal layer's step has a width by slots matrix per token."""

import math
import re

import keras
import numpy as np
import pytest
from official_causal import OfficialCausalAttention

from luna_tf.layers import LunaCausalAttention
from luna_tf.ops import causal_product

if keras.backend.backend() != "tensorflow":
    pytest.skip("reads what TensorFlow compiles", allow_module_level=True)

import tensorflow as tf

LENGTH, WIDTH, HEADS, SLOTS = 512, 64, 4, 32
OUTER = LENGTH * WIDTH * SLOTS  # of one row


def largest(function, *arrays):
    """Elements of the largest tensor of a function and of its gradients."""

    @tf.function(jit_compile=True, autograph=False)
    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = tf.reduce_sum(function(*tensors) ** 2)
        return tape.gradient(loss, tensors)

    tensors = [tf.constant(array) for array in arrays]
    # Before XLA fuses anything away; loop bodies are in it.
    text = step.experimental_get_compiler_ir(*tensors)(stage="hlo")
    shapes = re.findall(r"\w+\[([\d,]+)\]", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    assert LENGTH * WIDTH in sizes
    return max(sizes)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def layer_step(cls, **kwargs):
    layer = cls(HEADS, **kwargs)
    x, p = draw(1, LENGTH, WIDTH), draw(1, SLOTS, WIDTH)
    layer.build(x.shape, p.shape)
    options = {"training": True} if kwargs.get("dropout") else {}
    return largest(lambda x, p: layer(x, p, **options), x, p)


def test_the_official_formula_has_one():
    assert layer_step(OfficialCausalAttention) >= OUTER


def test_products_have_none():
    x = draw(1, LENGTH, HEADS, WIDTH // HEADS)
    z = draw(1, LENGTH, HEADS, SLOTS)
    assert largest(lambda x, z: causal_product(x, x, z)[0], x, z) < OUTER / 4


@pytest.mark.parametrize("contraction", ["absorbed", "direct"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_layers_have_none(contraction, dropout):
    got = layer_step(
        LunaCausalAttention, contraction=contraction, dropout=dropout
    )
    assert got < OUTER / 4
