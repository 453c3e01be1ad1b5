"""Rematerialisation of a function that uses the weights of a layer.

TensorFlow's version finds gradients for the arguments of the function and for
the variables that it reads, but for nothing else. Inside a
`keras.StatelessScope` weights are plain tensors, so they would have no
gradient at all: here they are arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras


def with_weights(
    layer: keras.layers.Layer,
    function: Callable,
    inputs: Sequence[Any],
    values: Mapping[str, Any],
    remat: bool,
) -> Any:
    """Calls a function of which the weights of a layer are arguments too.

    Args:
        layer: built layer whose weights the function uses.
        function: takes `inputs` and uses sublayers of `layer`. What it
            assigns to their variables is forgotten.
        inputs: its tensors.
        values: variable path to tensor, for variables that shall have another
            value than their present one.
        remat: whether to compute the function again in the backward pass
            instead of keeping what it computes in between.

    Returns:
        What the function returns.
    """
    trainable = layer.trainable_variables
    others = [
        (v, values.get(v.path, v.value)) for v in layer.non_trainable_variables
    ]

    def scoped(inputs, weights):
        given = [*zip(trainable, weights, strict=True), *others]
        with keras.StatelessScope(given):
            return function(*inputs)

    if remat:
        scoped = keras.remat(scoped)
    # Copies: TensorFlow would count the gradient of a variable twice, once as
    # an argument and once as a variable.
    weights = [keras.ops.copy(v) for v in trainable]
    return scoped(list(inputs), weights)
