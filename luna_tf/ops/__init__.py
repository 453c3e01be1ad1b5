"""Pure functions on tensors: no weights, no state, every Keras backend."""

from luna_tf.ops.causal import causal_product, causal_step
from luna_tf.ops.packing import (
    choose_contraction,
    masked_softmax,
    pack_absorbed,
    pack_direct,
    unpack_absorbed,
    unpack_direct,
)
from luna_tf.ops.positions import sinusoidal_positions, token_positions
from luna_tf.ops.search import Hypotheses, beam_search
from luna_tf.ops.softplus import softplus_base2
from luna_tf.ops.unused import unused_zeros

__all__ = [
    "Hypotheses",
    "beam_search",
    "causal_product",
    "causal_step",
    "choose_contraction",
    "masked_softmax",
    "pack_absorbed",
    "pack_direct",
    "sinusoidal_positions",
    "softplus_base2",
    "token_positions",
    "unpack_absorbed",
    "unpack_direct",
    "unused_zeros",
]
