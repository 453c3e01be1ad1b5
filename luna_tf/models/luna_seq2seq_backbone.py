"""Luna encoder and decoder for sequence-to-sequence models."""

from typing import Any

import keras
import keras_hub
from keras import ops

from luna_tf.layers import (
    LunaDecoderBlock,
    LunaEmbedding,
    LunaTransformerBlock,
    _masks,
)
from luna_tf.layers._arguments import check_choice, check_positive
from luna_tf.layers._initializers import MatrixInitializer
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock
from luna_tf.models import _softmax_decoding
from luna_tf.models._backbone import (
    GenerativeBackbone,
    check_unused,
    layer_seed,
)
from luna_tf.ops import unused_zeros

ATTENTIONS = ("luna", "softmax")
SHARING = ("all", "decoder", "none")


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaSeq2SeqBackbone(GenerativeBackbone):
    """Luna encoder and causal Luna decoder, without output projection.

    The encoder turns source tokens and the learned packed sequence P into `x`
    and `p`. The decoder has no P of its own: it goes on with the encoder's
    `p`, which each block's cross attention packs the source into again (Luna
    paper, section 3 and the machine translation experiments; official `luna`
    architectures). The defaults are the official ones, and
    `luna_tf.interop.fairseq` loads official weights.

    With `attention="softmax"` it is the baseline: a Transformer with the same
    embeddings, without a packed sequence. Its decoder blocks are KerasHub's:
    they use `dropout` for their attention weights too, and know neither
    `activation_dropout`, `remat` nor `seed`.

    Args:
        vocabulary_size: int, number of token ids, the same for both sides.
        num_layers: int, encoder blocks.
        num_heads: int, heads of the encoder's unpack attentions.
        hidden_dim: int, width `D`.
        intermediate_dim: int, width of the feed-forward networks.
        packed_length: int, rows `L` of the packed sequence. Not used with
            softmax attention.
        num_decoder_layers: int. Defaults to `num_layers`.
        num_pack_heads: int, heads of the encoder's pack attentions. Defaults
            to `num_heads`.
        num_decoder_heads: int. Defaults to `num_heads`.
        num_decoder_pack_heads: int. Defaults to `num_pack_heads`.
        tie_key_value: bool, see `LunaAttention`.
        dropout: float in [0, 1), on embeddings and residual branches.
        attention_dropout: float in [0, 1).
        activation_dropout: float in [0, 1), after the activation.
        activation: Activation of the feed-forward networks.
        normalize_first: bool; True is pre-norm with final layer norms, False
            (the paper) post-norm.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, see `LunaEmbedding`.
        max_sequence_length: int, longest sequence of either side that learned
            positions cover. Other positions have no limit.
        embedding_scale: float, see `LunaEmbedding`. None is `sqrt(D)`.
        normalize_embeddings: bool, whether embeddings have layer norms.
        dynamic_packing: bool, see `PackedEmbedding`.
        share_embeddings: `"all"`: one table for source, target and output;
            `"decoder"`: one for target and output; `"none"`: three.
        attention: `"luna"` or `"softmax"`.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        chunk_size: int, see `LunaCausalAttention`.
        remat: bool, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        dtype: dtype or policy of all layers.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 tensors `"encoder_token_ids"` and
            `"encoder_padding_mask"` `(B, S)`, `"decoder_token_ids"` and
            `"decoder_padding_mask"` `(B, T)`; masks are 1 where a token counts.

    Returns:
        dict of `"encoder_sequence_output"` `(B, S, D)` and
        `"decoder_sequence_output"` `(B, T, D)`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaSeq2SeqBackbone
    >>> backbone = LunaSeq2SeqBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> ids, mask = np.array([[5, 6, 2]]), np.ones((1, 3), "int32")
    >>> outputs = backbone({
    ...     "encoder_token_ids": ids, "encoder_padding_mask": mask,
    ...     "decoder_token_ids": ids, "decoder_padding_mask": mask})
    >>> tuple(outputs["decoder_sequence_output"].shape)
    (1, 3, 8)
    """

    task_name = "Seq2SeqLM"

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        packed_length=None,
        num_decoder_layers=None,
        num_pack_heads=None,
        num_decoder_heads=None,
        num_decoder_pack_heads=None,
        tie_key_value=True,
        dropout=0.1,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation="relu",
        normalize_first=False,
        position_embedding="sinusoidal",
        first_position=2,
        max_sequence_length=1024,
        embedding_scale=None,
        normalize_embeddings=False,
        dynamic_packing=True,
        share_embeddings="all",
        attention="luna",
        contraction="auto",
        chunk_size=64,
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
        check_choice(SHARING, share_embeddings=share_embeddings)
        luna = attention == "luna"
        if luna:
            check_positive(packed_length=packed_length)
        else:
            packed_length = None
            check_unused(
                "attention='softmax'",
                num_pack_heads=(num_pack_heads, None),
                num_decoder_pack_heads=(num_decoder_pack_heads, None),
                tie_key_value=(tie_key_value, True),
                dynamic_packing=(dynamic_packing, True),
                contraction=(contraction, "auto"),
                chunk_size=(chunk_size, 64),
            )
        num_decoder_layers = num_decoder_layers or num_layers
        num_decoder_heads = num_decoder_heads or num_heads
        num_pack_heads = num_pack_heads or num_heads
        num_decoder_pack_heads = num_decoder_pack_heads or num_pack_heads

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=share_embeddings != "none",
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=hidden_dim**-0.5
            ),
            reverse_dtype="float32",
            dtype=dtype,
            name="token_embedding",
        )

        def embedding(name, index, **arguments):
            return LunaEmbedding(
                vocabulary_size,
                hidden_dim,
                max_sequence_length=max_sequence_length,
                position_embedding=position_embedding,
                first_position=first_position,
                scale=hidden_dim**0.5
                if embedding_scale is None
                else embedding_scale,
                normalize=normalize_embeddings,
                dropout=dropout,
                padding_id=None,  # the inputs bring their masks
                dynamic_packing=dynamic_packing,
                seed=layer_seed(seed, index),
                dtype=dtype,
                name=name,
                **arguments,
            )

        self.encoder_embedding = embedding(
            "encoder_embedding",
            0,
            packed_length=packed_length,
            token_embedding=self.token_embedding
            if share_embeddings == "all"
            else None,
        )
        self.decoder_embedding = embedding(
            "decoder_embedding",
            1,
            packed_length=None,
            token_embedding=self.token_embedding,
        )
        common = {
            "intermediate_dim": intermediate_dim,
            "dropout": dropout,
            "activation": activation,
            "normalize_first": normalize_first,
            "dtype": dtype,
        }
        ours = {
            **common,
            "attention_dropout": attention_dropout,
            "activation_dropout": activation_dropout,
            "remat": remat,
        }
        of_luna = {"tie_key_value": tie_key_value, "contraction": contraction}

        def encoder_block(index):
            arguments = {
                **ours,
                "num_heads": num_heads,
                "seed": layer_seed(seed, 2 + index),
                "name": f"encoder_block_{index}",
            }
            if not luna:
                return SoftmaxTransformerBlock(**arguments)
            return LunaTransformerBlock(
                num_pack_heads=num_pack_heads, **of_luna, **arguments
            )

        def decoder_block(index):
            arguments = {
                "num_heads": num_decoder_heads,
                "name": f"decoder_block_{index}",
            }
            if not luna:
                return keras_hub.layers.TransformerDecoder(
                    kernel_initializer=MatrixInitializer(
                        "glorot_uniform", hidden_dim
                    ),
                    **common,
                    **arguments,
                )
            return LunaDecoderBlock(
                num_pack_heads=num_decoder_pack_heads,
                chunk_size=chunk_size,
                seed=layer_seed(seed, 2 + num_layers + index),
                **of_luna,
                **ours,
                **arguments,
            )

        self.encoder_blocks = [encoder_block(i) for i in range(num_layers)]
        self.decoder_blocks = [
            decoder_block(i) for i in range(num_decoder_layers)
        ]
        self.encoder_layer_norm: Any = None
        self.encoder_packed_layer_norm: Any = None
        self.decoder_layer_norm: Any = None
        if normalize_first:
            self.encoder_layer_norm = _layer_norm("encoder_layer_norm", dtype)
            if luna:
                self.encoder_packed_layer_norm = _layer_norm(
                    "encoder_packed_layer_norm", dtype
                )
            decoder_norm = _DecoderNorm if luna else _layer_norm
            self.decoder_layer_norm = decoder_norm(
                name="decoder_layer_norm", dtype=dtype
            )

        # === Functional Model ===
        inputs = {
            f"{side}_{name}": keras.Input(
                (None,), dtype="int32", name=f"{side}_{name}"
            )
            for side in ("encoder", "decoder")
            for name in ("token_ids", "padding_mask")
        }
        encoded, p = self.encode(
            inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        )
        x = self.decoder_embedding(
            inputs["decoder_token_ids"],
            padding_mask=inputs["decoder_padding_mask"],
        )
        if luna:
            for block in self.decoder_blocks:
                x, p = block(x, p, encoded)
        else:
            # Copies have no Keras masks, of which KerasHub's block warns.
            x, context = ops.copy(x), ops.copy(encoded)
            for block in self.decoder_blocks:
                x = block(
                    x,
                    context,
                    decoder_padding_mask=inputs["decoder_padding_mask"],
                    encoder_padding_mask=inputs["encoder_padding_mask"],
                )
        if normalize_first:
            x = self.decoder_layer_norm(x)
        super().__init__(
            inputs=inputs,
            outputs={
                "encoder_sequence_output": encoded,
                "decoder_sequence_output": x,
            },
            config=config,
            dtype=dtype,
            **kwargs,
        )

    def encode(self, token_ids, padding_mask):
        """Runs the encoder.

        Args:
            token_ids: integer tensor `(B, S)`.
            padding_mask: `(B, S)`, nonzero = keep.

        Returns:
            `(B, S, D)`, and `p` `(B, L, D)` or None with softmax attention,
            each carrying its Keras mask.
        """
        sequences = keras.tree.flatten(
            self.encoder_embedding(token_ids, padding_mask=padding_mask)
        )
        for block in self.encoder_blocks:
            sequences = keras.tree.flatten(block(*sequences))
        if self.encoder_layer_norm is not None:
            norms = self.encoder_layer_norm, self.encoder_packed_layer_norm
            sequences = [
                norm(x) for norm, x in zip(norms, sequences, strict=False)
            ]
        return (*sequences, None)[:2]

    def initial_cache(
        self, encoder_token_ids, encoder_padding_mask, max_length
    ):
        """Runs the encoder and prepares decoding.

        Args:
            encoder_token_ids: integer tensor `(B, S)`.
            encoder_padding_mask: `(B, S)`, nonzero = keep.
            max_length: int, most target tokens, start token included. With
                Luna attention the cache has the same size whatever it is.

        Returns:
            dict of tensors, the batch on the first axis of each.

        Raises:
            ValueError: if learned positions end before `max_length`.
        """
        self.check_max_length(max_length)
        encoded, p = self.encode(encoder_token_ids, encoder_padding_mask)
        mask = ops.cast(encoder_padding_mask, "bool")
        cache = {}
        if self.attention == "softmax":
            cache["encoder_padding_mask"] = mask
            for block in self.decoder_blocks:
                cache[block.name] = _softmax_decoding.initial_cache(
                    block, encoded, mask, max_length, block.num_heads
                )
            return cache
        packed_mask = _masks.get_mask(p)
        for block in self.decoder_blocks:
            cache[block.name], p = block.initial_cache(
                p, encoded, packed_mask, mask
            )
        return cache

    def decode(self, token_ids, cache, index, padding_mask=None):
        """Runs the decoder on the next tokens.

        Args:
            token_ids: integer tensor `(B, T)`, `T` static.
            cache: from `initial_cache` or an earlier call.
            index: int or integer scalar tensor, position of the first token.
            padding_mask: `(B, T)`, nonzero = keep. Other tokens leave no trace.
                For Luna attention alone.

        Returns:
            `(B, T, D)` and the new cache.

        Raises:
            ValueError: if the cache is not of this model, or tokens lie beyond
                learned positions or the softmax baseline's cache. Inside of a
                graph, where `index` is unknown, the latter is not noticed.
        """
        softmax = self.attention == "softmax"
        others = ["encoder_padding_mask"] if softmax else []
        self.check_cache(cache, token_ids, *others)
        max_length = None
        if softmax:
            max_length = _softmax_decoding.check_cache(
                cache, self.decoder_blocks, token_ids.shape[0], self.hidden_dim
            )
        index = self.known_index(index, token_ids, max_length)
        x = self.decoder_embedding(
            token_ids, padding_mask=padding_mask, start_index=index
        )
        new = dict(cache)
        for block in self.decoder_blocks:
            if softmax:
                x, new[block.name] = _softmax_decoding.decode(
                    block,
                    x,
                    cache[block.name],
                    cache["encoder_padding_mask"],
                    index,
                )
            else:
                x, new[block.name] = block(
                    x,
                    None,
                    decoder_padding_mask=padding_mask,
                    cache=cache[block.name],
                )
        if self.decoder_layer_norm is not None:
            x = self.decoder_layer_norm(x)
        return x, new


def _layer_norm(name, dtype):
    return keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype, name=name)


@keras.saving.register_keras_serializable(package="luna_tf")
class _DecoderNorm(keras.layers.Layer):
    """Final layer norm of a pre-norm decoder.

    The official decoder normalises its packed sequence too, which nobody
    reads. Those weights are kept for its checkpoints, with gradients of zero.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layer_norm = _layer_norm("layer_norm", self.dtype_policy)
        self.packed_layer_norm = _layer_norm(
            "packed_layer_norm", self.dtype_policy
        )

    def build(self, inputs_shape):
        self.layer_norm.build(inputs_shape)
        self.packed_layer_norm.build(inputs_shape)

    def call(self, inputs):
        x = self.layer_norm(inputs)
        norm = self.packed_layer_norm
        return x + ops.cast(unused_zeros(norm.gamma + norm.beta), x.dtype)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape
