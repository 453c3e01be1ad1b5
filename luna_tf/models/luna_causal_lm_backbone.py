"""Decoder-only Luna with a packed sequence of its own."""

from typing import Any

import keras
from keras import ops

from luna_tf.layers import LunaDecoderBlock, LunaEmbedding
from luna_tf.layers._arguments import check_positive
from luna_tf.models._backbone import GenerativeBackbone, layer_seed


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalLMBackbone(GenerativeBackbone):
    """Causal Luna decoder for language models, without output projection.

    The paper's decoder takes its packed sequence from an encoder. Here it is
    learned: the same `p` for every text and every block, none of its rows
    masked, because rows that depended on the length of a text would tell its
    tokens where it ends. Causal attention only reads `p`, so nothing updates
    it (Luna paper, section 3.3; the official code has no such model).

    Args:
        vocabulary_size: int, number of token ids.
        num_layers: int, decoder blocks.
        num_heads: int, attention heads.
        hidden_dim: int, width `D`.
        intermediate_dim: int, width of the feed-forward networks.
        packed_length: int, rows `L` of the packed sequence.
        tie_key_value: bool, see `LunaCausalAttention`.
        dropout: float in [0, 1), on embeddings and residual branches.
        attention_dropout: float in [0, 1).
        activation_dropout: float in [0, 1), after the activation.
        activation: Activation of the feed-forward networks.
        normalize_first: bool; True is pre-norm with a final layer norm, False
            post-norm.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, see `LunaEmbedding`.
        max_sequence_length: int, longest text that learned positions cover.
            Other positions have no limit.
        embedding_scale: float, see `LunaEmbedding`. None is `sqrt(D)`.
        normalize_embeddings: bool, whether embeddings have layer norms.
        share_embeddings: bool, whether tokens and output use one table.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see
            `LunaCausalAttention`.
        chunk_size: int, see `LunaCausalAttention`.
        remat: bool, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        dtype: dtype or policy of all layers.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 tensors `"token_ids"` and `"padding_mask"`
            `(B, T)`; the mask is 1 where a token counts.

    Returns:
        `(B, T, D)`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaCausalLMBackbone
    >>> backbone = LunaCausalLMBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> ids = np.array([[5, 6, 7]])
    >>> x = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    >>> tuple(x.shape)
    (1, 3, 8)
    """

    task_name = "CausalLM"

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        packed_length,
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
        share_embeddings=True,
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
        check_positive(
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            packed_length=packed_length,
        )
        if embedding_scale is None:
            embedding_scale = hidden_dim**0.5

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=share_embeddings,
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
            dynamic_packing=False,
            seed=layer_seed(seed, 0),
            token_embedding=self.token_embedding,
            dtype=dtype,
            name="embedding",
        )
        self.decoder_blocks = [
            LunaDecoderBlock(
                intermediate_dim,
                num_heads,
                tie_key_value=tie_key_value,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                activation=activation,
                normalize_first=normalize_first,
                contraction=contraction,
                chunk_size=chunk_size,
                remat=remat,
                seed=layer_seed(seed, 1 + index),
                dtype=dtype,
                name=f"decoder_block_{index}",
            )
            for index in range(num_layers)
        ]
        self.layer_norm: Any = None
        if normalize_first:
            self.layer_norm = keras.layers.LayerNormalization(
                epsilon=1e-5, dtype=dtype, name="layer_norm"
            )

        # === Functional Model ===
        inputs = {
            name: keras.Input((None,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        x, p = self.embedding(
            inputs["token_ids"], padding_mask=inputs["padding_mask"]
        )
        for block in self.decoder_blocks:
            x, p = block(x, p)
        if normalize_first:
            x = self.layer_norm(x)
        super().__init__(
            inputs=inputs, outputs=x, config=config, dtype=dtype, **kwargs
        )

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
        self.check_max_length(max_length)
        # Which token does not matter: `p` does not depend on it.
        _, p = self.embedding(ops.zeros((batch_size, 1), dtype="int32"))
        cache = {}
        for block in self.decoder_blocks:
            cache[block.name], p = block.initial_cache(p)
        return cache

    def decode(self, token_ids, cache, index, padding_mask=None):
        """Runs the decoder on the next tokens.

        Args:
            token_ids: integer tensor `(B, T)`, `T` static.
            cache: from `initial_cache` or an earlier call.
            index: int or integer scalar tensor, position of the first token.
            padding_mask: `(B, T)`, nonzero = keep. Other tokens leave no trace.

        Returns:
            `(B, T, D)` and the new cache.

        Raises:
            ValueError: if the cache is not of this model, or tokens lie beyond
                learned positions. Inside of a graph, where `index` is unknown,
                the latter is not noticed.
        """
        self.check_cache(cache, token_ids)
        index = self.known_index(index, token_ids)
        x, _ = self.embedding(
            token_ids, padding_mask=padding_mask, start_index=index
        )
        new = {}
        for block in self.decoder_blocks:
            x, new[block.name] = block(
                x,
                None,
                decoder_padding_mask=padding_mask,
                cache=cache[block.name],
            )
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x, new
