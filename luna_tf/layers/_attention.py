"""What the two attention layers share: projections, dropout, configuration."""

import math
from typing import Any

import keras
from keras import ops

from luna_tf.layers import _arguments
from luna_tf.layers._dropout import draw, dropout
from luna_tf.layers._initializers import MatrixInitializer
from luna_tf.ops import choose_contraction

CONTRACTIONS = ("auto", "direct", "absorbed")

# Argument -> Keras module that turns it into an object and back.
_SERIALIZABLE = {
    "kernel_initializer": keras.initializers,
    "bias_initializer": keras.initializers,
    "kernel_regularizer": keras.regularizers,
    "bias_regularizer": keras.regularizers,
    "kernel_constraint": keras.constraints,
    "bias_constraint": keras.constraints,
}


class NestedAttention(keras.layers.Layer):
    """Base of `LunaAttention` and `LunaCausalAttention`."""

    def __init__(
        self,
        num_heads,
        key_dim,
        tie_key_value,
        dropout,
        use_bias,
        contraction,
        activity_regularizer,
        seed,
        layer_arguments,
        **serializable,
    ):
        super().__init__(**layer_arguments)
        _arguments.check_positive(num_heads=num_heads)
        if key_dim is not None:
            _arguments.check_positive(key_dim=key_dim)
        _arguments.check_rate(dropout=dropout)
        _arguments.check_choice(CONTRACTIONS, contraction=contraction)
        self.supports_masking = True
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.tie_key_value = tie_key_value
        self.dropout = dropout
        self.use_bias = use_bias
        self.contraction = contraction
        for name, module in _SERIALIZABLE.items():
            setattr(self, name, module.get(serializable[name]))
        # The projections regularize their own outputs, as in Keras'
        # MultiHeadAttention; set on `self` it would act on the layer's outputs.
        self._projection_regularizer = keras.regularizers.get(
            activity_regularizer
        )
        self.seed = seed
        self.seed_generator = None
        if dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def _projection(self, name, shape, output, equation="btd,dhk->bthk"):
        """Builds an `EinsumDense`, so that LoRA and int8 reach every kernel."""
        output_axes = equation.split("->")[1][2:]
        layer = keras.layers.EinsumDense(
            equation,
            (None, *output),
            bias_axes=output_axes if self.use_bias else None,
            kernel_initializer=MatrixInitializer(
                self.kernel_initializer, math.prod(shape[2:])
            ),
            bias_initializer=_arguments.clone_initializer(
                self.bias_initializer
            ),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            activity_regularizer=self._projection_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )
        # It works token by token; by default Keras warns that masks end here.
        layer.supports_masking = True
        layer.build(shape)
        return layer

    def _output_projection(self, shape, head):
        return self._projection(
            "attention_output",
            (*shape[:2], *head),
            (shape[-1],),
            equation="bthk,hkd->btd",
        )

    def _order(
        self,
        width,
        num_heads,
        packed_length,
        num_projections,
        context_width=None,
    ):
        if self.contraction != "auto":
            return self.contraction
        return choose_contraction(
            width, num_heads, packed_length, num_projections, context_width
        )

    def _folded(self, layer):
        """Kernel and bias (or None) in the dtype that the layer computes in.

        Keras casts variables by itself only inside of `call`.
        """
        kernel = ops.cast(layer.kernel, self.compute_dtype)
        if layer.bias is None:
            return kernel, None
        return kernel, ops.cast(layer.bias, self.compute_dtype)

    def _drop(self, seed):
        if seed is None:
            return None
        return lambda weights: dropout(weights, self.dropout, seed)

    def draw_seeds(self, training: Any) -> tuple[Any, Any]:
        """Draws the seeds of a step's two dropouts, None = no dropout.

        Args:
            training: bool, whether dropout is active.

        Returns:
            Pair of integer tensors of shape `(2,)`, or of None: for the
            weights of the pack and of the unpack attention.
        """
        first = draw(self.seed_generator, self.dropout, training)
        return first, draw(self.seed_generator, self.dropout, training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "tie_key_value": self.tie_key_value,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "contraction": self.contraction,
            "activity_regularizer": keras.regularizers.serialize(
                self._projection_regularizer
            ),
            "seed": self.seed,
            **{
                name: module.serialize(getattr(self, name))
                for name, module in _SERIALIZABLE.items()
            },
        }


def is_foldable(layer: Any) -> bool:
    """Whether the layer is no more than its `kernel` and `bias`."""
    return (
        layer.quantization_mode is None and layer.activity_regularizer is None
    )
