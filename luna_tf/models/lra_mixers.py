"""What mixes the tokens of an `LRAClassifier`: its `attention` argument."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from luna_tf.layers import LunaTransformerBlock
from luna_tf.layers._arguments import check_choice
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock

# Arguments of `LRAClassifier` that not every mixer takes, and their defaults.
_OPTIONAL = {
    "num_pack_heads": None,
    "tie_key_value": False,
    "dynamic_packing": True,
    "contraction": "auto",
}


@dataclasses.dataclass(frozen=True)
class Mixer:
    """One way of mixing tokens, and what it takes for it.

    Args:
        block: class of the encoder block. It is called as `block(x, p)` with a
            packed sequence and as `block(x)` without, keeps the Keras masks of
            its inputs, and takes the arguments that `LunaTransformerBlock` and
            `SoftmaxTransformerBlock` have in common.
        block_arguments: further arguments of `LRAClassifier` that the block
            takes.
        packed: bool, whether there is a packed sequence beside the tokens.

    Example:

    >>> from luna_tf.models.lra_mixers import MIXERS
    >>> MIXERS["softmax"].packed
    False
    """

    block: type
    block_arguments: tuple[str, ...] = ()
    packed: bool = False


# A new mixer is a file with its block, and one line here. It must be here
# before a model with it is loaded.
MIXERS = {
    "luna": Mixer(
        LunaTransformerBlock,
        ("num_pack_heads", "tie_key_value", "contraction"),
        packed=True,
    ),
    "softmax": Mixer(SoftmaxTransformerBlock),
}


def find_mixer(
    attention: str, pooling: str, optional: Mapping[str, Any]
) -> Mixer:
    """Returns the mixer of this name.

    Args:
        attention: str, its name in `MIXERS`.
        pooling: str, the pooling that the model asks for.
        optional: values of all arguments that not every mixer takes.

    Raises:
        ValueError: if there is no such mixer, or if an argument that it has no
            use for differs from its default.

    Example:

    >>> from luna_tf.models.lra_mixers import find_mixer
    >>> find_mixer("luna", "cls", {"tie_key_value": True}).packed
    True
    """
    check_choice(tuple(MIXERS), attention=attention)
    mixer = MIXERS[attention]
    used = mixer.block_arguments
    if mixer.packed:
        used = (*used, "dynamic_packing")
    elif pooling == "packed":
        raise ValueError(
            "`pooling` must be 'cls' or 'mean' with "
            f"attention={attention!r}, which has no packed sequence. "
            "Got: 'packed'"
        )
    for name, value in optional.items():
        if name not in used and value != _OPTIONAL[name]:
            raise ValueError(
                f"`{name}` must be {_OPTIONAL[name]!r} with "
                f"attention={attention!r}, which does not use it. "
                f"Got: {value!r}"
            )
    return mixer
