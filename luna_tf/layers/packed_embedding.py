"""The learned packed sequence P."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks


@keras.saving.register_keras_serializable(package="luna_tf")
class PackedEmbedding(keras.layers.Layer):
    """Learned packed sequence `p` of fixed length, one copy per example.

    With *dynamic* packing, the paper's default, a sequence shorter than `p`
    uses only as many rows of `p` as it has tokens: the others are masked, by a
    Keras mask that travels with the output. The shape never depends on the
    data, and an example's result never on its batch mates (Luna paper, section
    3.1; the official code cuts `p` to the longest sequence of the batch, which
    gives the same values).

    Args:
        packed_length: int, number of rows `L`.
        dynamic: bool; False is the official `--fix-projection-length`: no row
            is ever masked.
        embeddings_initializer: Initializer of `p`. None draws from a normal
            distribution with standard deviation `D ** -0.5`, as the official
            code does.
        embeddings_regularizer: Regularizer of `p`.
        embeddings_constraint: Constraint on `p`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: `(B, T, D)`, the sequence that `p` accompanies; only its shape
            and its mask are used.
        padding_mask: `(B, T)`, bool or integer, nonzero = keep. Taken from the
            Keras mask of `inputs` when not given.

    Returns:
        `(B, L, D)`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import PackedEmbedding
    >>> tuple(PackedEmbedding(packed_length=16)(np.ones((2, 100, 32))).shape)
    (2, 16, 32)
    """

    def __init__(
        self,
        packed_length,
        dynamic=True,
        embeddings_initializer=None,
        embeddings_regularizer=None,
        embeddings_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _arguments.check_positive(packed_length=packed_length)
        self.supports_masking = True
        self.packed_length = packed_length
        self.dynamic = dynamic
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer
        )
        self.embeddings_regularizer = keras.regularizers.get(
            embeddings_regularizer
        )
        self.embeddings_constraint = keras.constraints.get(
            embeddings_constraint
        )

    def build(self, inputs_shape):
        _arguments.check_rank(3, inputs=inputs_shape)
        width = inputs_shape[-1]
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.packed_length, width),
            initializer=self.embeddings_initializer
            or keras.initializers.RandomNormal(stddev=width**-0.5),
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def call(self, inputs, padding_mask=None):
        if padding_mask is None:
            padding_mask = _masks.get_mask(inputs)
        padding_mask = _masks.check_mask(
            "padding_mask", padding_mask, "inputs", inputs
        )
        embeddings = ops.cast(self.embeddings, self.compute_dtype)
        batch = ops.shape(inputs)[0]
        packed = ops.broadcast_to(
            embeddings[None], (batch, *self.embeddings.shape)
        )
        return _masks.set_mask(packed, self._active_rows(inputs, padding_mask))

    def _active_rows(self, inputs, padding_mask):
        if not self.dynamic:
            return None
        rows = ops.arange(self.packed_length, dtype="int32")[None]
        if padding_mask is not None:
            lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=1)
            return rows < lengths[:, None]
        batch, length = ops.shape(inputs)[:2]
        if isinstance(length, int) and length >= self.packed_length:
            return None
        return ops.broadcast_to(rows < length, (batch, self.packed_length))

    def compute_mask(self, inputs, previous_mask=None):
        # `call` attaches the mask of p; the default would hand on the mask of
        # `inputs`, which belongs to another sequence.
        return None

    def compute_output_spec(self, inputs, padding_mask=None):
        batch, _, width = inputs.shape
        packed = keras.KerasTensor(
            (batch, self.packed_length, width), dtype=self.compute_dtype
        )
        if self.dynamic:
            _masks.set_mask(
                packed,
                keras.KerasTensor((batch, self.packed_length), dtype="bool"),
            )
        return packed

    def get_config(self):
        return {
            **super().get_config(),
            "packed_length": self.packed_length,
            "dynamic": self.dynamic,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
            "embeddings_regularizer": keras.regularizers.serialize(
                self.embeddings_regularizer
            ),
            "embeddings_constraint": keras.constraints.serialize(
                self.embeddings_constraint
            ),
        }
