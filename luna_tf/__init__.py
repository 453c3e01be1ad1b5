"""Luna linear attention for Keras 3."""

from luna_tf.layers import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)

__version__ = "0.1.0"

__all__ = [
    "LunaAttention",
    "LunaEmbedding",
    "LunaTransformerBlock",
    "PackedEmbedding",
    "__version__",
]
