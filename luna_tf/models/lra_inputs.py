"""What an `LRAClassifier` reads: tokens or values, of one document or two."""

from typing import Any

import keras
from keras import ops

from luna_tf.layers._arguments import check_choice, check_positive

INPUT_TYPES = ("tokens", "values")


def check_inputs(
    input_type: str,
    vocabulary_size: int | None,
    padding_id: int | None,
    num_documents: int,
) -> None:
    """Raises unless these arguments of `LRAClassifier` fit each other."""
    check_choice(INPUT_TYPES, input_type=input_type)
    check_choice((1, 2), num_documents=num_documents)
    if input_type == "tokens":
        check_positive(vocabulary_size=vocabulary_size)
        return
    for name, value in (
        ("vocabulary_size", vocabulary_size),
        ("padding_id", padding_id),
    ):
        if value is not None:
            raise ValueError(
                f"`{name}` must be None with input_type='values', which has "
                f"no tokens. Got: {value!r}"
            )


def make_input(input_type: str, num_documents: int) -> keras.KerasTensor:
    """Returns the symbolic input of a model.

    Example:

    >>> from luna_tf.models.lra_inputs import make_input
    >>> make_input("tokens", 2).shape
    (None, 2, None)
    """
    tokens = input_type == "tokens"
    return keras.Input(
        (None,) if num_documents == 1 else (num_documents, None),
        dtype="int32" if tokens else "float32",
        name="token_ids" if tokens else "pixel_values",
    )


def stack_documents(inputs: Any) -> Any:
    """Brings both documents of a batch into one, the second ones last.

    Args:
        inputs: `(B, 2, T)`.

    Returns:
        `(2 B, T)`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models.lra_inputs import stack_documents
    >>> np.array(stack_documents(np.array([[[1], [2]], [[3], [4]]])))[:, 0]
    array([1, 3, 2, 4])
    """
    return ops.concatenate([inputs[:, 0], inputs[:, 1]], axis=0)
