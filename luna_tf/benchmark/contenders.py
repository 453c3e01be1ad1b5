"""The layers that are compared, with inputs, ready to step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from luna_tf.benchmark import causal, stepping
from luna_tf.benchmark.cases import CAUSAL, SOFTMAX, Case, Settings
from luna_tf.benchmark.textbook import TextbookLunaAttention
from luna_tf.layers import LunaAttention
from luna_tf.ops import choose_contraction

_SEED = 1


class MixedLunaAttention(LunaAttention):
    """Luna with one order for pack and another for unpack."""

    def __init__(self, pack_order: str, unpack_order: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.pack_order = pack_order
        self.unpack_order = unpack_order

    def _pack(self, *args: Any) -> Any:
        self.contraction = self.pack_order
        return super()._pack(*args)

    def _unpack(self, *args: Any) -> Any:
        self.contraction = self.unpack_order
        return super()._unpack(*args)


def rule_orders(settings: Settings, packed_length: int) -> tuple[str, str]:
    """The orders that the cost rule of `contraction="auto"` takes.

    Args:
        settings: sizes of the layer.
        packed_length: l.

    Returns:
        Order of pack and order of unpack.
    """
    sizes = settings.width, settings.heads, packed_length
    projections = 1 if settings.tie_key_value else 2
    return choose_contraction(*sizes, projections), choose_contraction(
        *sizes, 2
    )


def make_inputs(
    settings: Settings, length: int, packed_length: int
) -> list[Any]:
    """Random tensors, the same in every process.

    Args:
        settings: sizes and number format.
        length: n.
        packed_length: l, or 0 to leave out the packed sequence.

    Returns:
        `x` `(B, n, d)` and, unless `packed_length` is 0, `p` `(B, l, d)`.
    """
    sizes = [length] + ([packed_length] if packed_length else [])
    return [_random(settings, size) for size in sizes]


@functools.lru_cache
def _random(settings: Settings, size: int) -> Any:
    # A seed per size: p is no copy of the first tokens of x.
    generator = np.random.default_rng((_SEED, size))
    shape = (settings.batch, size, settings.width)
    values = generator.standard_normal(shape, np.float32)
    dtype = keras.DTypePolicy(settings.precision).compute_dtype
    return ops.convert_to_tensor(values, dtype=dtype)


def make_mask(settings: Settings, length: int) -> Any:
    """Padding mask `(B, n)`, or None when the settings have none."""
    if not settings.masked:
        return None
    generator = np.random.default_rng((_SEED, length))
    kept = generator.integers(length // 2, length + 1, settings.batch)
    kept[0] = length
    return ops.convert_to_tensor(np.arange(length) < kept[:, None])


def make_layer(
    settings: Settings, contender: str, length: int, packed_length: int
) -> keras.layers.Layer:
    """Builds the layer of a contender.

    Args:
        settings: sizes and number format.
        contender: key of `cases.CONTENDERS`, `MIXED` or `CAUSAL`.
        length: n.
        packed_length: l; softmax attention ignores it.

    Returns:
        A built layer with random weights.
    """
    common: dict[str, Any] = {
        "dropout": settings.dropout,
        "dtype": settings.precision,
    }
    x_shape = (settings.batch, length, settings.width)
    if contender in SOFTMAX:
        layer = keras.layers.MultiHeadAttention(
            settings.heads, settings.width // settings.heads, **common
        )
        layer.build(x_shape, x_shape)
        return layer
    common["num_heads"] = settings.heads
    common["tie_key_value"] = settings.tie_key_value
    if contender == "textbook":
        layer = TextbookLunaAttention(**common)
    elif contender in CAUSAL:
        layer = causal.layer_class(contender)(**common)
    elif "_" in contender:
        layer = MixedLunaAttention(*contender.split("_"), **common)
    else:
        layer = LunaAttention(contraction=contender, **common)
    layer.build(x_shape, (settings.batch, packed_length, settings.width))
    return layer


def make_loss(
    layer: keras.layers.Layer, mask: Any = None, is_causal: bool = False
) -> Callable:
    """Sum of the squares of all outputs: cheap, with a dense gradient.

    Args:
        layer: from `make_layer`.
        mask: padding mask `(B, n)` of the keys, or None.
        is_causal: whether no token may see later ones.

    Returns:
        Function of the inputs that gives a float32 scalar.
    """

    def loss(*inputs: Any) -> Any:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            (x,) = inputs
            masks: dict[str, Any] = {}
            if mask is not None:
                masks["value_mask"] = mask
            masks["use_causal_mask"] = is_causal
            outputs = (layer(x, x, training=True, **masks),)
        elif is_causal:
            outputs = (layer(*inputs, training=True),)
        else:
            outputs = layer(*inputs, query_mask=mask, training=True)
        return sum(
            ops.sum(ops.square(ops.cast(output, "float32")))
            for output in outputs
        )

    return loss


def make_step(settings: Settings, case: Case) -> stepping.Step:
    """A forward and backward pass of a case, ready to run.

    Args:
        settings: sizes and number format.
        case: what to build.

    Returns:
        Function without arguments. Until it runs, inputs and weights are all
        the memory that it holds.
    """
    slots = 0 if case.contender in SOFTMAX else case.packed_length
    is_causal = case.contender in CAUSAL
    layer = make_layer(settings, case.contender, case.length, slots)
    return stepping.make_step(
        make_loss(layer, make_mask(settings, case.length), is_causal),
        layer.trainable_variables,
        make_inputs(settings, case.length, slots),
        case.mode,
    )
