"""Luna attention as one writes it down from the paper."""

import keras
from keras import ops


class TextbookLunaAttention(keras.layers.Layer):
    """Equations 4 and 5 of the paper, line by line, as the ports have it.

    Every projection is a `Dense`, heads are split off by reshape and transpose,
    attention is a batched matrix product, and heads are merged by the reverse.
    It measures what the two orders of `LunaAttention` gain, and is no layer to
    use: no config, no masks of Keras.

    Args:
        num_heads: int, heads of both attentions, a divisor of the width.
        tie_key_value: bool, one projection serves as key and value.
        dropout: float in [0, 1), rate on the weights of both attentions.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        query: `(B, n, D)`, also the context.
        packed: `(B, L, D)`.
        query_mask: `(B, n)`, nonzero = keep, or None. At least one token of
            every row must be kept.
        training: bool, whether dropout is active.

    Returns:
        `output` `(B, n, D)` and `packed_output` `(B, L, D)`.
    """

    def __init__(self, num_heads, tie_key_value=True, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.tie_key_value = tie_key_value
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, query_shape, packed_shape):
        width = query_shape[-1]
        if self.tie_key_value:
            keys = {"pack_key_value": query_shape, "key_value": packed_shape}
        else:
            keys = {
                "pack_key": query_shape,
                "pack_value": query_shape,
                "key": packed_shape,
                "value": packed_shape,
            }
        shapes = {
            "pack_query": packed_shape,
            **keys,
            "query": query_shape,
            "attention_output": query_shape,
        }
        self.projections = {}
        for name, shape in shapes.items():
            dense = keras.layers.Dense(
                width, name=name, dtype=self.dtype_policy
            )
            dense.build(shape)
            self.projections[name] = dense

    def call(self, query, packed, query_mask=None, training=None):
        if self.tie_key_value:
            names = ("pack_key_value",) * 2, ("key_value",) * 2
        else:
            names = ("pack_key", "pack_value"), ("key", "value")
        packed_output = self._attend(
            "pack_query", *names[0], packed, query, query_mask, training
        )
        output = self._attend(
            "query", *names[1], query, packed_output, None, training
        )
        return self.projections["attention_output"](output), packed_output

    def _attend(
        self, query_name, key_name, value_name, inputs, context, mask, training
    ):
        width = inputs.shape[-1]
        query = self.projections[query_name](inputs)
        query = self._split(query * (width // self.num_heads) ** -0.5)
        key = self.projections[key_name](context)
        value = key
        if value_name != key_name:
            value = self.projections[value_name](context)
        key, value = self._split(key), self._split(value)
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        logits = ops.cast(logits, "float32")
        if mask is not None:
            kept = ops.cast(mask, "bool")[:, None, None, :]
            logits = ops.where(kept, logits, -1e30)
        weights = ops.cast(ops.softmax(logits), self.compute_dtype)
        weights = self.drop(weights, training=training)
        output = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return ops.reshape(output, (*ops.shape(inputs)[:2], width))

    def _split(self, x):
        """`(B, n, D)` to `(B, H, n, K)`."""
        batch, length = ops.shape(x)[:2]
        x = ops.reshape(x, (batch, length, self.num_heads, -1))
        return ops.transpose(x, (0, 2, 1, 3))
