"""Softplus in base 2, the positive activation of causal Luna."""

import math

from keras import ops


def softplus_base2(x):
    """Returns `log2(1 + 2**x)`, which is 1 at 0 and `x` for large `x`.

    The official causal attention uses it in place of the pack softmax, so that
    a slot that scores 0 has weight 1 (Luna paper, section 3.3).

    Args:
        x: Float tensor of any shape.

    Returns:
        A tensor of the shape and dtype of `x`, with values >= 0.

    Example:

    >>> from luna_tf.ops import softplus_base2
    >>> float(softplus_base2(0.0))
    1.0
    """
    # `softplus(x ln 2) / ln 2` divides twice for nothing; this form is exact
    # at 0 and never overflows.
    x = ops.convert_to_tensor(x)
    return ops.maximum(x, 0) + ops.log1p(
        ops.exp(-ops.abs(x) * math.log(2.0))
    ) / math.log(2.0)
