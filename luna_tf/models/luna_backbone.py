"""Luna encoder of the masked language models."""

from typing import Any

import keras
from keras import ops

from luna_tf.layers import LunaEmbedding, LunaTransformerBlock, _masks
from luna_tf.layers._arguments import check_choice, check_positive
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock
from luna_tf.models._backbone import (
    LunaFamilyBackbone,
    check_unused,
    layer_seed,
)

ATTENTIONS = ("luna", "softmax")


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaBackbone(LunaFamilyBackbone):
    """Luna encoder for text, without a head.

    It is the encoder of the official `LunaBertModel`: the defaults are those
    of its architectures, and `luna_tf.interop.fairseq` loads their weights
    (Luna paper, sections 3.2 and 4.3). Time and memory grow linearly with the
    length of a text. All tokens of a row share one packed sequence, so a row
    should hold one document: several of them could not be kept apart.

    With `attention="softmax"` it is the baseline: the same model with softmax
    attention and no packed sequence.

    Args:
        vocabulary_size: int, number of token ids.
        num_layers: int, blocks.
        num_heads: int, heads of the unpack attentions.
        hidden_dim: int, width `D`.
        intermediate_dim: int, width of the feed-forward networks.
        packed_length: int, rows `L` of the packed sequence. Not used with
            softmax attention.
        num_pack_heads: int, heads of the pack attentions. Defaults to
            `num_heads`.
        tie_key_value: bool, see `LunaAttention`.
        dropout: float in [0, 1), on embeddings and residual branches.
        attention_dropout: float in [0, 1).
        activation_dropout: float in [0, 1), after the activation.
        activation: Activation of the feed-forward networks.
        normalize_first: bool; True is pre-norm with final layer norms, False
            post-norm.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, see `LunaEmbedding`.
        max_sequence_length: int, longest text that learned positions cover.
            Other positions have no limit.
        embedding_scale: float, see `LunaEmbedding`.
        normalize_embeddings: bool, whether embeddings have layer norms.
        dynamic_packing: bool, see `PackedEmbedding`.
        num_segments: int, see `LunaEmbedding`; 0 for a model that does not
            tell the two texts of a pair apart by more than their separator.
        attention: `"luna"` or `"softmax"`.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        remat: bool, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        dtype: dtype or policy of all layers.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 tensors `"token_ids"`, `"padding_mask"` and, with
            `num_segments`, `"segment_ids"`, all `(B, T)`; the mask is 1 where
            a token counts.

    Returns:
        dict of `"sequence_output"` `(B, T, D)` and, with Luna attention,
        `"packed_output"` `(B, L, D)` and `"packed_padding_mask"` `(B, L)`,
        int32, 1 where a row of it counts.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaBackbone
    >>> backbone = LunaBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> ids = np.array([[5, 6, 7]])
    >>> outputs = backbone(
    ...     {"token_ids": ids, "padding_mask": np.ones_like(ids)})
    >>> {name: tuple(x.shape) for name, x in sorted(outputs.items())}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'packed_output': (1, 4, 8), 'packed_padding_mask': (1, 4),
     'sequence_output': (1, 3, 8)}
    """

    task_name = "MaskedLM"

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        packed_length=None,
        num_pack_heads=None,
        tie_key_value=True,
        dropout=0.1,
        attention_dropout=0.1,
        activation_dropout=0.0,
        activation="gelu",
        normalize_first=False,
        position_embedding="learned",
        first_position=2,
        max_sequence_length=512,
        embedding_scale=1.0,
        normalize_embeddings=True,
        dynamic_packing=True,
        num_segments=0,
        attention="luna",
        contraction="auto",
        remat=False,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        config = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "dtype", "kwargs", "__class__")
        }
        check_positive(num_layers=num_layers, hidden_dim=hidden_dim)
        check_choice(ATTENTIONS, attention=attention)
        luna = attention == "luna"
        if luna:
            check_positive(packed_length=packed_length)
        else:
            packed_length = None
            check_unused(
                "attention='softmax'",
                num_pack_heads=(num_pack_heads, None),
                tie_key_value=(tie_key_value, True),
                dynamic_packing=(dynamic_packing, True),
                contraction=(contraction, "auto"),
            )

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=hidden_dim**-0.5
            ),
            reverse_dtype="float32",
            dtype=dtype,
            name="token_embedding",
        )
        self.embedding = LunaEmbedding(
            vocabulary_size,
            hidden_dim,
            packed_length,
            max_sequence_length=max_sequence_length,
            position_embedding=position_embedding,
            first_position=first_position,
            scale=embedding_scale,
            normalize=normalize_embeddings,
            dropout=dropout,
            padding_id=None,  # the inputs bring their mask
            dynamic_packing=dynamic_packing,
            num_segments=num_segments,
            seed=layer_seed(seed, 0),
            token_embedding=self.token_embedding,
            dtype=dtype,
            name="embedding",
        )

        def block(index):
            arguments = {
                "intermediate_dim": intermediate_dim,
                "num_heads": num_heads,
                "dropout": dropout,
                "attention_dropout": attention_dropout,
                "activation_dropout": activation_dropout,
                "activation": activation,
                "normalize_first": normalize_first,
                "remat": remat,
                "seed": layer_seed(seed, 1 + index),
                "dtype": dtype,
                "name": f"block_{index}",
            }
            if not luna:
                return SoftmaxTransformerBlock(**arguments)
            return LunaTransformerBlock(
                num_pack_heads=num_pack_heads,
                tie_key_value=tie_key_value,
                contraction=contraction,
                **arguments,
            )

        self.blocks = [block(index) for index in range(num_layers)]
        self.layer_norm: Any = None
        self.packed_layer_norm: Any = None
        if normalize_first:
            self.layer_norm = _layer_norm("layer_norm", dtype)
            if luna:
                self.packed_layer_norm = _layer_norm("packed_layer_norm", dtype)

        # === Functional Model ===
        names = ["token_ids", "padding_mask"]
        names += ["segment_ids"] if num_segments else []
        inputs = {
            name: keras.Input((None,), dtype="int32", name=name)
            for name in names
        }
        sequences = keras.tree.flatten(
            self.embedding(
                inputs["token_ids"],
                padding_mask=inputs["padding_mask"],
                segment_ids=inputs.get("segment_ids"),
            )
        )
        for block in self.blocks:
            sequences = keras.tree.flatten(block(*sequences))
        if normalize_first:
            norms = self.layer_norm, self.packed_layer_norm
            sequences = [
                norm(x) for norm, x in zip(norms, sequences, strict=False)
            ]
        outputs = {"sequence_output": sequences[0]}
        if luna:
            outputs["packed_output"] = sequences[1]
            outputs["packed_padding_mask"] = _MaskOf(
                name="packed_padding_mask"
            )(sequences[1])
        super().__init__(
            inputs=inputs,
            outputs=outputs,
            config=config,
            dtype=dtype,
            **kwargs,
        )


def _layer_norm(name, dtype):
    return keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype, name=name)


class _MaskOf(keras.layers.Layer):
    """The Keras mask of a sequence as a tensor: a model's outputs have none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, sequence):
        mask = _masks.get_mask(sequence)
        if mask is None:
            return ops.ones(ops.shape(sequence)[:2], "int32")
        return ops.cast(mask, "int32")

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_spec(self, sequence):
        return keras.KerasTensor(sequence.shape[:2], dtype="int32")
