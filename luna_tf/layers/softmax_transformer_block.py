"""The Transformer encoder block with softmax attention: Luna's baseline."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks, _remat
from luna_tf.layers._dropout import draw, dropout


@keras.saving.register_keras_serializable(package="luna_tf")
class SoftmaxTransformerBlock(keras.layers.Layer):
    """Encoder block: softmax self attention, then a feed-forward network.

    `LunaTransformerBlock` with `keras.layers.MultiHeadAttention` in the place
    of Luna attention and no packed sequence. Residuals, layer norms, dropout,
    feed-forward network, masks and `remat` are the same, so that a comparison
    of the two compares attentions and nothing else. Time and memory are
    quadratic in the length.

    Args:
        intermediate_dim: int, width of the feed-forward network.
        num_heads: int, attention heads, a divisor of `D`.
        dropout: float in [0, 1), rate on the two residual branches.
        attention_dropout: float in [0, 1), rate on the attention weights.
            Defaults to `dropout`.
        activation_dropout: float in [0, 1), rate after the activation.
        activation: Activation of the feed-forward network.
        layer_norm_epsilon: float, epsilon of the layer norms.
        normalize_first: bool; True is pre-norm, False post-norm.
        kernel_initializer: Initializer of all kernels.
        bias_initializer: Initializer of all biases.
        remat: bool, whether to recompute the block in the backward pass instead
            of keeping its activations.
        seed: int, seed of all dropouts.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: `(B, T, D)`.
        padding_mask: `(B, T)`, bool or integer, nonzero = keep. Taken from the
            Keras mask of `inputs` when not given.
        training: bool, whether dropout is active.

    Returns:
        `(B, T, D)`, carrying its Keras mask.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.layers.softmax_transformer_block import (
    ...     SoftmaxTransformerBlock,
    ... )
    >>> block = SoftmaxTransformerBlock(intermediate_dim=64, num_heads=4)
    >>> tuple(block(np.ones((2, 100, 32))).shape)
    (2, 100, 32)
    """

    def __init__(
        self,
        intermediate_dim,
        num_heads,
        dropout=0.0,
        attention_dropout=None,
        activation_dropout=0.0,
        activation="relu",
        layer_norm_epsilon=1e-5,
        normalize_first=False,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        remat=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if attention_dropout is None:
            attention_dropout = dropout
        _arguments.check_positive(
            intermediate_dim=intermediate_dim, num_heads=num_heads
        )
        _arguments.check_rate(
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
        )
        self.supports_masking = True
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.normalize_first = normalize_first
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.remat = remat
        self.seed = seed
        self.seed_generator = None
        if dropout or attention_dropout or activation_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, inputs_shape):
        _arguments.check_rank(3, inputs=inputs_shape)
        width = inputs_shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide the width of `inputs`, {width}. "
                f"Got: {self.num_heads}"
            )
        self.self_attention = keras.layers.MultiHeadAttention(
            self.num_heads,
            width // self.num_heads,
            dropout=self.attention_dropout,
            seed=self.seed,
            name="self_attention",
            **self._initializers(),
        )
        self.self_attention.build(inputs_shape, inputs_shape)
        self.self_attention_layer_norm = self._layer_norm(
            "self_attention_layer_norm", inputs_shape
        )
        self.feedforward_layer_norm = self._layer_norm(
            "feedforward_layer_norm", inputs_shape
        )
        self.feedforward_intermediate_dense = keras.layers.Dense(
            self.intermediate_dim,
            name="feedforward_intermediate_dense",
            **self._initializers(),
        )
        self.feedforward_intermediate_dense.build(inputs_shape)
        self.feedforward_output_dense = keras.layers.Dense(
            width, name="feedforward_output_dense", **self._initializers()
        )
        self.feedforward_output_dense.build(
            (*inputs_shape[:-1], self.intermediate_dim)
        )

    def _initializers(self):
        return {
            "kernel_initializer": _arguments.clone_initializer(
                self.kernel_initializer
            ),
            "bias_initializer": _arguments.clone_initializer(
                self.bias_initializer
            ),
            "dtype": self.dtype_policy,
        }

    def _layer_norm(self, name, shape):
        layer = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build(shape)
        return layer

    def call(self, inputs, padding_mask=None, training=None):
        padding_mask = self._checked_mask(inputs, padding_mask)
        # Drawn here and not where they are used: see `_dropout`.
        seeds = {
            name: draw(self.seed_generator, rate, training)
            for name, rate in (
                ("attention", self.attention_dropout),
                ("tokens", self.dropout),
                ("activation", self.activation_dropout),
                ("feedforward", self.dropout),
            )
        }

        def encode(inputs):
            return self._encode(inputs, padding_mask, seeds, training)

        attention_seed = seeds["attention"]
        if training and (self.remat or attention_seed is not None):
            # Keras' attention draws its seed inside: it finds the drawn one.
            values = {
                v.path: attention_seed
                for v in self.self_attention.non_trainable_variables
                if v.path.endswith("seed_generator_state")
                and attention_seed is not None
            }
            outputs = _remat.with_weights(
                self, encode, [inputs], values, self.remat
            )
        else:
            outputs = encode(inputs)
        return _masks.set_mask(outputs, padding_mask)

    def _encode(self, inputs, padding_mask, seeds, training):
        x = inputs
        if self.normalize_first:
            x = self.self_attention_layer_norm(x)
        # A copy has no Keras mask. Keras would make a `(B, T, T)` one of it,
        # and take it away from `inputs`, which others may use too.
        x = ops.copy(x)
        x = self.self_attention(
            x,
            x,
            attention_mask=(
                None if padding_mask is None else padding_mask[:, None, :]
            ),
            training=training,
        )
        x = inputs + dropout(x, self.dropout, seeds["tokens"])
        if not self.normalize_first:
            x = self.self_attention_layer_norm(x)
        residual = x
        if self.normalize_first:
            x = self.feedforward_layer_norm(x)
        x = self.activation(self.feedforward_intermediate_dense(x))
        x = dropout(x, self.activation_dropout, seeds["activation"])
        x = self.feedforward_output_dense(x)
        x = residual + dropout(x, self.dropout, seeds["feedforward"])
        if not self.normalize_first:
            x = self.feedforward_layer_norm(x)
        return x

    def _checked_mask(self, inputs, padding_mask):
        _arguments.check_rank(3, inputs=inputs)
        if padding_mask is None:
            padding_mask = _masks.get_mask(inputs)
        return _masks.check_mask("padding_mask", padding_mask, "inputs", inputs)

    def compute_output_spec(self, inputs, padding_mask=None, training=None):
        mask = self._checked_mask(inputs, padding_mask)
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        return _masks.set_mask(outputs, mask)

    def get_config(self):
        names = (
            "intermediate_dim num_heads dropout attention_dropout "
            "activation_dropout layer_norm_epsilon normalize_first remat seed"
        )
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names.split()},
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
        }
