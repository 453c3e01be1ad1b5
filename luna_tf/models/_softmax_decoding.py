"""Cached decoding with KerasHub's softmax decoder block: the baseline.

Unlike Luna's, this cache grows with the number of tokens that it has room for.
Tensors are copied to leave their Keras masks behind: the block takes masks as
arguments, and warns of others.
"""

from typing import Any

from keras import ops

from luna_tf.layers import _arguments


def initial_cache(
    block: Any,
    encoder_sequence: Any,
    encoder_padding_mask: Any,
    max_length: int,
    num_heads: int,
) -> dict[str, Any]:
    """Makes the key/value cache of a `keras_hub.layers.TransformerDecoder`.

    Args:
        block: the decoder block.
        encoder_sequence: `(B, S, D)`.
        encoder_padding_mask: `(B, S)`, nonzero = keep.
        max_length: int, most tokens `T` that can be decoded.
        num_heads: int, heads `H` of the block.

    Returns:
        `"self"` `(B, 2, T, H, K)`, zeros, and `"cross"` `(B, 2, S, H, K)`, the
        keys and values of `encoder_sequence`.
    """
    batch, source_length, width = ops.shape(encoder_sequence)
    dtype = encoder_sequence.dtype

    def zeros(length):
        shape = (batch, 2, length, num_heads, width // num_heads)
        return ops.zeros(shape, dtype=dtype)

    # The block fills the cross cache in passing: a token of zeros does, of
    # which nothing else is kept. (Keras warns of a softmax over one place.)
    _, _, cross = block(
        ops.zeros((batch, 1, width), dtype=dtype),
        ops.copy(encoder_sequence),
        encoder_padding_mask=encoder_padding_mask,
        self_attention_cache=zeros(2),
        self_attention_cache_update_index=0,
        cross_attention_cache=zeros(source_length),
        cross_attention_cache_update_index=0,
    )
    return {"self": zeros(max_length), "cross": cross}


def check_cache(
    cache: dict[str, Any], blocks: Any, batch_size: int | None, width: int
) -> int | None:
    """Raises unless a cache fits the decoder blocks.

    Args:
        cache: of all blocks, by name, and `"encoder_padding_mask"`.
        blocks: the decoder blocks.
        batch_size: int, or None where it is unknown.
        width: int, of the model.

    Returns:
        int, most tokens that the cache has room for.
    """
    name = "encoder_padding_mask"
    _arguments.check_cache({name: cache[name]}, {name: (batch_size, None)})
    source_length = cache[name].shape[1]
    max_length = None
    for block in blocks:
        heads = (block.num_heads, width // block.num_heads)
        _arguments.check_cache(
            cache[block.name],
            {
                "self": (batch_size, 2, max_length, *heads),
                "cross": (batch_size, 2, source_length, *heads),
            },
        )
        max_length = cache[block.name]["self"].shape[2]
    return max_length


def decode(
    block: Any, x: Any, cache: dict[str, Any], encoder_padding_mask: Any, index
) -> tuple[Any, dict[str, Any]]:
    """Applies the block to some tokens, the first at position `index`.

    Args:
        block: as for `initial_cache`.
        x: `(B, T, D)`.
        cache: from `initial_cache` or an earlier call.
        encoder_padding_mask: `(B, S)`.
        index: int or integer scalar tensor.

    Returns:
        `(B, T, D)` and the new cache.
    """
    x = ops.copy(x)
    x, self_attention, cross = block(
        x,
        x,  # not read: the cross cache stands for the encoder's sequence
        encoder_padding_mask=encoder_padding_mask,
        self_attention_cache=cache["self"],
        self_attention_cache_update_index=index,
        cross_attention_cache=cache["cross"],
    )
    return x, {"self": self_attention, "cross": cross}
