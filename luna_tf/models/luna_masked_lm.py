"""Masked language model with Luna attention."""

import keras
import keras_hub
from keras import ops

from luna_tf.models._task import LunaTask, check_positions, check_vocabulary
from luna_tf.models.luna_backbone import LunaBackbone
from luna_tf.models.luna_masked_lm_preprocessor import LunaMaskedLMPreprocessor
from luna_tf.ops import unused_zeros


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaMaskedLM(LunaTask, keras_hub.models.MaskedLM):
    """`LunaBackbone` that guesses hidden tokens.

    With a preprocessor, `fit` takes strings and hides tokens itself, as with
    every `keras_hub.models.MaskedLM`. The head is the official one: dense
    layer, activation of the backbone, layer norm, token embeddings and a bias.

    Args:
        backbone: `LunaBackbone`.
        preprocessor: `LunaMaskedLMPreprocessor`, or None to work on token ids.
        share_embeddings: bool, whether the output is the table of the token
            embeddings; False is the official `--untie-weights-luna`.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of the backbone's inputs and `"mask_positions"`, int32
            `(B, M)`.

    Returns:
        Logits `(B, M, vocabulary_size)`, float32.

    Raises:
        ValueError: if backbone and tokenizer differ in `vocabulary_size`, or
            learned positions do not cover the preprocessor's length.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaBackbone, LunaMaskedLM
    >>> model = LunaMaskedLM(LunaBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> ids = np.array([[5, 6, 7]])
    >>> logits = model({
    ...     "token_ids": ids, "padding_mask": np.ones_like(ids),
    ...     "mask_positions": np.array([[1]])})
    >>> tuple(logits.shape)
    (1, 1, 50)
    """

    backbone_cls = LunaBackbone
    preprocessor_cls = LunaMaskedLMPreprocessor

    def __init__(
        self, backbone, preprocessor=None, share_embeddings=True, **kwargs
    ):
        check_positions(backbone, preprocessor, "sequence_length")
        check_vocabulary(backbone, preprocessor)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.share_embeddings = share_embeddings
        self.masked_lm_head = keras_hub.layers.MaskedLMHead(
            vocabulary_size=backbone.vocabulary_size,
            token_embedding=(
                backbone.token_embedding if share_embeddings else None
            ),
            intermediate_activation=backbone.activation,
            kernel_initializer="glorot_uniform",
            # In half precision it would round the logits.
            dtype="float32",
            name="masked_lm_head",
        )
        inputs = {
            **backbone.input,
            "mask_positions": keras.Input(
                (None,), dtype="int32", name="mask_positions"
            ),
        }
        outputs = backbone(backbone.input)
        x = ops.copy(outputs["sequence_output"])  # its Keras mask ends here
        if "packed_output" in outputs:
            # Nothing reads the packed sequence of the last block.
            x = x + unused_zeros(outputs["packed_output"][:, :1])
        logits = self.masked_lm_head(x, inputs["mask_positions"])
        super().__init__(
            inputs=inputs, outputs=ops.cast(logits, "float32"), **kwargs
        )

    def get_config(self):
        return {
            **super().get_config(),
            "share_embeddings": self.share_embeddings,
        }
