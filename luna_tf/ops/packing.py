"""Pack and unpack, Luna's two nested attentions, each in two orders.

Letters: `B` batch, `S` context length, `T` query length, `L` packed length,
`D` width, `H` heads, `K` = width of a head.

The *direct* order is the textbook one: keys, values and queries of full length
are formed, then attended. The *absorbed* order never forms them. Per head it
folds the projections into the packed side, which is short:

    pack scores     (q_h W_k,hᵀ) xᵀ     pack values   (weights · x) W_v,h
    unpack scores   x (W_q,h k_hᵀ)      output        weights · (v_h W_o,h)

so that every long tensor takes part in one matrix product with a `(D, H·L)`
matrix, and there are no transposes that split heads. Both orders are equal in
exact arithmetic, biases included: the bias of the pack key adds the same number
to all keys of a slot, which a softmax does not see.

Logits, softmax and the sums over `S` are in float32 whatever the input dtype.
"""

from keras import ops

# Any finite value far below all logits: `-inf` would turn a fully padded row
# into NaN, and its gradient would poison the weights of all other rows.
_MASKED = -1e30


def choose_contraction(
    width, num_heads, packed_length, num_projections, context_width=None
):
    """Chooses the cheaper order for one nested attention from static sizes.

    Multiply-adds per long token, leaving out what does not grow with length
    (`W` = width, `C` = width of the long sequence, `H` heads, `L` slots,
    `r` = `num_projections`, the long projections that the direct order forms):

    * direct: `r·C·W` for the projections, `2·L·W` for scores and values;
    * absorbed: `2·H·L·C` for scores and values.

    Pack has `r = 1` (tied key and value) or 2; unpack has `r = 2` (query and
    output). With `C = W` the absorbed order wins when `H·L < r·W/2 + L`. The
    sequence length does not enter, so an exported model computes what the
    trained one did.

    Args:
        width: int, `W`.
        num_heads: int, `H`.
        packed_length: int `L`, or None when unknown.
        num_projections: int, `r`.
        context_width: int, `C`. Defaults to `width`.

    Returns:
        `"absorbed"` or `"direct"`; `"direct"` when `packed_length` is unknown.

    Example:

    >>> from luna_tf.ops import choose_contraction
    >>> choose_contraction(512, 8, 16, num_projections=2)
    'absorbed'
    >>> choose_contraction(512, 8, 256, num_projections=2)
    'direct'
    """
    if packed_length is None:
        return "direct"
    context_width = context_width or width
    direct = num_projections * context_width * width + 2 * packed_length * width
    absorbed = 2 * num_heads * packed_length * context_width
    return "absorbed" if absorbed < direct else "direct"


def masked_softmax(logits, mask=None):
    """Softmax over the last axis that gives zeros where nothing is kept.

    Args:
        logits: Float tensor.
        mask: Bool tensor that broadcasts to `logits`, True = keep, or None.

    Returns:
        float32 tensor of the shape of `logits`. Masked entries are exactly 0;
        a row without a kept entry is all 0, and has finite gradients.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import masked_softmax
    >>> print(np.array(masked_softmax([[0.0, 0.0]], [[True, False]])))
    [[1. 0.]]
    """
    weights, total = _exponentials(ops.cast(logits, "float32"), mask)
    return weights / total


def _exponentials(logits, mask):
    """Returns `exp(logits - max)` and its sum, 1 in place of an empty sum."""
    if mask is not None:
        mask = ops.cast(mask, "bool")
        logits = ops.where(mask, logits, _MASKED)
    # The maximum cancels, so its gradient is noise. `initial` serves an empty
    # batch, which has none.
    peak = ops.max(logits, axis=-1, keepdims=True, initial=float("-inf"))
    peak = ops.stop_gradient(peak)
    weights = ops.exp(logits - peak)
    if mask is None:
        return weights, ops.sum(weights, axis=-1, keepdims=True)
    weights = ops.where(mask, weights, 0.0)
    total = ops.sum(weights, axis=-1, keepdims=True)
    return weights, ops.where(total > 0, total, 1.0)


def _float32(*tensors):
    return [ops.cast(x, "float32") for x in tensors]


def pack_direct(query, key, value, mask=None, dropout=None):
    """Attends from the packed slots to the context (paper, equation 4).

    Args:
        query: `(B, L, H, K)`, already scaled by `K ** -0.5`.
        key: `(B, S, H, K)`.
        value: `(B, S, H, K)`.
        mask: `(B, S)`, nonzero = keep, or None.
        dropout: Function applied to the attention weights, or None. It must
            map 0 to 0 and commute with multiplication by a number.

    Returns:
        Packed values `(B, L, H, K)` in the dtype of `query`, and a function
        without arguments that returns the weights `(B, H, L, S)` before
        dropout, in float32.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import pack_direct
    >>> x = np.ones((1, 5, 2, 3), "float32")
    >>> packed, weights = pack_direct(x[:, :4], x, x)
    >>> tuple(packed.shape), tuple(weights().shape)
    ((1, 4, 2, 3), (1, 2, 4, 5))
    """
    q, k, v = _float32(query, key, value)
    logits = ops.einsum("blhk,bshk->bhls", q, k)
    weights, total = _exponentials(logits, _over_keys(mask))
    dropped = weights if dropout is None else dropout(weights)
    # Dividing after the contraction touches L·K numbers instead of L·S, and
    # the sum over S of what was really added is exact in low precision.
    packed = ops.einsum("bhls,bshk->bhlk", dropped, v) / total
    packed = ops.cast(ops.transpose(packed, (0, 2, 1, 3)), query.dtype)
    return packed, lambda: weights / total


def pack_absorbed(
    query,
    context,
    key_kernel,
    value_kernel,
    value_bias=None,
    mask=None,
    dropout=None,
):
    """`pack_direct` with the projections of the context folded away.

    Args:
        query: `(B, L, H, K)`, already scaled by `K ** -0.5`.
        context: `(B, S, D)`.
        key_kernel: `(D, H, K)`. The key's bias cancels in the softmax.
        value_kernel: `(D, H, K)`.
        value_bias: `(H, K)` or None.
        mask: `(B, S)`, nonzero = keep, or None.
        dropout: As in `pack_direct`.

    Returns:
        As `pack_direct`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import pack_absorbed
    >>> q, x = np.ones((1, 4, 2, 3), "float32"), np.ones((1, 5, 6), "float32")
    >>> kernel = np.ones((6, 2, 3), "float32")
    >>> tuple(pack_absorbed(q, x, kernel, kernel)[0].shape)
    (1, 4, 2, 3)
    """
    q, x, w_k, w_v = _float32(query, context, key_kernel, value_kernel)
    batch, slots, heads = ops.shape(query)[:3]
    folded = ops.einsum("blhk,dhk->bhld", q, w_k)
    # All sizes are spelt out: an empty batch leaves -1 undetermined.
    width, length = ops.shape(context)[2], ops.shape(context)[1]
    folded = ops.reshape(folded, (batch, heads * slots, width))
    # An einsum, because a transposed context would be a copy outside XLA.
    logits = ops.einsum("bkd,bsd->bks", folded, x)  # (B, H·L, S)
    weights, total = _exponentials(logits, _over_keys(mask, rank=3))
    dropped = weights if dropout is None else dropout(weights)
    summed = ops.matmul(dropped, x) / total  # (B, H·L, D)
    summed = ops.reshape(summed, (batch, heads, slots, width))
    packed = ops.einsum("bhld,dhk->blhk", summed, w_v)
    if value_bias is not None:
        # Weights add up to one, except under dropout and in an empty row.
        left = ops.sum(dropped, axis=-1) / total[..., 0]
        left = ops.transpose(
            ops.reshape(left, (batch, heads, slots)), (0, 2, 1)
        )
        packed = packed + left[..., None] * ops.cast(value_bias, "float32")
    scores = (batch, heads, slots, length)
    packed = ops.cast(packed, query.dtype)
    return packed, lambda: ops.reshape(weights / total, scores)


def unpack_direct(query, key, value, mask=None, dropout=None):
    """Attends from the tokens to the packed slots (paper, equation 5).

    Args:
        query: `(B, T, H, K)`, already scaled by `K ** -0.5`.
        key: `(B, L, H, K)`.
        value: `(B, L, H, K)`.
        mask: `(B, L)`, nonzero = keep, or None.
        dropout: As in `pack_direct`.

    Returns:
        `(B, T, H, K)` in the dtype of `query`, before the output projection,
        and a function that returns the weights `(B, H, T, L)` in float32.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import unpack_direct
    >>> x = np.ones((1, 5, 2, 3), "float32")
    >>> tuple(unpack_direct(x, x[:, :4], x[:, :4])[0].shape)
    (1, 5, 2, 3)
    """
    logits = ops.einsum("bthk,blhk->bhtl", *_float32(query, key))
    weights = masked_softmax(logits, _over_keys(mask))
    dropped = weights if dropout is None else dropout(weights)
    dropped = ops.cast(dropped, query.dtype)
    return ops.einsum("bhtl,blhk->bthk", dropped, value), lambda: weights


def unpack_absorbed(
    inputs,
    query_kernel,
    query_bias,
    key,
    value,
    output_kernel,
    scale,
    mask=None,
    dropout=None,
):
    """`unpack_direct` with query and output projection folded away.

    Args:
        inputs: `(B, T, D)`, the tokens before the query projection.
        query_kernel: `(D, H, K)`.
        query_bias: `(H, K)` or None.
        key: `(B, L, H, K)`.
        value: `(B, L, H, K)`.
        output_kernel: `(H, K, D)`.
        scale: float, multiplies the projected query: `K ** -0.5`.
        mask: `(B, L)`, nonzero = keep, or None.
        dropout: As in `pack_direct`.

    Returns:
        `(B, T, D)` in the dtype of `inputs`, after the output projection but
        without its bias, and a function that returns the weights
        `(B, H, T, L)` in float32.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import unpack_absorbed
    >>> x, p = np.ones((1, 5, 6), "float32"), np.ones((1, 4, 2, 3), "float32")
    >>> w, o = np.ones((6, 2, 3), "float32"), np.ones((2, 3, 6), "float32")
    >>> tuple(unpack_absorbed(x, w, None, p, p, o, 3**-0.5)[0].shape)
    (1, 5, 6)
    """
    x, k, w_q = _float32(inputs, key, query_kernel)
    batch, slots, heads = ops.shape(key)[:3]
    folded = ops.einsum("dhk,blhk->bdhl", w_q, k * scale)
    length, width = ops.shape(inputs)[1:]
    folded = ops.reshape(folded, (batch, width, heads * slots))
    logits = ops.matmul(x, folded)  # (B, T, H·L)
    if query_bias is not None:
        bias = ops.einsum(
            "hk,blhk->bhl", ops.cast(query_bias, "float32"), k * scale
        )
        logits = logits + ops.reshape(bias, (batch, 1, heads * slots))
    logits = ops.reshape(logits, (batch, length, heads, slots))
    weights = masked_softmax(logits, _over_keys(mask))  # (B, T, H, L)
    dropped = weights if dropout is None else dropout(weights)
    dropped = ops.reshape(dropped, (batch, length, heads * slots))
    values = ops.einsum("blhk,hkd->bhld", value, output_kernel)
    values = ops.reshape(values, (batch, heads * slots, width))
    output = ops.matmul(ops.cast(dropped, inputs.dtype), values)
    return output, lambda: ops.transpose(weights, (0, 2, 1, 3))


def _over_keys(mask, rank=4):
    """Reshapes a `(B, keys)` mask to broadcast over `(B, ..., keys)`."""
    if mask is None:
        return None
    return mask[:, None, :] if rank == 3 else mask[:, None, None, :]
