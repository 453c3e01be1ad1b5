"""What the preprocessors add to KerasHub's."""

from typing import Any

import keras
import numpy as np

from luna_tf.layers._arguments import check_positive

# Of texts, in tokens, where nothing else is said.
DEFAULT_LENGTH = 512


def first_length(given: int | None) -> int:
    """Length of texts until a backbone limits it."""
    return DEFAULT_LENGTH if given is None else given


class GivenLength:
    """A preprocessor of KerasHub that knows whether its length was given.

    It comes before the class of KerasHub, whose constructor sets the length;
    `_given_length` is to be set behind that.
    """

    _given_length: int | None = None
    packer: Any

    def limit_length(self, limit):
        """Shortens texts to a number of tokens, unless a length was given.

        Args:
            limit: int, learned positions of a backbone.
        """
        if self._given_length is None:
            self._set_length(min(limit, DEFAULT_LENGTH))

    @property
    def sequence_length(self):
        """Tokens of a row. One that is set is kept, as one given is."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value):
        check_positive(sequence_length=value)
        self._given_length = value
        self._set_length(value)

    def _set_length(self, value):
        self._sequence_length = value
        if self.packer is not None:
            self.packer.sequence_length = value


def integer_masks(result: Any) -> Any:
    """Casts bool arrays and tensors of a structure to int32.

    KerasHub's preprocessors emit bool masks, which `fit` cannot average when
    it runs on several replicas.
    """

    def cast(x):
        if not hasattr(x, "dtype"):
            return x
        if keras.backend.standardize_dtype(x.dtype) != "bool":
            return x
        if isinstance(x, np.ndarray):
            return x.astype("int32")
        return keras.ops.cast(x, "int32")

    return keras.tree.map_structure(cast, result)


def keep_segments(result: Any, keep: bool) -> Any:
    """Removes `"segment_ids"` from the inputs of a model, unless they stay.

    Args:
        result: what a preprocessor of KerasHub returns: inputs, or a tuple
            that begins with them.
        keep: bool, whether they stay.
    """
    x, *others = result if isinstance(result, tuple) else (result,)
    x = {k: v for k, v in x.items() if keep or k != "segment_ids"}
    return (x, *others) if others else x


def known_texts(texts: Any) -> list[str] | None:
    """Returns texts as Python strings, or None inside of a graph."""
    if isinstance(texts, (str, bytes)):
        texts = [texts]
    if not isinstance(texts, (list, tuple, np.ndarray)):
        if not hasattr(texts, "numpy"):
            return None
        texts = texts.numpy()
    if not isinstance(texts, (list, tuple)):
        texts = np.ravel(texts)
    return [t.decode() if isinstance(t, bytes) else str(t) for t in texts]


def check_prompts(
    name: str, texts: Any, tokenizer: Any, sequence_length: int
) -> None:
    """Raises unless every prompt leaves room for one more token.

    Args:
        name: str, the argument that brought the prompts.
        texts: str or several; not checked inside of a graph.
        tokenizer: turns them into token ids, without start token.
        sequence_length: int, room for start token, prompt and what follows.
    """
    for row, text in enumerate(known_texts(texts) or ()):
        tokens = len(tokenizer(text))
        if tokens + 1 >= sequence_length:
            raise ValueError(
                f"`{name}` must have fewer than {sequence_length - 1} tokens "
                f"for a sequence length of {sequence_length}, start token and "
                f"one new token included. Got {tokens} in row {row}."
            )
