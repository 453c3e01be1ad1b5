"""One vector per example from the two sequences of a Luna encoder."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks
from luna_tf.ops import unused_zeros

POOLING = ("cls", "mean", "packed")


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaPooling(keras.layers.Layer):
    """Reduces the two sequences of a Luna encoder to one vector per example.

    Args:
        mode: `"cls"` takes the first token, `"mean"` averages the real tokens
            and `"packed"` the active rows of the packed sequence.
        include_padding: bool, whether the two averages run over padded rows
            too, as in the official code of 2021 (an example's result then
            depends on how far its batch was padded).
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: `(B, T, D)`.
        packed: `(B, L, D)`.

    Returns:
        `(B, D)`.

    Raises:
        ValueError: if `mode` is unknown.

    Example:

    >>> import numpy as np
    >>> from luna_tf.layers import LunaPooling
    >>> x, p = np.ones((2, 100, 32)), np.ones((2, 8, 32))
    >>> tuple(LunaPooling("mean")(x, p).shape)
    (2, 32)
    """

    def __init__(self, mode="cls", include_padding=False, **kwargs):
        super().__init__(**kwargs)
        _arguments.check_choice(POOLING, mode=mode)
        self.supports_masking = True
        self.mode = mode
        self.include_padding = include_padding

    def build(self, inputs_shape, packed_shape):
        pass

    def call(self, inputs, packed):
        if self.mode == "cls":
            return inputs[:, 0]
        if self.mode == "mean":
            return self._mean(inputs)
        # The tokens of the last block are used by nobody then. This gives its
        # weights gradients of zero, and `fit` no warning.
        unused = unused_zeros(inputs[:, 0])
        return self._mean(packed) + ops.cast(unused, self.compute_dtype)

    def _mean(self, sequence):
        # A sum over thousands of tokens is too much for half precision.
        values = ops.cast(sequence, "float32")
        mask = _masks.get_mask(sequence)
        if mask is None or self.include_padding:
            mean = ops.mean(values, axis=1)
        else:
            keep = ops.cast(mask, "float32")[..., None]
            count = ops.maximum(ops.sum(keep, axis=1), 1)
            mean = ops.sum(values * keep, axis=1) / count
        return ops.cast(mean, self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_spec(self, inputs, packed):
        return keras.KerasTensor(
            (inputs.shape[0], inputs.shape[-1]), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "mode": self.mode,
            "include_padding": self.include_padding,
        }
