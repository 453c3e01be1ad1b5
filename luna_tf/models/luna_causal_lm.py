"""Language model with causal Luna attention."""

import keras
import keras_hub
from keras import ops

from luna_tf.models._generation import CachedLanguageModel, continue_prompts
from luna_tf.models._task import check_positions, check_vocabulary
from luna_tf.models.luna_causal_lm_backbone import LunaCausalLMBackbone
from luna_tf.models.luna_causal_lm_preprocessor import LunaCausalLMPreprocessor


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalLM(CachedLanguageModel, keras_hub.models.CausalLM):
    """`LunaCausalLMBackbone` with an output projection, for text.

    With a preprocessor, `fit` takes strings and `generate` gives strings, as
    with every `keras_hub.models.CausalLM`. Each token takes the same time, and
    the cache the same memory, however long the text is.

    Args:
        backbone: `LunaCausalLMBackbone`.
        preprocessor: `LunaCausalLMPreprocessor`, or None to work on token ids.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict, see `LunaCausalLMBackbone`.

    Returns:
        Logits `(B, T, vocabulary_size)`, float32.

    Raises:
        ValueError: if backbone and tokenizer differ in `vocabulary_size`, or
            learned positions do not cover the preprocessor's length.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaCausalLM, LunaCausalLMBackbone
    >>> model = LunaCausalLM(LunaCausalLMBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> cache = model.initial_cache(batch_size=1, max_length=10)
    >>> logits, cache = model.next_logits(np.array([[5, 6, 7]]), cache, 0)
    >>> tuple(logits.shape)
    (1, 3, 50)
    """

    backbone_cls = LunaCausalLMBackbone
    preprocessor_cls = LunaCausalLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        check_positions(backbone, preprocessor, "sequence_length")
        check_vocabulary(backbone, preprocessor)
        self.backbone = backbone
        self.preprocessor = preprocessor
        outputs = self._logits(backbone(backbone.input))
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)

    def initial_cache(self, batch_size, max_length):
        """Prepares decoding.

        Args:
            batch_size: int or integer scalar tensor `B`.
            max_length: int, most tokens, start token included. The cache has
                the same size whatever it is.

        Returns:
            dict of tensors, the batch on the first axis of each.

        Raises:
            ValueError: if learned positions end before `max_length`.
        """
        return self.backbone.initial_cache(batch_size, max_length)

    def generate_step(self, inputs, stop_token_ids=None):
        """Generates for one batch of token ids; see `generate`.

        Args:
            inputs: dict of `"token_ids"`, prompts, padded on the right, and
                `"padding_mask"`.
            stop_token_ids: ints at which a row ends, or None.

        Returns:
            dict of `"token_ids"` and `"padding_mask"`.
        """
        prompt = inputs["token_ids"]
        cache = self.initial_cache(ops.shape(prompt)[0], prompt.shape[1])
        token_ids, mask = continue_prompts(
            self, cache, prompt, inputs["padding_mask"], stop_token_ids
        )
        return {"token_ids": token_ids, "padding_mask": mask}
