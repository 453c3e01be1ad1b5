"""Gradients of zero for what a model computes and does not use."""

from keras import ops


def unused_zeros(x):
    """Returns zeros that depend on `x`: its gradient is zero, not missing.

    Keras warns about weights without a gradient at every `fit`. Selecting,
    unlike a product with zero, stays zero where `x` is infinite or NaN.

    Args:
        x: Tensor or Keras variable.

    Returns:
        Zeros of the shape and dtype of `x`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import unused_zeros
    >>> print(np.array(unused_zeros([1.0, float("inf")])))
    [0. 0.]
    """
    x = ops.convert_to_tensor(x)
    return ops.where(False, x, ops.zeros_like(x))
