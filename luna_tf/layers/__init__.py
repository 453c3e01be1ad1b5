"""Keras layers of Luna: import one and use it in any Keras model."""

from luna_tf.layers.luna_attention import LunaAttention
from luna_tf.layers.luna_causal_attention import LunaCausalAttention
from luna_tf.layers.luna_decoder_block import LunaDecoderBlock
from luna_tf.layers.luna_embedding import LunaEmbedding
from luna_tf.layers.luna_pooling import LunaPooling
from luna_tf.layers.luna_transformer_block import LunaTransformerBlock
from luna_tf.layers.packed_embedding import PackedEmbedding

__all__ = [
    "LunaAttention",
    "LunaCausalAttention",
    "LunaDecoderBlock",
    "LunaEmbedding",
    "LunaPooling",
    "LunaTransformerBlock",
    "PackedEmbedding",
]
