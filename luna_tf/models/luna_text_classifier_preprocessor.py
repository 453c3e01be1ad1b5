"""From strings to batches of token ids for a classifier."""

import keras
import keras_hub

from luna_tf.layers._arguments import check_positive
from luna_tf.models._preprocessing import (
    DEFAULT_LENGTH,
    integer_masks,
    keep_segments,
)
from luna_tf.models.luna_backbone import LunaBackbone
from luna_tf.models.luna_tokenizers import LunaWordPieceTokenizer


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaTextClassifierPreprocessor(
    keras_hub.models.TextClassifierPreprocessor
):
    """Tokenizes and pads texts, or pairs of texts, for `LunaTextClassifier`.

    Args:
        tokenizer: see `LunaMaskedLMPreprocessor`.
        sequence_length: int, length `T` of texts, special tokens included.
            Defaults to 512, or to the learned positions of the backbone that
            it comes to, if these are fewer.
        truncate: `"round_robin"` or `"waterfall"`: how two long texts share
            the room.
        use_segments: bool, whether there are `"segment_ids"`, for a backbone
            with `num_segments`.
        **kwargs: of `keras_hub.models.TextClassifierPreprocessor`.

    Call arguments:
        x: str or several; a tuple of two for pairs, to be called with `y=None`
            lest KerasHub take the second for labels.
        y: labels, handed on.
        sample_weight: weights, handed on.

    Returns:
        dict of int32 `"token_ids"` and `"padding_mask"` `(B, T)`, with labels
        and weights where they were given.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> from luna_tf.models import LunaByteTokenizer
    >>> from luna_tf.models import LunaTextClassifierPreprocessor
    >>> preprocessor = LunaTextClassifierPreprocessor(
    ...     LunaByteTokenizer(), sequence_length=5)
    >>> preprocessor("ab")["token_ids"].numpy().tolist()
    [254, 97, 98, 255, 0]
    """

    backbone_cls = LunaBackbone
    tokenizer_cls = LunaWordPieceTokenizer

    def __init__(
        self,
        tokenizer,
        sequence_length=None,
        truncate="round_robin",
        use_segments=False,
        **kwargs,
    ):
        self._given_length = sequence_length
        if sequence_length is None:
            sequence_length = DEFAULT_LENGTH
        check_positive(sequence_length=sequence_length)
        super().__init__(
            tokenizer,
            sequence_length=sequence_length,
            truncate=truncate,
            **kwargs,
        )
        self.use_segments = use_segments

    def call(self, x, y=None, sample_weight=None):
        result = super().call(x, y, sample_weight)
        return keep_segments(integer_masks(result), self.use_segments)

    def limit_length(self, limit):
        """Shortens texts to a number of tokens, unless a length was given.

        Args:
            limit: int, learned positions of a backbone.
        """
        if self._given_length is None:
            self.sequence_length = min(limit, DEFAULT_LENGTH)

    def get_config(self):
        return {
            **super().get_config(),
            "sequence_length": self._given_length,
            "use_segments": self.use_segments,
        }
