"""Causal Luna as the official code has it, for comparison.

Loaded by the tests and, in a checkout, by `luna-benchmark causal`. It is no
part of the package: nobody should train with it.
"""

import keras
from keras import ops


class OfficialCausalAttention(keras.layers.Layer):
    """Two running sums of outer products, one for every token.

    Both are held as `(B, H, n, K, L)` before and after the cumulative sum. The
    result and the weights are those of `LunaCausalAttention`.

    Args:
        num_heads: int, a divisor of the width.
        tie_key_value: bool, one projection serves as key and value.
        dropout: float in [0, 1), rate on both weights.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        query: `(B, n, D)`.
        packed: `(B, L, D)`.
        training: bool, whether dropout is active.

    Returns:
        `(B, n, D)`.
    """

    def __init__(self, num_heads, tie_key_value=True, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.tie_key_value = tie_key_value
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, query_shape, packed_shape):
        keys = ("key_value",) if self.tie_key_value else ("key", "value")
        shapes = dict.fromkeys(("pack_key", "query", *keys), query_shape)
        shapes["pack_query"] = packed_shape
        shapes["attention_output"] = query_shape
        self.projections = {}
        for name, shape in shapes.items():
            dense = keras.layers.Dense(
                query_shape[-1], name=name, dtype=self.dtype_policy
            )
            dense.build(shape)
            self.projections[name] = dense

    def call(self, query, packed, training=None):
        batch, length, width = ops.shape(query)
        scale = (width // self.num_heads) ** -0.5
        names = ("key_value",) * 2 if self.tie_key_value else ("key", "value")
        key, value = (self._project(name, query) for name in names)
        pack_query = self._project("pack_query", packed) * scale
        logits = ops.matmul(
            self._project("pack_key", query),
            ops.transpose(pack_query, (0, 1, 3, 2)),
        )
        log_2 = 0.6931471805599453
        weights = ops.softplus(logits * log_2) / log_2
        weights = self.drop(weights, training=training)
        scores = _product(self._project("query", query) * scale, key, weights)
        attention = ops.softmax(ops.cast(scores, "float32"))
        attention = ops.cast(attention, self.compute_dtype)
        attention = self.drop(attention, training=training)
        output = _product(attention, weights, value)
        output = ops.transpose(output, (0, 2, 1, 3))
        output = ops.reshape(output, (batch, length, width))
        return self.projections["attention_output"](output)

    def _project(self, name, x):
        """`(B, n, D)` to `(B, H, n, K)`."""
        x = self.projections[name](x)
        batch, length, _ = ops.shape(x)
        x = ops.reshape(x, (batch, length, self.num_heads, -1))
        return ops.transpose(x, (0, 2, 1, 3))


def _product(x, y, z):
    sums = ops.cumsum(y[..., None] * z[..., None, :], axis=2)
    products = ops.matmul(x[..., None, :], sums)[..., 0, :]
    count = ops.cast(ops.arange(1, ops.shape(x)[2] + 1), x.dtype)
    return products / count[:, None]
