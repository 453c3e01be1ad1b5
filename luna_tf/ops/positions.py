"""Position numbers that skip padding, and the sinusoidal table."""

import math

from keras import ops


def token_positions(padding_mask):
    """Numbers the real tokens of each row 0, 1, 2, ...; padding gets -1.

    Counting only real tokens makes a row's positions independent of the side
    on which it was padded, as in the official code.

    Args:
        padding_mask: Bool or 0/1 tensor `(batch, length)`, nonzero = keep.

    Returns:
        int32 tensor `(batch, length)`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import token_positions
    >>> print(np.array(token_positions([[0, 1, 1, 0]])))
    [[-1  0  1 -1]]
    """
    keep = ops.cast(ops.cast(padding_mask, "bool"), "int32")
    return ops.cumsum(keep, axis=1) * keep - 1


def sinusoidal_positions(positions, dim, max_wavelength=10000.0):
    """Evaluates the sinusoidal code of fairseq at integer positions.

    The first half of the channels holds the sines and the second half the
    cosines, with frequency `max_wavelength ** (-i / (dim // 2 - 1))`; an odd
    `dim` gets a last channel of zeros. (The code of "Attention is all you
    need" interleaves them and divides by `dim // 2`: not interchangeable.)

    Args:
        positions: Integer tensor of any shape.
        dim: int, number of channels, at least 4.
        max_wavelength: float, wavelength of the slowest channel over 2 pi.

    Returns:
        float32 tensor of shape `positions.shape + (dim,)`.

    Raises:
        ValueError: if `dim` is below 4.

    Example:

    >>> from luna_tf.ops import sinusoidal_positions
    >>> tuple(sinusoidal_positions([[0, 1, 2]], 8).shape)
    (1, 3, 8)
    """
    if dim < 4:
        raise ValueError(
            f"`dim` must be at least 4 for sinusoidal positions. Got: {dim}"
        )
    half = dim // 2
    rate = -math.log(max_wavelength) / (half - 1)
    frequencies = ops.exp(ops.arange(half, dtype="float32") * rate)
    angles = ops.cast(positions, "float32")[..., None] * frequencies
    parts = [ops.sin(angles), ops.cos(angles)]
    if dim % 2:
        parts.append(ops.zeros_like(angles[..., :1]))
    return ops.concatenate(parts, axis=-1)
