"""The formulas of Luna in float64 numpy, and small inputs to try them on."""

import keras
import numpy as np

WIDTH, LENGTH, SLOTS = 8, 7, 3


def sequences(batch=2, length=LENGTH, slots=SLOTS, width=WIDTH, seed=0):
    """A random `x` and `p` in float32."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, length, width))
    p = rng.normal(size=(batch, slots, width))
    return x.astype("float32"), p.astype("float32")


def right_padded(lengths, total=LENGTH):
    """Mask of the given lengths, True = keep."""
    return np.arange(total)[None] < np.asarray(lengths)[:, None]


def randomize(layer, seed=0):
    """Random weights, biases included, which a fresh layer has at zero."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(size=weight.shape) * 0.3 + 0.1)
    return layer


def array(x):
    # A copy, because numpy warns about TensorFlow's variables.
    x = keras.ops.copy(x)
    return np.asarray(keras.ops.convert_to_numpy(x), "float64")


def numpy(tree):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, tree)


def softmax(logits, mask=None):
    """Softmax over the last axis; zeros where the mask is, or all are, 0."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    if mask is not None:
        weights = weights * np.broadcast_to(mask, weights.shape)
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, 1)


def attention(
    layer,
    query,
    packed,
    context=None,
    query_mask=None,
    packed_mask=None,
    context_mask=None,
):
    """What `LunaAttention` computes: output, packed output, both weights."""
    query, packed = (np.asarray(x, "float64") for x in (query, packed))
    if context is None:
        context, context_mask = query, query_mask

    def project(name, x):
        projection = getattr(layer, name)
        y = np.einsum("btd,dhk->bthk", x, array(projection.kernel))
        return y if projection.bias is None else y + array(projection.bias)

    def attend(q, k, v, mask):
        logits = np.einsum("bthk,bshk->bhts", q, k) * q.shape[-1] ** -0.5
        mask = None if mask is None else np.asarray(mask)[:, None, None] != 0
        weights = softmax(logits, mask)
        return np.einsum("bhts,bshk->bthk", weights, v), weights

    tied = layer.tie_key_value
    pack_key, pack_value = (
        project("pack_key_value" if tied else name, context)
        for name in ("pack_key", "pack_value")
    )
    packed_output, pack_weights = attend(
        project("pack_query", packed), pack_key, pack_value, context_mask
    )
    packed_output = packed_output.reshape(packed.shape)
    key, value = (
        project("key_value" if tied else name, packed_output)
        for name in ("key", "value")
    )
    output, unpack_weights = attend(
        project("query", query), key, value, packed_mask
    )
    last = layer.attention_output
    output = np.einsum("bthk,hkd->btd", output, array(last.kernel))
    if last.bias is not None:
        output = output + array(last.bias)
    return output, packed_output, pack_weights, unpack_weights


def assert_all_close(got, expected, tolerance=1e-5):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(
            array(a), array(b), rtol=tolerance, atol=tolerance
        )
