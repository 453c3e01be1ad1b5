"""Causal products: every token sees the sum over itself and its past.

Letters: `B` batch, `T` length, `H` heads, `P` and `Q` the two widths of the
state, `C` chunk size.

Causal Luna needs `x_t · Σ_{j<=t} y_j z_jᵀ` twice (paper, section 3.3, function
f, less its division by `t`). The textbook form holds one
`(P, Q)` state for each token. Here a chunk of `C` tokens shares one state, the
sum over all earlier chunks; what happened inside the chunk comes from a masked
`(C, C)` matrix product. Time is linear in `T`, memory `T·(C + P·Q/C)` instead
of `T·P·Q`, and all of it is matrix products.

Everything is computed in float32 whatever the input dtype: sums over a long
past lose their small terms in less.
"""

import keras
from keras import ops


def causal_product(x, y, z, initial_state=None, chunk_size=64):
    """Returns `x_t · (initial_state + Σ_{j<=t} y_j z_jᵀ)` for every `t`.

    Args:
        x: `(B, T, H, P)`. `T` may be unknown until run time.
        y: `(B, T, H, P)`.
        z: `(B, T, H, Q)`.
        initial_state: `(B, H, P, Q)`, the sum over earlier tokens. Defaults to
            zeros.
        chunk_size: int, most tokens of a chunk. `T` need not be a multiple.

    Returns:
        The products `(B, T, H, Q)` and the sum over all tokens
        `(B, H, P, Q)`, which is the `initial_state` of what follows. Both
        float32.

    Raises:
        ValueError: if `chunk_size` is below 1.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import causal_product
    >>> ones = np.ones((1, 4, 1, 1), "float32")
    >>> outputs, state = causal_product(ones, ones, ones, chunk_size=2)
    >>> print(np.array(outputs).ravel(), np.array(state).ravel())
    [1. 2. 3. 4.] [4.]
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1. Got: {chunk_size}")
    x, y, z = (ops.cast(a, "float32") for a in (x, y, z))
    batch, length, heads, rows = ops.shape(x)
    columns = ops.shape(z)[3]
    if initial_state is None:
        initial_state = ops.zeros((batch, heads, rows, columns), "float32")
    chunks = -(-length // chunk_size)
    if isinstance(length, int):
        # Equal chunks need less padding. A known length may be 0.
        chunks = max(1, chunks)
        chunk_size = max(1, -(-length // chunks))
    padding = chunks * chunk_size - length

    def split(a):
        width = ops.shape(a)[3]
        if not isinstance(padding, int) or padding:
            # Zeros of `y` and `z` add nothing to the sums.
            zeros = ops.zeros((batch, padding, heads, width), a.dtype)
            a = ops.concatenate([a, zeros], axis=1)
        return ops.reshape(a, (batch, chunks, chunk_size, heads, width))

    state = ops.cast(initial_state, "float32")
    outputs, state = _chunked(split(x), split(y), split(z), state)
    shape = (batch, chunks * chunk_size, heads, columns)
    return ops.reshape(outputs, shape)[:, :length], state


@keras.remat
def _chunked(x, y, z, state):
    """`causal_product` of chunks `(B, N, C, H, ...)`.

    The backward pass computes the `(C, C)` products again: keeping them would
    be the largest part of the memory.
    """
    sums = ops.einsum("bnchp,bnchq->bnhpq", y, z)
    sums = ops.concatenate([state[:, None], sums], axis=1)
    states = ops.cumsum(sums, axis=1)  # before each chunk, and after the last
    products = ops.einsum("bnchp,bnmhp->bnhcm", x, y)
    places = ops.arange(ops.shape(x)[2])
    products = ops.where(places[:, None] >= places, products, 0.0)
    outputs = ops.einsum("bnhcm,bnmhq->bnchq", products, z)
    outputs = outputs + ops.einsum("bnchp,bnhpq->bnchq", x, states[:, :-1])
    return outputs, states[:, -1]


def causal_step(x, y, z, state):
    """`causal_product` of one token, without its axis.

    Args:
        x: `(B, H, P)`.
        y: `(B, H, P)`.
        z: `(B, H, Q)`.
        state: `(B, H, P, Q)`, the sum over earlier tokens.

    Returns:
        The product `(B, H, Q)` and the sum with this token `(B, H, P, Q)`,
        both float32.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import causal_step
    >>> one, state = np.ones((1, 1, 1)), np.full((1, 1, 1, 1), 3.0)
    >>> output, state = causal_step(one, one, one, state)
    >>> float(output[0, 0, 0]), float(state[0, 0, 0, 0])
    (4.0, 4.0)
    """
    x, y, z, state = (ops.cast(a, "float32") for a in (x, y, z, state))
    state = state + y[..., None] * z[..., None, :]
    return ops.einsum("bhp,bhpq->bhq", x, state), state
