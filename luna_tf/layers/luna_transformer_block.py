"""A Transformer encoder block whose attention is Luna attention."""

import keras

from luna_tf.layers import _arguments, _masks, _remat
from luna_tf.layers._block import TransformerBlock
from luna_tf.layers._dropout import draw
from luna_tf.layers.luna_attention import LunaAttention


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaTransformerBlock(TransformerBlock):
    """Encoder block: Luna attention, then a feed-forward network on the tokens.

    The packed sequence goes through attention, residual and layer norm, but
    has no feed-forward network (Luna paper, section 3.2 and figure 1). Stack
    blocks with `x, p = block(x, p)`.

    Args:
        intermediate_dim: int, width of the feed-forward network.
        num_heads: int, heads of the unpack attention.
        num_pack_heads: int, heads of the pack attention. Defaults to
            `num_heads`.
        tie_key_value: bool, see `LunaAttention`.
        dropout: float in [0, 1), rate on the three residual branches: tokens,
            packed sequence, feed-forward network.
        attention_dropout: float in [0, 1), rate on the weights of both
            attentions. Defaults to `dropout`.
        activation_dropout: float in [0, 1), rate after the activation.
        activation: Activation of the feed-forward network.
        layer_norm_epsilon: float, epsilon of the layer norms.
        normalize_first: bool; True is pre-norm, False (the paper) post-norm.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        kernel_initializer: Initializer of all kernels.
        bias_initializer: Initializer of all biases.
        remat: bool, whether to recompute the block in the backward pass instead
            of keeping its activations: memory per block falls to its inputs,
            for about a third more time. For sequences of 16K tokens and more.
        seed: int, seed of all dropouts.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: `(B, T, D)`.
        packed: `(B, L, D)`.
        padding_mask: `(B, T)`, bool or integer, nonzero = keep. Taken from the
            Keras mask of `inputs` when not given.
        packed_mask: `(B, L)`, likewise for `packed`.
        return_attention_scores: bool, whether to return both weights too.
        training: bool, whether dropout is active.

    Returns:
        `outputs` `(B, T, D)` and `packed_outputs` `(B, L, D)`, each carrying
        its Keras mask; with `return_attention_scores` also the pack weights
        `(B, Hp, L, T)` and unpack weights `(B, H, T, L)`.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaTransformerBlock, PackedEmbedding
    >>> x = np.ones((2, 100, 32))
    >>> p = PackedEmbedding(8)(x)
    >>> x, p = LunaTransformerBlock(intermediate_dim=64, num_heads=4)(x, p)
    >>> tuple(x.shape), tuple(p.shape)
    ((2, 100, 32), (2, 8, 32))
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
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        remat=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            kwargs,
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
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            remat=remat,
            seed=seed,
        )
        # Another seed than the attention's, or both would drop in step.
        self.seed_generator = None
        if dropout or activation_dropout:
            self.seed_generator = keras.random.SeedGenerator(
                None if seed is None else seed + 1
            )
        self.self_attention = LunaAttention(
            num_heads,
            num_pack_heads=num_pack_heads,
            seed=seed,
            name="self_attention",
            **self._luna_arguments(),
        )

    def build(self, inputs_shape, packed_shape):
        _arguments.check_rank(3, inputs=inputs_shape, packed=packed_shape)
        _arguments.check_companions("inputs", inputs_shape, packed=packed_shape)
        self.self_attention.build(inputs_shape, packed_shape)
        self._build_norms(
            self_attention=inputs_shape,
            packed=packed_shape,
            feedforward=inputs_shape,
        )
        self._build_feedforward(inputs_shape)

    def call(
        self,
        inputs,
        packed,
        padding_mask=None,
        packed_mask=None,
        return_attention_scores=False,
        training=None,
    ):
        padding_mask, packed_mask = self._checked_masks(
            inputs, packed, padding_mask, packed_mask
        )
        # Drawn here and not where they are used: see `_dropout`.
        seeds = {
            "attention": self.self_attention.draw_seeds(training),
            "tokens": draw(self.seed_generator, self.dropout, training),
            "packed": draw(self.seed_generator, self.dropout, training),
            "activation": draw(
                self.seed_generator, self.activation_dropout, training
            ),
            "feedforward": draw(self.seed_generator, self.dropout, training),
        }

        def encode(inputs, packed):
            return self._encode(
                inputs,
                packed,
                padding_mask,
                packed_mask,
                seeds,
                return_attention_scores,
                training,
            )

        if self.remat and training:
            outputs = _remat.with_weights(
                self, encode, [inputs, packed], {}, remat=True
            )
        else:
            outputs = encode(inputs, packed)
        _masks.set_mask(outputs[0], padding_mask)
        _masks.set_mask(outputs[1], packed_mask)
        return outputs

    def _encode(
        self,
        inputs,
        packed,
        padding_mask,
        packed_mask,
        seeds,
        return_attention_scores,
        training,
    ):
        norm, packed_norm = (
            self.self_attention_layer_norm,
            self.packed_layer_norm,
        )
        x, p, *scores = self.self_attention(
            self._before(norm, inputs),
            self._before(packed_norm, packed),
            query_mask=padding_mask,
            packed_mask=packed_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            dropout_seeds=seeds["attention"],
        )
        x = self._after(norm, inputs, x, seeds["tokens"])
        p = self._after(packed_norm, packed, p, seeds["packed"])
        x = self._feedforward(x, seeds)
        return self._with_packed_norm(x), p, *scores

    def _checked_masks(self, inputs, packed, padding_mask, packed_mask):
        _arguments.check_rank(3, inputs=inputs, packed=packed)
        _arguments.check_companions("inputs", inputs, packed=packed)
        if padding_mask is None:
            padding_mask = _masks.get_mask(inputs)
        if packed_mask is None:
            packed_mask = _masks.get_mask(packed)
        return (
            _masks.check_mask("padding_mask", padding_mask, "inputs", inputs),
            _masks.check_mask("packed_mask", packed_mask, "packed", packed),
        )

    def compute_output_spec(
        self,
        inputs,
        packed,
        padding_mask=None,
        packed_mask=None,
        return_attention_scores=False,
        training=None,
    ):
        masks = self._checked_masks(inputs, packed, padding_mask, packed_mask)
        return self.self_attention.compute_output_spec(
            inputs,
            packed,
            query_mask=masks[0],
            packed_mask=masks[1],
            return_attention_scores=return_attention_scores,
        )
