"""From strings to batches with hidden tokens."""

import math

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
from luna_tf.models.luna_tokenizers import LunaWordPieceTokenizer


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaMaskedLMPreprocessor(
    GivenLength, keras_hub.models.MaskedLMPreprocessor
):
    """Tokenizes and pads texts for `LunaMaskedLM`, and hides some tokens.

    Of the tokens of a text 15 % are chosen; of these 80 % are replaced by the
    mask token, 10 % by some other token, and 10 % stay (the recipe of BERT).
    Special tokens are never chosen. `luna_tf.data.corpus` masks in the same
    way, and whole words if asked to, from files of any size; the other tokens
    that it puts in place are never special ones, as KerasHub's may be.

    Args:
        tokenizer: `LunaWordPieceTokenizer`, `LunaBytePairTokenizer`,
            `LunaSentencePieceTokenizer` or `LunaByteTokenizer`.
        sequence_length: int, length `T` of texts, special tokens included.
            Defaults to 512, or to the learned positions of the backbone that
            it comes to, if these are fewer.
        truncate: `"round_robin"` or `"waterfall"`: how two long texts share
            the room.
        mask_selection_rate: float in (0, 1), share of tokens to predict.
        mask_selection_length: int, room `M` for them, whatever the text has.
            Defaults to what a text of full length needs.
        mask_token_rate: float, share of them that the mask token replaces.
        random_token_rate: float, share that another token replaces.
        use_segments: bool, whether there are `"segment_ids"`, for a backbone
            with `num_segments`.
        **kwargs: of `keras_hub.models.MaskedLMPreprocessor`.

    Call arguments:
        x: str or several; a tuple of two for pairs, to be called with `y=None`
            lest KerasHub take the second for labels.

    Returns:
        dict of int32 `"token_ids"` and `"padding_mask"` `(B, T)` and
        `"mask_positions"` `(B, M)`; the hidden tokens `(B, M)`; and their
        weights `(B, M)`, 0 where a text has fewer.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> from luna_tf.models import LunaByteTokenizer
    >>> from luna_tf.models import LunaMaskedLMPreprocessor
    >>> preprocessor = LunaMaskedLMPreprocessor(
    ...     LunaByteTokenizer(), sequence_length=20)
    >>> x, y, weight = preprocessor(["a moon", "another one"])
    >>> {name: tuple(v.shape) for name, v in sorted(x.items())}
    {'mask_positions': (2, 3), 'padding_mask': (2, 20), 'token_ids': (2, 20)}
    """

    backbone_cls = LunaBackbone
    tokenizer_cls = LunaWordPieceTokenizer

    def __init__(
        self,
        tokenizer,
        sequence_length=None,
        truncate="round_robin",
        mask_selection_rate=0.15,
        mask_selection_length=None,
        mask_token_rate=0.8,
        random_token_rate=0.1,
        use_segments=False,
        **kwargs,
    ):
        given_length = sequence_length
        sequence_length = first_length(given_length)
        check_positive(sequence_length=sequence_length)
        if not 0 < mask_selection_rate < 1:
            raise ValueError(
                "`mask_selection_rate` must be above 0 and below 1, or "
                f"nothing is left to learn. Got: {mask_selection_rate}"
            )
        self._given_selection_length = mask_selection_length
        if mask_selection_length is None:
            mask_selection_length = selection_length(
                sequence_length, mask_selection_rate
            )
        check_positive(mask_selection_length=mask_selection_length)
        for name, rate in (
            ("mask_token_rate", mask_token_rate),
            ("random_token_rate", random_token_rate),
        ):
            if not 0 <= rate <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1. Got: {rate}")
        if mask_token_rate + random_token_rate > 1 + 1e-6:
            raise ValueError(
                "`mask_token_rate` and `random_token_rate` must not be more "
                f"than 1 together. Got: {mask_token_rate}, {random_token_rate}"
            )
        super().__init__(
            tokenizer,
            sequence_length=sequence_length,
            truncate=truncate,
            mask_selection_rate=mask_selection_rate,
            mask_selection_length=mask_selection_length,
            mask_token_rate=mask_token_rate,
            random_token_rate=random_token_rate,
            **kwargs,
        )
        self._given_length = given_length
        self.use_segments = use_segments

    def call(self, x, y=None, sample_weight=None):
        result = super().call(x, y, sample_weight)
        return keep_segments(integer_masks(result), self.use_segments)

    def _set_length(self, value):
        super()._set_length(value)
        # Not yet known while KerasHub's constructor runs, which sets it next.
        rate = getattr(self, "mask_selection_rate", None)
        if rate is None or self._given_selection_length is not None:
            return
        self.mask_selection_length = selection_length(value, rate)
        if self.masker is not None:
            self.masker.mask_selection_length = self.mask_selection_length

    def get_config(self):
        return {
            **super().get_config(),
            "sequence_length": self._given_length,
            "mask_selection_length": self._given_selection_length,
            "use_segments": self.use_segments,
        }


def selection_length(sequence_length: int, rate: float) -> int:
    """Returns the most tokens that are chosen of a text of this length.

    Args:
        sequence_length: int, start and end token included.
        rate: float, share that is chosen.
    """
    return max(1, math.ceil((sequence_length - 2) * rate - 1e-4))
