"""A Transformer encoder block whose attention is Luna attention."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks, _remat
from luna_tf.layers._dropout import draw, dropout
from luna_tf.layers.luna_attention import LunaAttention
from luna_tf.ops import unused_zeros


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaTransformerBlock(keras.layers.Layer):
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
        super().__init__(**kwargs)
        attention_dropout = (
            dropout if attention_dropout is None else (attention_dropout)
        )
        _arguments.check_positive(intermediate_dim=intermediate_dim)
        _arguments.check_rate(
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
        )
        self.supports_masking = True
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.num_pack_heads = num_pack_heads or num_heads
        self.tie_key_value = tie_key_value
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.normalize_first = normalize_first
        self.contraction = contraction
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.remat = remat
        self.seed = seed
        # Another seed than the attention's, or both would drop in step.
        self.seed_generator = None
        if dropout or activation_dropout:
            self.seed_generator = keras.random.SeedGenerator(
                None if seed is None else seed + 1
            )
        self.self_attention = LunaAttention(
            num_heads,
            num_pack_heads=num_pack_heads,
            tie_key_value=tie_key_value,
            dropout=attention_dropout,
            contraction=contraction,
            kernel_initializer=_arguments.clone_initializer(
                self.kernel_initializer
            ),
            bias_initializer=_arguments.clone_initializer(
                self.bias_initializer
            ),
            seed=seed,
            dtype=self.dtype_policy,
            name="self_attention",
        )

    def build(self, inputs_shape, packed_shape):
        _arguments.check_rank(3, inputs=inputs_shape, packed=packed_shape)
        _arguments.check_companions("inputs", inputs_shape, packed=packed_shape)
        _arguments.check_rank(3, inputs=inputs_shape, packed=packed_shape)
        self.self_attention.build(inputs_shape, packed_shape)
        self.self_attention_layer_norm = self._layer_norm(
            "self_attention_layer_norm", inputs_shape
        )
        self.packed_layer_norm = self._layer_norm(
            "packed_layer_norm", packed_shape
        )
        self.feedforward_layer_norm = self._layer_norm(
            "feedforward_layer_norm", inputs_shape
        )
        self.feedforward_intermediate_dense = self._dense(
            "feedforward_intermediate_dense",
            inputs_shape,
            self.intermediate_dim,
        )
        self.feedforward_output_dense = self._dense(
            "feedforward_output_dense",
            (*inputs_shape[:-1], self.intermediate_dim),
            inputs_shape[-1],
        )

    def _layer_norm(self, name, shape):
        layer = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build(shape)
        return layer

    def _dense(self, name, shape, units):
        layer = keras.layers.Dense(
            units,
            kernel_initializer=_arguments.clone_initializer(
                self.kernel_initializer
            ),
            bias_initializer=_arguments.clone_initializer(
                self.bias_initializer
            ),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(shape)
        return layer

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
        x, p = inputs, packed
        if self.normalize_first:
            x = self.self_attention_layer_norm(x)
            p = self.packed_layer_norm(p)
        x, p, *scores = self.self_attention(
            x,
            p,
            query_mask=padding_mask,
            packed_mask=packed_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            dropout_seeds=seeds["attention"],
        )
        x = inputs + dropout(x, self.dropout, seeds["tokens"])
        p = packed + dropout(p, self.dropout, seeds["packed"])
        if not self.normalize_first:
            x = self.self_attention_layer_norm(x)
            p = self.packed_layer_norm(p)
        residual = x
        if self.normalize_first:
            x = self.feedforward_layer_norm(x)
        x = self.activation(self.feedforward_intermediate_dense(x))
        x = dropout(x, self.activation_dropout, seeds["activation"])
        x = self.feedforward_output_dense(x)
        x = residual + dropout(x, self.dropout, seeds["feedforward"])
        if not self.normalize_first:
            x = self.feedforward_layer_norm(x)
            # Nobody reads the packed output of a model's last block. This
            # gives its layer norm gradients of zero, and `fit` no warning.
            norm = self.packed_layer_norm
            unused = unused_zeros(norm.gamma + norm.beta)
            x = x + ops.cast(unused, x.dtype)
        return x, p, *scores

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
        outputs = self.self_attention.compute_output_spec(
            inputs,
            packed,
            query_mask=masks[0],
            packed_mask=masks[1],
            return_attention_scores=return_attention_scores,
        )
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "num_pack_heads": self.num_pack_heads,
            "tie_key_value": self.tie_key_value,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "normalize_first": self.normalize_first,
            "contraction": self.contraction,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
            "remat": self.remat,
            "seed": self.seed,
        }
