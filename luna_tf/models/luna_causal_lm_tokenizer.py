"""Subword tokenizer of the language models."""

import keras

from luna_tf.models._sentence_piece import SpecialSentencePieceTokenizer
from luna_tf.models.luna_causal_lm_backbone import LunaCausalLMBackbone


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalLMTokenizer(SpecialSentencePieceTokenizer):
    """SentencePiece tokenizer for `LunaCausalLM`.

    Args:
        proto: str path or bytes of a SentencePiece model.
        start_token: str, piece that a text starts from.
        end_token: str, piece that ends a text.
        pad_token: str, piece that fills up a batch.
        **kwargs: of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: if the vocabulary lacks a special token.

    Example:

    >>> from luna_tf.models import LunaCausalLMTokenizer
    >>> tokenizer = LunaCausalLMTokenizer()  # `set_proto` comes later
    >>> tokenizer.has_vocabulary
    False
    """

    backbone_cls = LunaCausalLMBackbone
