"""Keras masks of tensors: the one place that touches Keras' private side.

Keras hands a mask to a layer only under the name `<argument>_mask` and puts
`compute_mask`'s result on the first output only. Luna has two sequences in and
two out, so blocks read and attach masks themselves.
"""

from typing import Any

from keras import ops
from keras.src import backend


def get_mask(x: Any) -> Any:
    """Returns the Keras mask that travels with `x`, or None."""
    return None if x is None else backend.get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> Any:
    """Attaches `mask` to `x` unless it is None, and returns `x`."""
    if mask is not None:
        backend.set_keras_mask(x, mask)
    return x


def check_mask(name: str, mask: Any, sequence_name: str, sequence: Any) -> Any:
    """Validates a padding mask against its sequence and returns it as bool.

    Floats are refused because fairseq-style additive masks (0 = keep) would
    otherwise be read as their opposite.
    """
    if mask is None:
        return None
    if not hasattr(mask, "dtype"):
        mask = ops.convert_to_tensor(mask)
    dtype = backend.standardize_dtype(mask.dtype)
    if dtype != "bool" and "int" not in dtype:
        raise ValueError(
            f"`{name}` must be bool or integer (nonzero = keep). "
            f"Got dtype: {dtype}"
        )
    got, expected = tuple(mask.shape), tuple(sequence.shape[:2])
    if len(got) != 2 or any(
        a is not None and b is not None and a != b
        for a, b in zip(got, expected, strict=True)
    ):
        raise ValueError(
            f"`{name}` must have the (batch, length) of `{sequence_name}`, "
            f"{expected}. Got shape: {got}"
        )
    return ops.cast(mask, "bool")
