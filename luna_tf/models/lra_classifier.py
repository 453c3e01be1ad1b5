"""Sequence classifier of the Long Range Arena, with Luna or its baseline."""

import keras

from luna_tf.layers import (
    LunaEmbedding,
    LunaPooling,
    LunaTransformerBlock,
)
from luna_tf.layers._arguments import (
    check_choice,
    check_positive,
    check_rate,
)
from luna_tf.layers.luna_pooling import POOLING
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock

ATTENTIONS = ("luna", "softmax")
# What softmax attention has no use for, and the value that says so.
_LUNA_ONLY = {
    "num_pack_heads": None,
    "tie_key_value": False,
    "dynamic_packing": True,
    "contraction": "auto",
}


@keras.saving.register_keras_serializable(package="luna_tf")
class LRAClassifier(keras.Model):
    """Luna encoder and classification head of the Long Range Arena.

    Embedding with layer norms on both sequences, `num_layers` blocks, pooling,
    and a head of one or two dense layers, the last without bias. The defaults
    are those of the paper's models; the sizes are the official `luna_lra_*`
    architectures' (Luna paper, section 4.1 and appendix).

    With `attention="softmax"` it is the baseline: the same encoder with
    softmax attention in its blocks and without a packed sequence.

    Args:
        vocabulary_size: int, number of token ids.
        num_classes: int, number of classes.
        max_sequence_length: int, longest input that learned positions cover.
        num_layers: int, how often a block is applied.
        num_heads: int, heads of the unpack attentions.
        hidden_dim: int, width `D`.
        intermediate_dim: int, width of the feed-forward networks.
        packed_length: int, rows `L` of the packed sequence. Not used with
            softmax attention.
        num_pack_heads: int, heads of the pack attentions. Defaults to
            `num_heads`.
        tie_key_value: bool, see `LunaAttention`. The official LRA models are
            untied.
        share_layers: bool, whether one block is applied `num_layers` times.
        dynamic_packing: bool, see `PackedEmbedding`.
        dropout: float in [0, 1), on embeddings and residual branches.
        attention_dropout: float in [0, 1). Defaults to `dropout`.
        activation_dropout: float in [0, 1), after the activation.
        activation: Activation of the feed-forward networks.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, see `LunaEmbedding`.
        embedding_scale: float, see `LunaEmbedding`.
        pooling: `"cls"` (first token), `"mean"` or `"packed"`.
        pooling_includes_padding: bool, see `LunaPooling`.
        head_hidden_dim: int, width of a ReLU layer before the output layer, or
            None for none.
        head_dropout: float in [0, 1), on the pooled vector.
        padding_id: int, token id of padding, or None when nothing is padding.
        normalize_first: bool; True is pre-norm, False (the paper) post-norm.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        remat: bool, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        dtype: dtype or policy of all layers but the output, which is float32.
        attention: `"luna"` or `"softmax"`. With softmax, arguments that are
            Luna's alone must keep their defaults, and `pooling` cannot be
            `"packed"`.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        token_ids: integer tensor `(B, T)`.

    Returns:
        Logits `(B, num_classes)`, float32.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LRAClassifier
    >>> model = LRAClassifier(18, 10, 100, num_layers=2, num_heads=4,
    ...                       hidden_dim=32, intermediate_dim=64,
    ...                       packed_length=8)
    >>> tuple(model(np.array([[1, 5, 6, 2]])).shape)
    (1, 10)
    """

    def __init__(
        self,
        vocabulary_size,
        num_classes,
        max_sequence_length,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        packed_length=None,
        num_pack_heads=None,
        tie_key_value=False,
        share_layers=False,
        dynamic_packing=True,
        dropout=0.1,
        attention_dropout=None,
        activation_dropout=0.0,
        activation="gelu",
        position_embedding="learned",
        first_position=0,
        embedding_scale=1.0,
        pooling="cls",
        pooling_includes_padding=False,
        head_hidden_dim=None,
        head_dropout=0.0,
        padding_id=0,
        normalize_first=False,
        contraction="auto",
        remat=False,
        seed=None,
        dtype=None,
        attention="luna",
        **kwargs,
    ):
        check_positive(num_classes=num_classes, num_layers=num_layers)
        check_rate(head_dropout=head_dropout)
        check_choice(POOLING, pooling=pooling)
        check_choice(ATTENTIONS, attention=attention)
        if head_hidden_dim is not None:
            check_positive(head_hidden_dim=head_hidden_dim)

        def layer_seed(index):
            # Far apart: a block takes two seeds in a row.
            return None if seed is None else seed + 1000 * index

        # === Layers ===
        embedding_arguments = {
            "vocabulary_size": vocabulary_size,
            "hidden_dim": hidden_dim,
            "max_sequence_length": max_sequence_length,
            "position_embedding": position_embedding,
            "first_position": first_position,
            "scale": embedding_scale,
            "dropout": dropout,
            "padding_id": padding_id,
            "seed": layer_seed(0),
            "dtype": dtype,
            "name": "embedding",
        }
        block_arguments = {
            "intermediate_dim": intermediate_dim,
            "num_heads": num_heads,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation_dropout": activation_dropout,
            "activation": activation,
            "normalize_first": normalize_first,
            "remat": remat,
            "dtype": dtype,
        }
        luna_arguments = {
            "num_pack_heads": num_pack_heads,
            "tie_key_value": tie_key_value,
            "contraction": contraction,
        }
        if attention == "luna":
            check_positive(packed_length=packed_length)
            embedding = LunaEmbedding(
                packed_length=packed_length,
                dynamic_packing=dynamic_packing,
                **embedding_arguments,
            )
            block_class: type = LunaTransformerBlock
            block_arguments.update(luna_arguments)
        else:
            _check_softmax(
                pooling, dynamic_packing=dynamic_packing, **luna_arguments
            )
            embedding = LunaEmbedding(packed_length=None, **embedding_arguments)
            block_class = SoftmaxTransformerBlock
        blocks = [
            block_class(
                seed=layer_seed(index + 1),
                name=f"block_{index}",
                **block_arguments,
            )
            for index in range(1 if share_layers else num_layers)
        ]
        pool = LunaPooling(
            pooling, pooling_includes_padding, dtype=dtype, name="pooling"
        )
        head = []
        if head_dropout:
            head.append(
                keras.layers.Dropout(
                    head_dropout,
                    seed=layer_seed(num_layers + 1),
                    dtype=dtype,
                    name="head_dropout",
                )
            )
        if head_hidden_dim is not None:
            head.append(
                keras.layers.Dense(
                    head_hidden_dim,
                    activation="relu",
                    dtype=dtype,
                    name="head_hidden",
                )
            )
        head.append(
            keras.layers.Dense(
                num_classes, use_bias=False, dtype="float32", name="logits"
            )
        )

        # === Functional Model ===
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        # The tokens and, with Luna, the packed sequence.
        sequences = keras.tree.flatten(embedding(token_ids))
        for index in range(num_layers):
            block = blocks[0 if share_layers else index]
            sequences = keras.tree.flatten(block(*sequences))
        x = pool(sequences[0], sequences[-1])
        for layer in head:
            x = layer(x)
        super().__init__(inputs=token_ids, outputs=x, **kwargs)

        # === Config ===
        self.embedding = embedding
        self.blocks = blocks
        self.head = head
        self._config = {
            "vocabulary_size": vocabulary_size,
            "num_classes": num_classes,
            "max_sequence_length": max_sequence_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": intermediate_dim,
            "packed_length": packed_length,
            "num_pack_heads": num_pack_heads,
            "tie_key_value": tie_key_value,
            "share_layers": share_layers,
            "dynamic_packing": dynamic_packing,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation_dropout": activation_dropout,
            "activation": keras.activations.serialize(
                keras.activations.get(activation)
            ),
            "position_embedding": position_embedding,
            "first_position": first_position,
            "embedding_scale": embedding_scale,
            "pooling": pooling,
            "pooling_includes_padding": pooling_includes_padding,
            "head_hidden_dim": head_hidden_dim,
            "head_dropout": head_dropout,
            "padding_id": padding_id,
            "normalize_first": normalize_first,
            "contraction": contraction,
            "remat": remat,
            "seed": seed,
            "attention": attention,
        }

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(
                self.embedding.dtype_policy
            ),
            **self._config,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            config["dtype"] = keras.dtype_policies.deserialize(dtype)
        return cls(**config)


def _check_softmax(pooling, **given):
    """Refuses what only Luna has."""
    if pooling == "packed":
        raise ValueError(
            "`pooling` must be 'cls' or 'mean' with attention='softmax', "
            "which has no packed sequence. Got: 'packed'"
        )
    for name, value in given.items():
        if value != _LUNA_ONLY[name]:
            raise ValueError(
                f"`{name}` must be {_LUNA_ONLY[name]!r} with "
                f"attention='softmax', which does not use it. Got: {value!r}"
            )
