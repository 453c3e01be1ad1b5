"""A Transformer decoder block whose attentions are Luna attentions."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks, _remat
from luna_tf.layers._block import TransformerBlock
from luna_tf.layers._dropout import draw
from luna_tf.layers.luna_attention import LunaAttention
from luna_tf.layers.luna_causal_attention import LunaCausalAttention


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaDecoderBlock(TransformerBlock):
    """Decoder block: causal attention, cross attention, feed-forward network.

    The causal attention reads the packed sequence; the cross attention packs
    the encoder's output into it and so updates it (Luna paper, sections 3.2 and
    3.3). Stack blocks with `x, p = block(x, p, encoder_sequence)`, the first
    `p` being the encoder's last. Without an encoder sequence (decoder-only
    model) there is no cross attention and `p` passes through unchanged.

    Args:
        intermediate_dim: int, width of the feed-forward network.
        num_heads: int, heads of the causal and of the unpack attention.
        num_pack_heads: int, heads of the cross attention's pack attention.
            Defaults to `num_heads`.
        tie_key_value: bool, see `LunaAttention`.
        dropout: float in [0, 1), rate on the residual branches: both
            attentions, packed sequence, feed-forward network.
        attention_dropout: float in [0, 1), rate on the weights of both
            attentions. Defaults to `dropout`.
        activation_dropout: float in [0, 1), rate after the activation.
        activation: Activation of the feed-forward network.
        layer_norm_epsilon: float, epsilon of the layer norms.
        normalize_first: bool; True is pre-norm, False (the paper) post-norm.
            Pre-norm does not normalise `p` before the causal attention, nor the
            encoder sequence.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        chunk_size: int, see `LunaCausalAttention`.
        kernel_initializer: Initializer of all kernels.
        bias_initializer: Initializer of all biases.
        remat: bool, whether to recompute the block in the backward pass instead
            of keeping its activations, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        decoder_sequence: `(B, T, D)`.
        packed: `(B, L, D)`. Not read, and may be None, when a `cache` is given.
        encoder_sequence: `(B, S, C)`, likewise.
        decoder_padding_mask: `(B, T)`, bool or integer, nonzero = keep. Taken
            from the Keras mask of its sequence when not given; likewise the
            other two masks.
        packed_mask: `(B, L)`.
        encoder_padding_mask: `(B, S)`.
        cache: nested dict of tensors from `initial_cache` or from an earlier
            call: the tokens then continue those of the earlier calls, however
            many each call has.
        training: bool, whether dropout is active.

    Returns:
        `decoder_sequence` `(B, T, D)`, carrying its Keras mask, and the next
        `packed` `(B, L, D)`, carrying its own; with a `cache`, in place of
        `packed` the next cache.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaDecoderBlock
    >>> x, p, encoded = (np.ones((2, n, 32)) for n in (10, 8, 20))
    >>> block = LunaDecoderBlock(intermediate_dim=64, num_heads=4)
    >>> y, next_p = block(x, p, encoded)
    >>> tuple(y.shape), tuple(next_p.shape)
    ((2, 10, 32), (2, 8, 32))
    >>> cache, next_p = block.initial_cache(p, encoded)
    >>> y, cache = block(x[:, :9], cache=cache)
    >>> y, cache = block(x[:, 9:], cache=cache)
    >>> tuple(y.shape)
    (2, 1, 32)
    """

    def __init__(
        self,
        intermediate_dim,
        num_heads,
        num_pack_heads=None,
        tie_key_value=True,
        dropout=0.0,
        attention_dropout=None,
        activation_dropout=0.0,
        activation="relu",
        layer_norm_epsilon=1e-5,
        normalize_first=False,
        contraction="auto",
        chunk_size=64,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        remat=False,
        seed=None,
        **kwargs,
    ):
        if num_pack_heads is not None:
            _arguments.check_positive(num_pack_heads=num_pack_heads)
        super().__init__(
            # Keras would cast the sums in the cache to the compute dtype.
            {"autocast": False, **kwargs},
            attention_dropout,
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            num_pack_heads=num_pack_heads or num_heads,
            tie_key_value=tie_key_value,
            dropout=dropout,
            activation_dropout=activation_dropout,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            normalize_first=normalize_first,
            contraction=contraction,
            chunk_size=chunk_size,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            remat=remat,
            seed=seed,
        )
        # Three seeds, or the three would drop in step.
        self.seed_generator = None
        if dropout or activation_dropout:
            self.seed_generator = keras.random.SeedGenerator(
                None if seed is None else seed + 1
            )
        self.self_attention = LunaCausalAttention(
            num_heads,
            chunk_size=chunk_size,
            seed=seed,
            name="self_attention",
            **self._luna_arguments(),
        )

    def build(
        self,
        decoder_sequence_shape,
        packed_shape,
        encoder_sequence_shape=None,
    ):
        x_shape = decoder_sequence_shape
        self._check_shapes(x_shape, packed_shape, encoder_sequence_shape)
        self.has_cross_attention = encoder_sequence_shape is not None
        self.self_attention.build(x_shape, packed_shape)
        norms = {"self_attention": x_shape, "feedforward": x_shape}
        if self.has_cross_attention:
            self.cross_attention = LunaAttention(
                self.num_heads,
                num_pack_heads=self.num_pack_heads,
                seed=None if self.seed is None else self.seed + 2,
                name="cross_attention",
                **self._luna_arguments(),
            )
            self.cross_attention.build(
                x_shape, packed_shape, encoder_sequence_shape
            )
            norms |= {"cross_attention": x_shape, "packed": packed_shape}
        self._build_norms(**norms)
        self._build_feedforward(x_shape)

    def call(
        self,
        decoder_sequence,
        packed=None,
        encoder_sequence=None,
        decoder_padding_mask=None,
        packed_mask=None,
        encoder_padding_mask=None,
        cache=None,
        training=None,
    ):
        masks = self._checked_masks(
            decoder_sequence,
            packed,
            encoder_sequence,
            decoder_padding_mask,
            packed_mask,
            encoder_padding_mask,
            cache,
        )
        inputs = [decoder_sequence]
        if cache is None:
            inputs += [packed]
            inputs += [encoder_sequence] if self.has_cross_attention else []
        inputs = [ops.cast(x, self.compute_dtype) for x in inputs]
        # Drawn here and not where they are used: see `_dropout`.
        seeds = self._draw_seeds(training)

        if cache is not None:
            x, cache = self._decode_cached(inputs[0], masks[0], cache, seeds)
            return _masks.set_mask(x, masks[0]), cache

        def decode(*inputs):
            return self._decode(*inputs, masks=masks, seeds=seeds)

        if self.remat and training:
            outputs = _remat.with_weights(self, decode, inputs, {}, remat=True)
        else:
            outputs = decode(*inputs)
        _masks.set_mask(outputs[0], masks[0])
        _masks.set_mask(outputs[1], masks[1])
        return outputs

    def _draw_seeds(self, training):
        rates = {
            "self": self.dropout,
            "cross": self.dropout,
            "packed": self.dropout,
            "activation": self.activation_dropout,
            "feedforward": self.dropout,
        }
        seeds = {
            name: draw(self.seed_generator, rate, training)
            for name, rate in rates.items()
        }
        seeds["self_attention"] = self.self_attention.draw_seeds(training)
        if self.has_cross_attention:
            seeds["cross_attention"] = self.cross_attention.draw_seeds(training)
        return seeds

    def _decode(self, x, p, encoder_sequence=None, *, masks, seeds):
        x_mask, packed_mask, encoder_mask = masks
        norm = self.self_attention_layer_norm
        y = self.self_attention(
            self._before(norm, x),
            p,  # not normalised in pre-norm either: the official code's choice
            query_mask=x_mask,
            packed_mask=packed_mask,
            dropout_seeds=seeds["self_attention"],
        )
        x = self._after(norm, x, y, seeds["self"])
        if encoder_sequence is None:
            # A copy, or the mask would be attached to the caller's tensor.
            return self._feedforward(x, seeds), ops.copy(p)
        norm, packed_norm = (
            self.cross_attention_layer_norm,
            self.packed_layer_norm,
        )
        y, q = self.cross_attention(
            self._before(norm, x),
            self._before(packed_norm, p),
            encoder_sequence,
            query_mask=x_mask,
            packed_mask=packed_mask,
            context_mask=encoder_mask,
            dropout_seeds=seeds["cross_attention"],
        )
        x = self._after(norm, x, y, seeds["cross"])
        p = self._after(packed_norm, p, q, seeds["packed"])
        return self._with_packed_norm(self._feedforward(x, seeds)), p

    def _decode_cached(self, x, mask, cache, seeds):
        norm = self.self_attention_layer_norm
        y, state = self.self_attention(
            self._before(norm, x),
            query_mask=mask,
            cache=cache["self_attention"],
            dropout_seeds=seeds["self_attention"],
        )
        x = self._after(norm, x, y, seeds["self"])
        if self.has_cross_attention:
            norm = self.cross_attention_layer_norm
            y = self.cross_attention.unpack(
                self._before(norm, x), cache["cross_attention"]
            )
            x = self._after(norm, x, y, seeds["cross"])
        return self._feedforward(x, seeds), {**cache, "self_attention": state}

    def initial_cache(
        self,
        packed,
        encoder_sequence=None,
        packed_mask=None,
        encoder_padding_mask=None,
    ):
        """Returns the cache of no tokens, for calls with `cache`.

        Args:
            packed: `(B, L, D)`.
            encoder_sequence: `(B, S, C)`, or None in a decoder-only model.
            packed_mask: `(B, L)`, as in the call, Keras masks included.
            encoder_padding_mask: `(B, S)`, likewise.

        Returns:
            cache: nested dict of tensors, the batch on axis 0, of a size that
                depends on no length: `"self_attention"`, see
                `LunaCausalAttention.initial_cache`, and, with an encoder
                sequence, `"cross_attention"`, see
                `LunaAttention.initial_cache`.
            packed: `(B, L, D)`, what the next block gets as `packed`.

        Raises:
            ValueError: naming the argument, what was given and what is allowed.

        Example: see the class.
        """
        if packed_mask is None:
            packed_mask = _masks.get_mask(packed)
        if encoder_padding_mask is None:
            encoder_padding_mask = _masks.get_mask(encoder_sequence)
        p = ops.cast(packed, self.compute_dtype)
        if not self.built:
            _arguments.check_rank(3, packed=p)
            batch, _, width = p.shape
            self.build(
                (batch, None, width),
                p.shape,
                None if encoder_sequence is None else encoder_sequence.shape,
            )
        _, packed_mask, encoder_padding_mask = self._checked_masks(
            p,
            p,
            encoder_sequence,
            None,
            packed_mask,
            encoder_padding_mask,
            None,
        )
        cache = {
            "self_attention": self.self_attention.initial_cache(p, packed_mask)
        }
        if not self.has_cross_attention:
            return cache, _masks.set_mask(ops.copy(p), packed_mask)
        norm = self.packed_layer_norm
        cache["cross_attention"], q = self.cross_attention.initial_cache(
            self._before(norm, p),
            encoder_sequence,
            packed_mask,
            encoder_padding_mask,
        )
        p = self._after(norm, p, q, None)
        return cache, _masks.set_mask(p, packed_mask)

    def _check_shapes(self, decoder_sequence, packed, encoder_sequence):
        _arguments.check_rank(
            3, decoder_sequence=decoder_sequence, packed=packed
        )
        _arguments.check_companions(
            "decoder_sequence", decoder_sequence, packed=packed
        )
        if encoder_sequence is not None:
            _arguments.check_rank(3, encoder_sequence=encoder_sequence)

    def _checked_masks(
        self,
        decoder_sequence,
        packed,
        encoder_sequence,
        decoder_padding_mask,
        packed_mask,
        encoder_padding_mask,
        cache,
    ):
        if decoder_padding_mask is None:
            decoder_padding_mask = _masks.get_mask(decoder_sequence)
        _arguments.check_rank(3, decoder_sequence=decoder_sequence)
        decoder_padding_mask = _masks.check_mask(
            "decoder_padding_mask",
            decoder_padding_mask,
            "decoder_sequence",
            decoder_sequence,
        )
        if cache is not None:
            names = ["self_attention"]
            names += ["cross_attention"] if self.has_cross_attention else []
            if not isinstance(cache, dict) or sorted(cache) != sorted(names):
                raise ValueError(
                    "`cache` must come from `initial_cache` of this block: a "
                    f"dict of {names}. Got: {_keys(cache)}"
                )
            return decoder_padding_mask, None, None
        if packed is None:
            raise ValueError("`packed` may be None only with a `cache`.")
        if (encoder_sequence is not None) != self.has_cross_attention:
            needed = "given" if self.has_cross_attention else "None"
            got = getattr(encoder_sequence, "shape", None)
            raise ValueError(
                f"`encoder_sequence` must be {needed}, as when the block was "
                f"built. Got shape: {got}"
            )
        self._check_shapes(decoder_sequence, packed, encoder_sequence)
        if packed_mask is None:
            packed_mask = _masks.get_mask(packed)
        if encoder_padding_mask is None:
            encoder_padding_mask = _masks.get_mask(encoder_sequence)
        if encoder_padding_mask is not None and encoder_sequence is None:
            raise ValueError(
                "`encoder_padding_mask` needs an `encoder_sequence`."
            )
        packed_mask = _masks.check_mask(
            "packed_mask", packed_mask, "packed", packed
        )
        encoder_padding_mask = _masks.check_mask(
            "encoder_padding_mask",
            encoder_padding_mask,
            "encoder_sequence",
            encoder_sequence,
        )
        return decoder_padding_mask, packed_mask, encoder_padding_mask

    def compute_output_spec(
        self,
        decoder_sequence,
        packed=None,
        encoder_sequence=None,
        decoder_padding_mask=None,
        packed_mask=None,
        encoder_padding_mask=None,
        cache=None,
        training=None,
    ):
        masks = self._checked_masks(
            decoder_sequence,
            packed,
            encoder_sequence,
            decoder_padding_mask,
            packed_mask,
            encoder_padding_mask,
            cache,
        )
        x = keras.KerasTensor(decoder_sequence.shape, dtype=self.compute_dtype)
        _masks.set_mask(x, masks[0])
        if cache is not None:
            return x, keras.tree.map_structure(
                lambda t: keras.KerasTensor(t.shape, dtype=t.dtype), cache
            )
        p = keras.KerasTensor(packed.shape, dtype=self.compute_dtype)
        return x, _masks.set_mask(p, masks[1])


def _keys(cache):
    return sorted(cache) if isinstance(cache, dict) else cache
