"""From pooled vectors to logits: the head of an `LRAClassifier`."""

from typing import Any

import keras
from keras import ops

PAIR_FEATURES = ("concatenation", "interaction")


def make_head(
    num_classes: int,
    hidden_dim: int | None,
    dropout: float,
    seed: int | None,
    dtype: Any,
) -> list[keras.layers.Layer]:
    """Returns the layers of the head, the last one without bias.

    Args:
        num_classes: int, width of the output.
        hidden_dim: int, width of a ReLU layer before the output, or None.
        dropout: float in [0, 1), on the pooled vector.
        seed: int, seed of dropout.
        dtype: dtype or policy of all layers but the output, which is float32.

    Example:

    >>> from luna_tf.models.lra_head import make_head
    >>> [layer.name for layer in make_head(10, 64, 0.0, None, "float32")]
    ['head_hidden', 'logits']
    """
    head: list[keras.layers.Layer] = []
    if dropout:
        head.append(
            keras.layers.Dropout(
                dropout, seed=seed, dtype=dtype, name="head_dropout"
            )
        )
    if hidden_dim is not None:
        head.append(
            keras.layers.Dense(
                hidden_dim, activation="relu", dtype=dtype, name="head_hidden"
            )
        )
    head.append(
        keras.layers.Dense(
            num_classes, use_bias=False, dtype="float32", name="logits"
        )
    )
    return head


def join_pairs(vectors: Any, kind: str) -> Any:
    """Joins the two vectors of every example into one.

    Args:
        vectors: `(2 B, D)`, in the order of `lra_inputs.stack_documents`.
        kind: `"concatenation"` for the second and the first vector, as in the
            official release of 2021; `"interaction"` for both, their product
            and their difference, as in its later versions.

    Returns:
        `(B, 2 D)` or `(B, 4 D)`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models.lra_head import join_pairs
    >>> np.array(join_pairs(np.array([[3.0], [5.0]]), "interaction"))
    array([[ 3.,  5., 15., -2.]])
    """
    pair = ops.reshape(vectors, (2, -1, vectors.shape[-1]))
    first, second = pair[0], pair[1]
    if kind == "concatenation":
        return ops.concatenate([second, first], axis=-1)
    return ops.concatenate(
        [first, second, first * second, first - second], axis=-1
    )
