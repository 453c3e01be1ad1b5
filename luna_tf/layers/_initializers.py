"""Initial kernels of projections between a vector and several heads."""

import math

import keras
from keras import ops

from luna_tf.layers._arguments import clone_initializer


@keras.saving.register_keras_serializable(package="luna_tf")
class MatrixInitializer(keras.initializers.Initializer):
    """Lets an initializer see a kernel with heads as the matrix that it is.

    Keras before 3.15 takes the kernel `(D, H, K)` for that of a convolution
    and, for 4 heads, makes Glorot's numbers four times too small. Attention
    then starts out uniform, which Luna's two in a row hardly leave.

    Args:
        initializer: Initializer of a matrix; a fresh copy of it is used.
        rows: int, width of what the matrix is applied to.
    """

    def __init__(self, initializer, rows):
        self.initializer = clone_initializer(
            keras.initializers.get(initializer)
        )
        self.rows = rows

    def __call__(self, shape, dtype=None):
        if len(shape) < 3:
            return self.initializer(shape, dtype=dtype)
        columns = math.prod(shape) // self.rows
        matrix = self.initializer((self.rows, columns), dtype=dtype)
        return ops.reshape(matrix, shape)

    def get_config(self):
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "rows": self.rows,
        }
