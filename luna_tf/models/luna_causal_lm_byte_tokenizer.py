"""Byte tokenizer of the language models."""

import keras
import keras_hub

from luna_tf.models.luna_causal_lm_backbone import LunaCausalLMBackbone


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalLMByteTokenizer(keras_hub.tokenizers.ByteTokenizer):
    """One token per byte of UTF-8, for `LunaCausalLM`.

    Nothing has to be learned, and no text is out of vocabulary. The special
    tokens are bytes that no text has: 0 is padding, and 254 and 255, which are
    not valid in UTF-8, are start and end. So there are 256 tokens in all.

    Args:
        lowercase: bool, whether to fold case first.
        **kwargs: of `keras_hub.tokenizers.ByteTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: see `keras_hub.tokenizers.ByteTokenizer`.

    Example:

    >>> from luna_tf.models import LunaCausalLMByteTokenizer
    >>> tokenizer = LunaCausalLMByteTokenizer()
    >>> [int(i) for i in tokenizer("Luna")]
    [76, 117, 110, 97]
    >>> tokenizer.vocabulary_size(), tokenizer.special_token_ids
    (256, [0, 254, 255])
    """

    backbone_cls = LunaCausalLMBackbone
    has_vocabulary = True
    pad_token_id = 0
    start_token_id = 254
    end_token_id = 255

    def __init__(self, lowercase=False, **kwargs):
        super().__init__(lowercase=lowercase, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    @property
    def special_token_ids(self):
        """The ids of padding, start and end."""
        return [self.pad_token_id, self.start_token_id, self.end_token_id]

    def save_assets(self, dir_path):
        """Saves no file: there is no vocabulary to save."""

    def load_preset_assets(self, preset):
        """Loads no file: KerasHub would look for one."""
