"""Luna linear attention for Keras 3."""

from luna_tf import _startup

__version__ = "0.1.0"

__all__ = [
    "LunaAttention",
    "LunaCausalAttention",
    "LunaDecoderBlock",
    "LunaEmbedding",
    "LunaPooling",
    "LunaTransformerBlock",
    "PackedEmbedding",
    "__version__",
]

# The import registers the layers with Keras: `import luna_tf` is all that
# loading a saved model takes. Our own programs go without, because they answer
# `--help` or refuse a flag before anything as slow as Keras is needed.
if not _startup.is_own_program():
    from luna_tf.layers import (
        LunaAttention,
        LunaCausalAttention,
        LunaDecoderBlock,
        LunaEmbedding,
        LunaPooling,
        LunaTransformerBlock,
        PackedEmbedding,
    )
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'luna_tf' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module("luna_tf.layers"), name)
