"""From pairs of strings to batches of token ids, and back."""

import keras
import keras_hub

from luna_tf.layers._arguments import check_positive
from luna_tf.models._preprocessing import (
    check_prompts,
    integer_masks,
    known_texts,
)
from luna_tf.models.luna_seq2seq_backbone import LunaSeq2SeqBackbone
from luna_tf.models.luna_seq2seq_tokenizer import LunaSeq2SeqTokenizer


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaSeq2SeqLMPreprocessor(keras_hub.models.Seq2SeqLMPreprocessor):
    """Tokenizes and pads pairs of texts for `LunaSeq2SeqLM`.

    As in fairseq, a source is its tokens and the end token, without start
    token; a target is the start token, its tokens and the end token. Padding
    is on the right, and longer texts are cut. A source must not be empty;
    inside of `tf.data`, as in `fit` on strings, nothing checks that.

    Args:
        tokenizer: `LunaSeq2SeqTokenizer`.
        encoder_sequence_length: int, length `S` of sources.
        decoder_sequence_length: int, length `T` of targets.
        **kwargs: of `keras_hub.models.Seq2SeqLMPreprocessor`.

    Call arguments:
        x: dict of `"encoder_text"` and `"decoder_text"`, each a str or several.
        encoder_sequence_length: int, instead of the constructor's.
        decoder_sequence_length: int, likewise.

    Returns:
        The model's inputs, with masks in int32; the targets `(B, T)`; and their
        weights `(B, T)`, int32, 0 at padding.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> from luna_tf.models import LunaSeq2SeqLMPreprocessor
    >>> from luna_tf.models import LunaSeq2SeqTokenizer
    >>> preprocessor = LunaSeq2SeqLMPreprocessor(
    ...     LunaSeq2SeqTokenizer(), decoder_sequence_length=64)
    >>> preprocessor.get_config()["decoder_sequence_length"]
    64
    """

    backbone_cls = LunaSeq2SeqBackbone
    tokenizer_cls = LunaSeq2SeqTokenizer

    def __init__(
        self,
        tokenizer,
        encoder_sequence_length=1024,
        decoder_sequence_length=1024,
        **kwargs,
    ):
        check_positive(
            encoder_sequence_length=encoder_sequence_length,
            decoder_sequence_length=decoder_sequence_length,
        )
        super().__init__(
            tokenizer,
            encoder_sequence_length=encoder_sequence_length,
            decoder_sequence_length=decoder_sequence_length,
            **kwargs,
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.encoder_packer = keras_hub.layers.StartEndPacker(
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            sequence_length=self.encoder_sequence_length,
            return_padding_mask=True,
        )

    def call(self, x, y=None, sample_weight=None, **kwargs):
        if not isinstance(x, dict) or not {"encoder_text", "decoder_text"} <= {
            *x
        }:
            got = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                "`x` must be a dict with 'encoder_text' and 'decoder_text'. "
                f"Got: {got}"
            )
        _check_sources(x["encoder_text"])
        return integer_masks(super().call(x, y, sample_weight, **kwargs))

    def generate_preprocess(
        self,
        x,
        *,
        encoder_sequence_length=None,
        decoder_sequence_length=None,
        sequence_length=None,
    ):
        """Turns texts into what `generate` of the model continues.

        Args:
            x: str or several, the sources; or a dict of `"encoder_text"` and
                `"decoder_text"`, the latter being prompts.
            encoder_sequence_length: int, instead of the constructor's.
            decoder_sequence_length: int, likewise: start token, prompt and
                generated tokens.
            sequence_length: int, the same.

        Returns:
            dict, the model's inputs.

        Raises:
            ValueError: if a source is empty, or a prompt leaves no room.
        """
        length = decoder_sequence_length or sequence_length
        length = length or self.decoder_sequence_length
        if isinstance(x, dict) and "decoder_text" not in x:
            x = x["encoder_text"]
        sources = x["encoder_text"] if isinstance(x, dict) else x
        _check_sources(sources)
        if isinstance(x, dict):
            check_prompts(
                "decoder_text", x["decoder_text"], self.tokenizer, length
            )
        return integer_masks(
            super().generate_preprocess(
                x,
                encoder_sequence_length=encoder_sequence_length,
                decoder_sequence_length=length,
            )
        )

    def get_config(self):
        return {
            **super().get_config(),
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
        }


def _check_sources(texts):
    for row, text in enumerate(known_texts(texts) or ()):
        if not text.strip():
            raise ValueError(
                f"`encoder_text` must not be empty. Got {text!r} in row {row}."
            )
