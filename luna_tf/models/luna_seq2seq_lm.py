"""Sequence-to-sequence language model: translation and its like."""

import keras
import keras_hub
from keras import ops

from luna_tf.models._generation import CachedLanguageModel, continue_prompts
from luna_tf.models._task import check_positions, check_vocabulary
from luna_tf.models.luna_seq2seq_backbone import LunaSeq2SeqBackbone
from luna_tf.models.luna_seq2seq_lm_preprocessor import (
    LunaSeq2SeqLMPreprocessor,
)


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaSeq2SeqLM(CachedLanguageModel, keras_hub.models.Seq2SeqLM):
    """`LunaSeq2SeqBackbone` with an output projection, for text to text.

    With a preprocessor, `fit` takes strings and `generate` gives strings, as
    with every `keras_hub.models.Seq2SeqLM`. Decoding keeps running sums
    instead of keys and values: a cache whose size does not depend on the number
    of tokens (Luna paper, section 3.3).

    Args:
        backbone: `LunaSeq2SeqBackbone`.
        preprocessor: `LunaSeq2SeqLMPreprocessor`, or None to work on token ids.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict, see `LunaSeq2SeqBackbone`.

    Returns:
        Logits `(B, T, vocabulary_size)`, float32.

    Raises:
        ValueError: if backbone and tokenizer differ in `vocabulary_size`, or
            learned positions do not cover the preprocessor's lengths.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
    >>> model = LunaSeq2SeqLM(LunaSeq2SeqBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> cache = model.initial_cache([[5, 6, 2]], [[1, 1, 1]], max_length=10)
    >>> logits, cache = model.next_logits(np.array([[2]]), cache, 0)
    >>> tuple(logits.shape)
    (1, 1, 50)
    """

    backbone_cls = LunaSeq2SeqBackbone
    preprocessor_cls = LunaSeq2SeqLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        check_positions(
            backbone,
            preprocessor,
            "encoder_sequence_length",
            "decoder_sequence_length",
        )
        check_vocabulary(backbone, preprocessor)
        self.backbone = backbone
        self.preprocessor = preprocessor
        x = backbone(backbone.input)["decoder_sequence_output"]
        super().__init__(
            inputs=backbone.input, outputs=self._logits(x), **kwargs
        )

    def initial_cache(
        self, encoder_token_ids, encoder_padding_mask, max_length
    ):
        """Runs the encoder and prepares decoding.

        Args:
            encoder_token_ids: integer tensor `(B, S)`.
            encoder_padding_mask: `(B, S)`, nonzero = keep.
            max_length: int, most target tokens, start token included. Only the
                softmax baseline's cache grows with it.

        Returns:
            dict of tensors, the batch on the first axis of each.

        Raises:
            ValueError: if learned positions end before `max_length`.
        """
        return self.backbone.initial_cache(
            ops.convert_to_tensor(encoder_token_ids),
            ops.convert_to_tensor(encoder_padding_mask),
            max_length,
        )

    def generate_step(self, inputs, stop_token_ids=None):
        """Generates for one batch of token ids; see `generate`.

        Args:
            inputs: dict, see `LunaSeq2SeqBackbone`; the decoder's tokens are
                prompts, padded on the right.
            stop_token_ids: ints at which a row ends, or None.

        Returns:
            dict of `"decoder_token_ids"` and `"decoder_padding_mask"`.
        """
        prompt = inputs["decoder_token_ids"]
        cache = self.initial_cache(
            inputs["encoder_token_ids"],
            inputs["encoder_padding_mask"],
            prompt.shape[1],
        )
        token_ids, mask = continue_prompts(
            self, cache, prompt, inputs["decoder_padding_mask"], stop_token_ids
        )
        return {"decoder_token_ids": token_ids, "decoder_padding_mask": mask}
