"""The optimizer that a recipe asks for."""

import types

import keras
import numpy as np
import pytest
from luna_tf.trainers import optimization

RECIPE = dict(
    schedule="polynomial",
    learning_rate=1.0,
    train_steps=10,
    warmup_steps=0,
    weight_decay=0.5,
    beta_1=0.9,
    beta_2=0.98,
    epsilon=1e-6,
    clip_norm=0.0,
)


@pytest.mark.parametrize("everywhere", [True, False])
def test_weight_decay_may_leave_norms_and_biases_alone(everywhere):
    recipe = types.SimpleNamespace(**RECIPE, decay_norms_and_biases=everywhere)
    optimizer = optimization.make_optimizer(recipe, "float32")
    layers = [keras.layers.Dense(2), keras.layers.LayerNormalization()]
    for layer in layers:
        layer.build((None, 2))
        layer.set_weights([np.ones(w.shape) for w in layer.weights])
    variables = [v for layer in layers for v in layer.trainable_variables]
    optimizer.apply(
        [np.zeros(v.shape, "float32") for v in variables], variables
    )
    for variable in variables:
        decays = everywhere or variable.name == "kernel"
        expected = 0.5 if decays else 1.0
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)
