"""From strings to batches of token ids for a language model, and back."""

import keras
import keras_hub

from luna_tf.layers._arguments import check_positive
from luna_tf.models._preprocessing import check_prompts, integer_masks
from luna_tf.models.luna_causal_lm_backbone import LunaCausalLMBackbone
from luna_tf.models.luna_causal_lm_tokenizer import LunaCausalLMTokenizer


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalLMPreprocessor(keras_hub.models.CausalLMPreprocessor):
    """Tokenizes and pads texts for `LunaCausalLM`.

    Args:
        tokenizer: `LunaCausalLMTokenizer` or `LunaCausalLMByteTokenizer`.
        sequence_length: int, length `T` of texts, start token included.
        **kwargs: of `keras_hub.models.CausalLMPreprocessor`.

    Call arguments:
        x: str or several.
        sequence_length: int, instead of the constructor's.

    Returns:
        dict of `"token_ids"` and `"padding_mask"` `(B, T)`, int32; the targets
        `(B, T)`; and their weights `(B, T)`, int32, 0 at padding.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> from luna_tf.models import LunaCausalLMByteTokenizer
    >>> from luna_tf.models import LunaCausalLMPreprocessor
    >>> preprocessor = LunaCausalLMPreprocessor(
    ...     LunaCausalLMByteTokenizer(), sequence_length=4)
    >>> x, y, weight = preprocessor("ab")
    >>> x["token_ids"].numpy().tolist(), y.numpy().tolist()
    ([254, 97, 98, 255], [97, 98, 255, 0])
    """

    backbone_cls = LunaCausalLMBackbone
    tokenizer_cls = LunaCausalLMTokenizer

    def __init__(self, tokenizer, sequence_length=1024, **kwargs):
        check_positive(sequence_length=sequence_length)
        super().__init__(tokenizer, sequence_length=sequence_length, **kwargs)

    def call(self, x, y=None, sample_weight=None, **kwargs):
        return integer_masks(super().call(x, y, sample_weight, **kwargs))

    def generate_preprocess(self, x, sequence_length=None):
        """Turns prompts into what `generate` of the model continues.

        Args:
            x: str or several.
            sequence_length: int, instead of the constructor's: start token,
                prompt and generated tokens.

        Returns:
            dict, the model's inputs.

        Raises:
            ValueError: if a prompt leaves no room.
        """
        length = sequence_length or self.sequence_length
        check_prompts("inputs", x, self.tokenizer, length)
        return integer_masks(
            super().generate_preprocess(x, sequence_length=length)
        )
