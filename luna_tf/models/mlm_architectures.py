"""The official architectures for masked language modelling, by their names."""

from typing import Any

from luna_tf.layers._arguments import check_choice

_BASE = {
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "intermediate_dim": 3072,
}
_LARGE = {
    "num_layers": 24,
    "num_heads": 16,
    "hidden_dim": 1024,
    "intermediate_dim": 4096,
}
_TIED_512 = {**_BASE, "packed_length": 128, "max_sequence_length": 512}
# Every argument is one of `LunaBackbone`.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "luna_bert": _TIED_512,
    "luna_base_512": _TIED_512,
    "luna_base_tied_512": _TIED_512,
    "luna_base_untied_512": {**_TIED_512, "tie_key_value": False},
    "luna_base_2048": {
        **_BASE,
        "packed_length": 256,
        "max_sequence_length": 2048,
    },
    "luna_large_512": {
        **_LARGE,
        "packed_length": 128,
        "max_sequence_length": 512,
    },
    # Sic: the official positions end at 512 here too.
    "luna_large_2048": {
        **_LARGE,
        "packed_length": 256,
        "max_sequence_length": 512,
    },
}
NAMES = tuple(_ARCHITECTURES)


def architecture(name: str) -> dict[str, Any]:
    """Returns the arguments that make an official encoder of `LunaBackbone`.

    The vocabulary is for the caller to add; the official models use the
    50,265 tokens of RoBERTa. What is not here is the default of
    `LunaBackbone`.

    Args:
        name: str, one of `NAMES`.

    Returns:
        Argument name -> value.

    Raises:
        ValueError: if `name` is unknown.

    Example:

    >>> from luna_tf.models.mlm_architectures import architecture
    >>> architecture("luna_base_untied_512")["packed_length"]
    128
    """
    check_choice(NAMES, name=name)
    return dict(_ARCHITECTURES[name])
