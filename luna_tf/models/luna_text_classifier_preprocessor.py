"""From strings to batches of token ids for a classifier."""

import keras
import keras_hub

from luna_tf.layers._arguments import check_positive
from luna_tf.models._preprocessing import (
    GivenLength,
    first_length,
    integer_masks,
    keep_segments,
)
from luna_tf.models.luna_backbone import LunaBackbone
from luna_tf.models.luna_tokenizers import (
    LunaBytePairTokenizer,
    LunaWordPieceTokenizer,
)


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaTextClassifierPreprocessor(
    GivenLength, keras_hub.models.TextClassifierPreprocessor
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
        num_separators: int, end tokens between the texts of a pair. Defaults
            to 2 with a `LunaBytePairTokenizer`, as the official models were
            fine-tuned, and to 1 otherwise, as in BERT.
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
        num_separators=None,
        **kwargs,
    ):
        if num_separators is None:
            is_official = isinstance(tokenizer, LunaBytePairTokenizer)
            num_separators = 2 if is_official else 1
        check_positive(num_separators=num_separators)
        super().__init__(
            tokenizer,
            sequence_length=first_length(sequence_length),
            truncate=truncate,
            **kwargs,
        )
        self._given_length = sequence_length
        self.use_segments = use_segments
        self.num_separators = num_separators

    def build(self, input_shape):
        super().build(input_shape)
        end = self.tokenizer.end_token_id
        self.packer = keras_hub.layers.MultiSegmentPacker(
            start_value=self.tokenizer.start_token_id,
            end_value=end,
            sep_value=[end] * self.num_separators,
            pad_value=self.tokenizer.pad_token_id,
            truncate=self.truncate,
            sequence_length=self.sequence_length,
        )

    def call(self, x, y=None, sample_weight=None):
        result = super().call(x, y, sample_weight)
        return keep_segments(integer_masks(result), self.use_segments)

    def get_config(self):
        return {
            **super().get_config(),
            "sequence_length": self._given_length,
            "use_segments": self.use_segments,
            "num_separators": self.num_separators,
        }
