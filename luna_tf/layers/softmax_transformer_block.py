"""The Transformer encoder block with softmax attention: Luna's baseline."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks, _remat
from luna_tf.layers._block import TransformerBlock
from luna_tf.layers._dropout import draw
from luna_tf.layers._initializers import MatrixInitializer


@keras.saving.register_keras_serializable(package="luna_tf")
class SoftmaxTransformerBlock(TransformerBlock):
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
        super().__init__(
            kwargs,
            attention_dropout,
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            dropout=dropout,
            activation_dropout=activation_dropout,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            normalize_first=normalize_first,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            remat=remat,
            seed=seed,
        )
        self.seed_generator = None
        if dropout or self.attention_dropout or activation_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, inputs_shape):
        _arguments.check_rank(3, inputs=inputs_shape)
        width = inputs_shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide the width of `inputs`, {width}. "
                f"Got: {self.num_heads}"
            )
        arguments = self._dense_arguments()
        arguments["kernel_initializer"] = MatrixInitializer(
            self.kernel_initializer, width
        )
        self.self_attention = keras.layers.MultiHeadAttention(
            self.num_heads,
            width // self.num_heads,
            dropout=self.attention_dropout,
            seed=self.seed,
            name="self_attention",
            **arguments,
        )
        self.self_attention.build(inputs_shape, inputs_shape)
        self._build_norms(self_attention=inputs_shape, feedforward=inputs_shape)
        self._build_feedforward(inputs_shape)

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
        norm = self.self_attention_layer_norm
        # A copy has no Keras mask. Keras would make a `(B, T, T)` one of it,
        # and take it away from `inputs`, which others may use too.
        x = ops.copy(self._before(norm, inputs))
        x = self.self_attention(
            x,
            x,
            attention_mask=(
                None if padding_mask is None else padding_mask[:, None, :]
            ),
            training=training,
        )
        x = self._after(norm, inputs, x, seeds["tokens"])
        return self._feedforward(x, seeds)

    def _checked_mask(self, inputs, padding_mask):
        _arguments.check_rank(3, inputs=inputs)
        if padding_mask is None:
            padding_mask = _masks.get_mask(inputs)
        return _masks.check_mask("padding_mask", padding_mask, "inputs", inputs)

    def compute_output_spec(self, inputs, padding_mask=None, training=None):
        mask = self._checked_mask(inputs, padding_mask)
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        return _masks.set_mask(outputs, mask)
