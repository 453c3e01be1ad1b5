"""Text classifier, or regressor, with Luna attention."""

import keras
import keras_hub
from keras import ops

from luna_tf.layers._arguments import check_choice, check_positive, check_rate
from luna_tf.models._task import LunaTask, check_positions, check_vocabulary
from luna_tf.models.luna_backbone import LunaBackbone
from luna_tf.models.luna_text_classifier_preprocessor import (
    LunaTextClassifierPreprocessor,
)
from luna_tf.ops import unused_zeros

POOLING = ("first", "packed", "attention")


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaTextClassifier(LunaTask, keras_hub.models.TextClassifier):
    """`LunaBackbone` with one of the official heads, for text.

    With a preprocessor, `fit` and `predict` take strings, or a tuple of two
    lists of them for pairs, as with every `keras_hub.models.TextClassifier`.

    The vector that is classified comes from the first token; or from the
    packed sequence, of which each feature's maximum is taken after a dense
    layer; or from the first token once more looking at the packed sequence,
    by softmax attention and a layer norm. A dense layer with tanh and the
    output layer follow.

    Args:
        backbone: `LunaBackbone`.
        num_classes: int, classes; 1 for a regressor, which is to be compiled
            with a loss such as `"mse"`.
        preprocessor: `LunaTextClassifierPreprocessor`, or None to work on
            token ids.
        pooling: `"first"`, `"packed"` or `"attention"`; the last two need Luna
            attention.
        hidden_dim: int, width of the head. Defaults to the backbone's.
        dropout: float in [0, 1), rate before each of its two dense layers.
        activation: Activation of the outputs, such as `"softmax"`. None gives
            logits.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of the backbone's inputs.

    Returns:
        `(B, num_classes)`, float32.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaBackbone, LunaTextClassifier
    >>> model = LunaTextClassifier(LunaBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4), num_classes=3)
    >>> ids = np.array([[5, 6, 7]])
    >>> tuple(model({"token_ids": ids, "padding_mask": ids}).shape)
    (1, 3)
    """

    backbone_cls = LunaBackbone
    preprocessor_cls = LunaTextClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes,
        preprocessor=None,
        pooling="first",
        hidden_dim=None,
        dropout=0.1,
        activation=None,
        **kwargs,
    ):
        check_positive(num_classes=num_classes)
        check_choice(POOLING, pooling=pooling)
        check_rate(dropout=dropout)
        if pooling != "first" and backbone.attention != "luna":
            raise ValueError(
                "`pooling` must be 'first' with a backbone of softmax "
                f"attention, which has no packed sequence. Got: {pooling!r}"
            )
        check_positions(backbone, preprocessor, "sequence_length")
        check_vocabulary(backbone, preprocessor)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.num_classes = num_classes
        self.pooling = pooling
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        width, policy = backbone.hidden_dim, backbone.dtype_policy

        # === Layers ===
        self.pooling_layers = _pooling_layers(
            pooling, width, backbone.num_heads, policy
        )
        self.dense = keras.layers.Dense(
            hidden_dim or width,
            activation="tanh",
            dtype=policy,
            name="pooled_dense",
        )
        self.output_dense = keras.layers.Dense(
            num_classes, dtype="float32", name="logits"
        )
        dropouts = [
            keras.layers.Dropout(dropout, dtype=policy, name=f"{name}_dropout")
            for name in ("pooled", "output")
        ]

        # === Functional Model ===
        x = self._pool(backbone(backbone.input))
        x = self.dense(dropouts[0](x))
        x = self.output_dense(dropouts[1](x))
        outputs = self.activation(x)
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)

    def _pool(self, outputs):
        # Their Keras masks end here.
        sequences = {name: ops.copy(x) for name, x in outputs.items()}
        x = sequences["sequence_output"]
        p = sequences.get("packed_output")
        if self.pooling == "first":
            first = x[:, 0]
            # Nothing reads the packed sequence of the last block.
            return first if p is None else first + unused_zeros(p[:, 0])
        mask = ops.cast(sequences["packed_padding_mask"], "bool")
        if self.pooling == "packed":
            (project,) = self.pooling_layers
            values = project(p)
            lowest = ops.cast(-1e4, values.dtype)
            values = ops.where(mask[..., None], values, lowest)
            return ops.max(values, axis=1) + unused_zeros(x[:, 0])
        attend, norm = self.pooling_layers
        attended = attend(x[:, :1], p, attention_mask=mask[:, None])
        return norm(attended)[:, 0]

    def get_config(self):
        names = "num_classes pooling hidden_dim dropout"
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names.split()},
            "activation": keras.activations.serialize(self.activation),
        }


def _pooling_layers(pooling, width, num_heads, policy):
    if pooling == "first":
        return []
    if pooling == "packed":
        return [keras.layers.Dense(width, dtype=policy, name="packed_dense")]
    return [
        keras.layers.MultiHeadAttention(
            num_heads, width // num_heads, dtype=policy, name="attention"
        ),
        keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=policy, name="attention_layer_norm"
        ),
    ]
