"""Token, position and packed embeddings of a Luna model."""

from typing import Any

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks
from luna_tf.layers.packed_embedding import PackedEmbedding
from luna_tf.ops import sinusoidal_positions, token_positions

POSITIONS = ("learned", "sinusoidal", "none")


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaEmbedding(keras.layers.Layer):
    """Turns token ids into the two sequences that a Luna model works on.

    `x` = token embedding · scale + position; `p` = `PackedEmbedding` · scale,
    plus positions 0, 1, ... when they are sinusoidal. Both then go through a
    layer norm of their own and dropout, and padded rows are set to zero
    (official sentence encoder; Luna paper, section 3.2).

    Args:
        vocabulary_size: int, number of token ids `V`, or None for a layer whose
            inputs are real numbers, such as grey levels: each is multiplied by
            a vector and another vector is added (`padding_id` must be None).
        hidden_dim: int, width `D`.
        packed_length: int, rows `L` of the packed sequence, or None for a model
            that takes its packed sequence from elsewhere or has none: then only
            `x` is returned.
        max_sequence_length: int, longest sequence that learned positions cover.
            A longer one raises or, where its length is unknown until a compiled
            function runs, gives NaN. None with other positions.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, row of the position table that the first token
            takes. fairseq models with padding id 1 use 2; its learned tables
            have that many rows more.
        scale: float, multiplies the token and packed embeddings; the official
            models with sinusoidal positions use `sqrt(D)`.
        normalize: bool, whether to apply the two layer norms.
        layer_norm_epsilon: float, epsilon of the layer norms.
        dropout: float in [0, 1), rate on both sequences.
        padding_id: int, token id of padding, or None when nothing is padding
            (pixels).
        dynamic_packing: bool, see `PackedEmbedding`.
        embeddings_initializer: Initializer of token and position tables. None
            draws from a normal distribution with standard deviation
            `D ** -0.5`.
        seed: int, seed of dropout.
        token_embedding: `keras.layers.Embedding` `(V, D)` to look tokens up in,
            such as one that another layer uses too. None makes one. A copy of
            this layer made from its configuration has a table of its own.
        num_segments: int, kinds of segments, each of which has a vector that
            is added to its tokens; 0 is none.
        positions_skip_padding: bool; True counts the real tokens alone, as
            fairseq does, False all of them. That differs where padding lies
            before or between real tokens, as black pixels may.
        max_real_tokens: int `K`, or None. Once their positions are known,
            real tokens move to the front of their row, and `T` is at most `K`:
            attention and means over real tokens are the same, and what is
            padding costs nothing. Rows with more real tokens lose their end.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        token_ids: integer tensor `(B, T)`; a float tensor of values where
            `vocabulary_size` is None.
        padding_mask: `(B, T)`, bool or integer, nonzero = keep. Replaces
            `token_ids != padding_id`.
        start_index: int or integer scalar tensor, how many tokens precede the
            first one. For decoding a few tokens at a time.
        segment_ids: integer tensor `(B, T)`, with `num_segments`.
        training: bool, whether dropout is active.

    Returns:
        `x` `(B, T, D)` and `p` `(B, L, D)`, each carrying its Keras mask, or
        only `x` without a packed sequence.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaEmbedding
    >>> x, p = LunaEmbedding(18, 32, 8, 100)(np.array([[5, 6, 7, 0]]))
    >>> tuple(x.shape), tuple(p.shape)
    ((1, 4, 32), (1, 8, 32))
    """

    def __init__(
        self,
        vocabulary_size,
        hidden_dim,
        packed_length,
        max_sequence_length=None,
        position_embedding="learned",
        first_position=0,
        scale=1.0,
        normalize=True,
        layer_norm_epsilon=1e-5,
        dropout=0.0,
        padding_id=0,
        dynamic_packing=True,
        embeddings_initializer=None,
        seed=None,
        token_embedding=None,
        num_segments=0,
        positions_skip_padding=True,
        max_real_tokens=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _arguments.check_positive(hidden_dim=hidden_dim)
        if vocabulary_size is None:
            _check_no_tokens(
                padding_id=padding_id, token_embedding=token_embedding
            )
        else:
            _arguments.check_positive(vocabulary_size=vocabulary_size)
        _arguments.check_choice(
            POSITIONS, position_embedding=position_embedding
        )
        if position_embedding == "learned":
            _arguments.check_positive(max_sequence_length=max_sequence_length)
        _arguments.check_rate(dropout=dropout)
        if max_real_tokens is not None:
            _arguments.check_positive(max_real_tokens=max_real_tokens)
            if padding_id is None:
                raise ValueError(
                    "`padding_id` must say what padding is with "
                    "`max_real_tokens`. Got: None"
                )
        self.supports_masking = True
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.packed_length = packed_length
        self.max_sequence_length = max_sequence_length
        self.position_embedding = position_embedding
        self.first_position = first_position
        self.scale = scale
        self.normalize = normalize
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout = dropout
        self.padding_id = padding_id
        self.dynamic_packing = dynamic_packing
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer
        )
        self.seed = seed
        _check_table(token_embedding, vocabulary_size, hidden_dim)
        self.shares_token_embedding = token_embedding is not None
        self.token_embedding = token_embedding
        self.num_segments = num_segments
        self.positions_skip_padding = positions_skip_padding
        self.max_real_tokens = max_real_tokens
        self.packed_embedding: Any = None
        if packed_length is not None:
            self.packed_embedding = PackedEmbedding(
                packed_length,
                dynamic=dynamic_packing,
                dtype=self.dtype_policy,
                name="packed_embedding",
            )
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, token_ids_shape):
        _arguments.check_rank(2, token_ids=token_ids_shape)
        if self.vocabulary_size is None:
            self.value_embedding = self._value_embedding()
        elif self.token_embedding is None:
            self.token_embedding = self._table(
                "token_embedding", self.vocabulary_size
            )
        elif not self.token_embedding.built:
            self.token_embedding.build((None, None))
        if self.position_embedding == "learned":
            self.positions = self._table(
                "position_embedding",
                self.max_sequence_length + self.first_position,
            )
        if self.num_segments:
            self.segments = self._table("segment_embedding", self.num_segments)
        shape = (*token_ids_shape, self.hidden_dim)
        if self.packed_embedding is not None:
            self.packed_embedding.build(shape)
        if self.normalize:
            self.layer_norm = self._layer_norm("layer_norm", shape)
            if self.packed_embedding is not None:
                self.packed_layer_norm = self._layer_norm(
                    "packed_layer_norm", shape
                )

    def _layer_norm(self, name, shape):
        layer = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build(shape)
        return layer

    def _table(self, name, rows):
        # An `Embedding` and not a bare weight, so that LoRA and int8 reach it.
        layer = keras.layers.Embedding(
            rows,
            self.hidden_dim,
            embeddings_initializer=_arguments.clone_initializer(
                self.embeddings_initializer
            )
            or keras.initializers.RandomNormal(stddev=self.hidden_dim**-0.5),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None))
        return layer

    def _value_embedding(self):
        # A `Dense` and not bare weights, so that LoRA and int8 reach it.
        layer = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=keras.initializers.RandomNormal(stddev=1.0),
            bias_initializer=keras.initializers.RandomNormal(stddev=0.1),
            dtype=self.dtype_policy,
            name="value_embedding",
        )
        layer.build((None, None, 1))
        return layer

    def _embed(self, inputs):
        if self.vocabulary_size is None:
            return self.value_embedding(ops.expand_dims(inputs, -1))
        return self.token_embedding(inputs)

    def call(
        self,
        token_ids,
        padding_mask=None,
        start_index=0,
        segment_ids=None,
        training=None,
    ):
        mask = self._checked_mask(token_ids, padding_mask, start_index)
        self._check_segments(segment_ids)
        places, length = self._places(token_ids, mask), token_ids.shape[1]
        table_length = ops.shape(token_ids)[1]
        if self.max_real_tokens is not None:
            kept = self.kept(mask)
            token_ids, mask, places, segment_ids = (
                None if x is None else _take(x, kept)
                for x in (token_ids, mask, places, segment_ids)
            )
        x = self._embed(token_ids) * self.scale
        if places is not None:
            # Nothing checks a length that is unknown until a call.
            known = length is not None and isinstance(start_index, int)
            first = self.first_position + ops.cast(start_index, "int32")
            x = x + self._positions(places, first, table_length, known, x)
        if segment_ids is not None:
            x = x + ops.cast(self.segments(segment_ids), x.dtype)
        if self.normalize:
            x = self.layer_norm(x)
        x = self.dropout_layer(x, training=training)
        x = _zero_padding(x, mask)
        if self.packed_embedding is None:
            return x
        p = self.packed_embedding(x, padding_mask=mask)
        packed_mask = _masks.get_mask(p)
        p = p * self.scale
        if self.position_embedding == "sinusoidal":
            rows = ops.arange(self.packed_length, dtype="int32")
            positions = sinusoidal_positions(rows, self.hidden_dim)
            p = p + ops.cast(positions, p.dtype)
        if self.normalize:
            p = self.packed_layer_norm(p)
        p = self.dropout_layer(p, training=training)
        return x, _zero_padding(p, packed_mask)

    def kept(self, mask):
        """Returns where the tokens stood that `max_real_tokens` leaves.

        Args:
            mask: bool `(B, T)`, True for real tokens.

        Returns:
            int32 `(B, min(T, K))`, real tokens first.
        """
        length = ops.shape(mask)[1]
        place = ops.arange(length, dtype="int32")[None]
        # No two alike: sorting need not be stable.
        order = ops.where(mask, place, place + length)
        return ops.sort(order, axis=1)[:, : self.max_real_tokens] % length

    def _places(self, token_ids, mask):
        """Positions from 0 on, `(B, T)`, or `(1, T)` where rows are alike."""
        if self.position_embedding == "none":
            return None
        if mask is None or not self.positions_skip_padding:
            length = ops.shape(token_ids)[1]
            return ops.arange(length, dtype="int32")[None]
        # Padding gets -1 and is set to zero at the end.
        return ops.maximum(token_positions(mask), 0)

    def _positions(self, places, first, length, known, x):
        if self.position_embedding == "learned":
            return self._learned_positions(places + first, known)
        # Sines are dear: one for each position and not for each token.
        rows = ops.arange(length, dtype="int32") + first
        table = ops.cast(sinusoidal_positions(rows, self.hidden_dim), x.dtype)
        return ops.take(table, places, axis=0)

    def _learned_positions(self, rows, known):
        positions = self.positions(rows)
        if known:
            return positions  # `_checked_mask` has seen the last row
        # XLA and GPUs read some other row beyond the table: better not a
        # number than a wrong one.
        inside = rows < self.max_sequence_length + self.first_position
        return ops.where(inside[..., None], positions, float("nan"))

    def _checked_mask(self, token_ids, padding_mask, start_index=0):
        _arguments.check_rank(2, token_ids=token_ids)
        dtype = keras.backend.standardize_dtype(token_ids.dtype)
        kind, allowed = (
            ("float", "floating-point values with vocabulary_size=None")
            if self.vocabulary_size is None
            else ("int", "integers")
        )
        if kind not in dtype:
            raise ValueError(
                f"`token_ids` must be {allowed}. Got dtype: {dtype}"
            )
        length = token_ids.shape[1]
        start = start_index if isinstance(start_index, int) else 0
        if (
            self.position_embedding == "learned"
            and length is not None
            and start + length > self.max_sequence_length
        ):
            raise ValueError(
                "`token_ids` must not be longer than `max_sequence_length`, "
                f"{self.max_sequence_length}. Got shape: "
                f"{tuple(token_ids.shape)}"
                + (f" after {start} tokens" if start else "")
            )
        if padding_mask is None and self.padding_id is not None:
            padding_mask = ops.not_equal(token_ids, self.padding_id)
        return _masks.check_mask(
            "padding_mask", padding_mask, "token_ids", token_ids
        )

    def _check_segments(self, segment_ids):
        if (segment_ids is not None) != bool(self.num_segments):
            raise ValueError(
                "`segment_ids` must be given with `num_segments`, and only "
                f"then. Got: {type(segment_ids).__name__} with "
                f"num_segments={self.num_segments}"
            )

    def compute_mask(self, inputs, previous_mask=None):
        return None  # `call` attaches both

    def compute_output_spec(
        self,
        token_ids,
        padding_mask=None,
        start_index=0,
        segment_ids=None,
        training=None,
    ):
        mask = self._checked_mask(token_ids, padding_mask, start_index)
        self._check_segments(segment_ids)
        batch, length = token_ids.shape
        if length is not None and self.max_real_tokens is not None:
            length = min(length, self.max_real_tokens)
        x = self._spec(batch, length, mask is not None)
        if self.packed_embedding is None:
            return x
        return x, self._spec(batch, self.packed_length, self.dynamic_packing)

    def _spec(self, batch, length, masked):
        shape = (batch, length, self.hidden_dim)
        return _masks.set_mask(
            keras.KerasTensor(shape, dtype=self.compute_dtype),
            keras.KerasTensor(shape[:2], dtype="bool") if masked else None,
        )

    def get_config(self):
        names = (
            "vocabulary_size hidden_dim packed_length max_sequence_length "
            "position_embedding first_position scale normalize "
            "layer_norm_epsilon dropout padding_id dynamic_packing seed "
            "num_segments positions_skip_padding max_real_tokens"
        )
        shared = self.token_embedding if self.shares_token_embedding else None
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names.split()},
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
            "token_embedding": keras.saving.serialize_keras_object(shared),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["token_embedding"] = keras.saving.deserialize_keras_object(
            config.get("token_embedding")
        )
        return super().from_config(config)


def _take(x, places):
    """Some places `(B, K)` of `(B, T)`, or of `(1, T)` for every row."""
    if x.shape[0] == 1:
        return ops.take(x[0], places, axis=0)
    return ops.take_along_axis(x, places, axis=1)


def _check_no_tokens(**given):
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must be None with vocabulary_size=None, which "
                f"stands for values and not tokens. Got: {value!r}"
            )


def _check_table(table, vocabulary_size, hidden_dim):
    if table is None:
        return
    shape = (table.input_dim, table.output_dim)
    if shape != (vocabulary_size, hidden_dim):
        raise ValueError(
            "`token_embedding` must have the shape (`vocabulary_size`, "
            f"`hidden_dim`), {(vocabulary_size, hidden_dim)}. Got: {shape}"
        )


def _zero_padding(x, mask):
    if mask is None:
        return x
    return _masks.set_mask(x * ops.cast(mask, x.dtype)[..., None], mask)
