"""The causal layers that are compared, and the step of one token."""

from __future__ import annotations

import importlib.util
from typing import Any

import keras
from keras import ops

from luna_tf.benchmark import contenders, stepping
from luna_tf.benchmark.cases import OFFICIAL_FILE, Case, Settings
from luna_tf.layers import LunaCausalAttention

# Tokens of one timed step: a single one takes less than starting it does.
TOKENS = 32


def layer_class(contender: str) -> Any:
    """The class of a causal Luna layer.

    Args:
        contender: `chunked`, or `official`, which only a checkout has.

    Returns:
        A layer class with the arguments `num_heads` and `tie_key_value`.

    Raises:
        FileNotFoundError: for `official` outside of a checkout.
    """
    if contender == "chunked":
        return LunaCausalAttention
    if not OFFICIAL_FILE.is_file():
        raise FileNotFoundError(
            "The official formula is no part of the package: run from a "
            f"checkout, which has {'/'.join(OFFICIAL_FILE.parts[-3:])}."
        )
    spec = importlib.util.spec_from_file_location(
        "official_causal", OFFICIAL_FILE
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OfficialCausalAttention


def make_token_step(settings: Settings, case: Case) -> tuple[Any, int]:
    """A function that makes `TOKENS` tokens, one after the other.

    They are in one loop, as in `generate`, each a function of the one before.

    Args:
        settings: sizes and number format.
        case: its contender is a key of `cases.TOKEN`, its length the number of
            tokens that the cache has seen.

    Returns:
        Function without arguments, and the size of the cache in bytes.
    """
    make = _softmax if case.contender == "softmax_token" else _luna
    layer_step, cache = make(settings, case)
    (token,) = contenders.make_inputs(settings, 1, 0)

    def generate(token: Any, cache: Any) -> Any:
        def body(_: Any, carried: Any) -> Any:
            output, cache = layer_step(*carried)
            return token + output, cache

        return ops.fori_loop(0, TOKENS, body, (token, cache))

    size = sum(
        ops.convert_to_numpy(leaf).nbytes for leaf in keras.tree.flatten(cache)
    )
    return stepping.make_forward(generate, (token, cache), case.mode), size


def _luna(settings: Settings, case: Case) -> tuple[Any, Any]:
    layer = contenders.make_layer(
        settings, "chunked", case.length, case.packed_length
    )
    x, p = contenders.make_inputs(settings, case.length, case.packed_length)
    _, cache = layer(x, cache=layer.initial_cache(p))
    return lambda x, cache: layer(x, cache=cache), cache


def _softmax(settings: Settings, case: Case) -> tuple[Any, Any]:
    import keras_hub

    head = settings.width // settings.heads
    layer = keras_hub.layers.CachedMultiHeadAttention(
        settings.heads, head, dtype=settings.precision
    )
    shape = (settings.batch, 1, settings.width)
    layer.build(shape, shape)
    # The values do not matter to the time. Every token of the loop takes the
    # last place, so that all cases have one length from start to end.
    (x,) = contenders.make_inputs(settings, case.length, 0)
    past = ops.reshape(
        ops.stack([x, x], axis=1),
        (settings.batch, 2, case.length, settings.heads, head),
    )

    def step(x: Any, cache: Any) -> Any:
        return layer(x, x, cache=cache, cache_update_index=case.length - 1)

    return step, past
