"""What the Transformer blocks share: layer norms, residuals, feed-forward."""

from typing import Any

import keras
from keras import ops

from luna_tf.layers import _arguments
from luna_tf.layers._dropout import dropout
from luna_tf.ops import unused_zeros

# Argument -> Keras module that turns it into an object and back.
_SERIALIZABLE = {
    "activation": keras.activations,
    "kernel_initializer": keras.initializers,
    "bias_initializer": keras.initializers,
}


class TransformerBlock(keras.layers.Layer):
    """Base of the encoder and decoder blocks.

    Args:
        layer_arguments: dict, arguments of `keras.layers.Layer`.
        attention_dropout: float, or None for that of `dropout`.
        **arguments: the other arguments of the block's constructor. Each
            becomes an attribute and part of the configuration.
    """

    def __init__(self, layer_arguments, attention_dropout, **arguments):
        super().__init__(**layer_arguments)
        if attention_dropout is None:
            attention_dropout = arguments["dropout"]
        _arguments.check_positive(
            intermediate_dim=arguments["intermediate_dim"],
            num_heads=arguments["num_heads"],
        )
        _arguments.check_rate(
            dropout=arguments["dropout"],
            attention_dropout=attention_dropout,
            activation_dropout=arguments["activation_dropout"],
        )
        self.supports_masking = True
        arguments["attention_dropout"] = attention_dropout
        for name, value in arguments.items():
            if name in _SERIALIZABLE:
                value = _SERIALIZABLE[name].get(value)
            setattr(self, name, value)
        self._config_names = tuple(arguments)

    def _luna_arguments(self):
        """Arguments of both kinds of Luna attention."""
        return {
            "tie_key_value": self.tie_key_value,
            "dropout": self.attention_dropout,
            "contraction": self.contraction,
            **self._dense_arguments(),
        }

    def _dense_arguments(self):
        """Arguments of every layer with kernels; a copy of initializers."""
        return {
            "kernel_initializer": _arguments.clone_initializer(
                self.kernel_initializer
            ),
            "bias_initializer": _arguments.clone_initializer(
                self.bias_initializer
            ),
            "dtype": self.dtype_policy,
        }

    def _build_norms(self, **shapes):
        """Makes `<name>_layer_norm` for each shape."""
        for name, shape in shapes.items():
            name = f"{name}_layer_norm"
            layer = keras.layers.LayerNormalization(
                epsilon=self.layer_norm_epsilon,
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build(shape)
            setattr(self, name, layer)

    def _build_feedforward(self, shape):
        middle = (*shape[:-1], self.intermediate_dim)
        for name, before, after in (
            ("feedforward_intermediate_dense", shape, middle),
            ("feedforward_output_dense", middle, shape),
        ):
            layer = keras.layers.Dense(
                after[-1], name=name, **self._dense_arguments()
            )
            layer.build(before)
            setattr(self, name, layer)

    def _before(self, norm, x):
        """What a branch reads."""
        return norm(x) if self.normalize_first else x

    def _after(self, norm, x, branch, seed):
        """What follows a branch: dropout, residual, norm."""
        x = x + dropout(branch, self.dropout, seed)
        return x if self.normalize_first else norm(x)

    def _feedforward(self, x: Any, seeds: dict[str, Any]) -> Any:
        norm = self.feedforward_layer_norm
        y = self.feedforward_intermediate_dense(self._before(norm, x))
        y = self.activation(y)
        y = dropout(y, self.activation_dropout, seeds["activation"])
        y = self.feedforward_output_dense(y)
        return self._after(norm, x, y, seeds["feedforward"])

    def _with_packed_norm(self, x):
        """Adds zeros that depend on the packed sequence's norm.

        Nobody reads the packed output of a model's last block. This gives its
        layer norm gradients of zero, and `fit` no warning.
        """
        if self.normalize_first:
            return x
        norm = self.packed_layer_norm
        return x + ops.cast(unused_zeros(norm.gamma + norm.beta), x.dtype)

    def get_config(self):
        config = {name: getattr(self, name) for name in self._config_names}
        for name, module in _SERIALIZABLE.items():
            config[name] = module.serialize(config[name])
        return {**super().get_config(), **config}
