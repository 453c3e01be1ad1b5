"""Leaves padding out of all that follows, wherever in a row it stands."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks


@keras.saving.register_keras_serializable(package="luna_tf")
class DropPadding(keras.layers.Layer):
    """Keeps the real tokens of every row, in their order, and drops padding.

    Attention, feed-forward networks and means give real tokens the same
    result without padding as with it: they only cost less. Tokens must have
    their positions already, as those behind an embedding do.

    Args:
        length: int, tokens of a row that are kept. Rows with fewer real
            tokens are filled with padding; of longer ones the end is lost.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: `(B, T, D)` with a Keras mask `(B, T)`. Without a mask all
            tokens are real.

    Returns:
        `(B, min(T, length), D)`, with a mask where the inputs had one.

    Raises:
        ValueError: if `length` is below 1.

    Example:

    >>> import numpy as np
    >>> from luna_tf.layers import DropPadding, LunaEmbedding
    >>> embedding = LunaEmbedding(9, 4, packed_length=None,
    ...                           position_embedding="sinusoidal")
    >>> x = embedding(np.array([[0, 5, 0, 6], [0, 0, 0, 7]]))
    >>> kept = DropPadding(2)(x)
    >>> kept.shape[1], np.array(kept._keras_mask).tolist()
    (2, [[True, True], [True, False]])
    """

    def __init__(self, length, **kwargs):
        super().__init__(**kwargs)
        _arguments.check_positive(length=length)
        self.supports_masking = True
        self.length = length

    def build(self, inputs_shape):
        pass

    def call(self, inputs):
        mask = _masks.get_mask(inputs)
        if mask is None:
            return inputs[:, : self.length]
        batch, length, width = ops.shape(inputs)
        kept = self.kept(mask)
        # Rows of one table: a gather over two axes at once is slow.
        first = ops.arange(batch, dtype="int32")[:, None] * length
        rows = ops.take(ops.reshape(inputs, (-1, width)), first + kept, axis=0)
        return ops.reshape(rows, (batch, ops.shape(kept)[1], width))

    def kept(self, mask):
        """Where the tokens that are kept stood.

        Args:
            mask: `(B, T)`, True for real tokens.

        Returns:
            int32 `(B, min(T, length))`, real tokens first.
        """
        length = ops.shape(mask)[1]
        place = ops.arange(length, dtype="int32")[None]
        # No two alike: sorting need not be stable.
        order = ops.where(mask, place, place + length)
        return ops.sort(order, axis=1)[:, : self.length] % length

    def compute_mask(self, inputs, previous_mask=None):
        if previous_mask is None:
            return None
        real = ops.cast(previous_mask, "int32")
        # Counted by a sum, as symbolic lengths may be unknown.
        place = ops.cumsum(ops.ones_like(real), axis=1)[:, : self.length]
        return place <= ops.sum(real, axis=1, keepdims=True)

    def compute_output_spec(self, inputs):
        batch, length, width = inputs.shape
        if length is not None:
            length = min(length, self.length)
        return keras.KerasTensor((batch, length, width), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "length": self.length}
