"""The two contraction orders: equal results, and which one `auto` takes."""

import gradients
import numpy as np
import pytest
from layers.luna_reference import (
    SLOTS,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaAttention, LunaTransformerBlock
from luna_tf.ops import packing


def value_and_gradients(layer, masks, jit):
    x, p = sequences()
    rng = np.random.default_rng(1)
    cotangents = {
        name: rng.normal(size=y.shape).astype("float32")
        for name, y in (("x", x), ("p", p))
    }
    outputs, g_inputs, g_weights = gradients.run(
        lambda x, p: dict(zip("xp", layer(x, p, **masks), strict=True)),
        layer.trainable_variables,
        {"x": x, "p": p},
        cotangents,
        jit,
    )
    return [*outputs.values(), *g_inputs.values(), *g_weights]


@pytest.mark.parametrize(
    "tied,jit",
    [(True, False), (False, False), (False, True)],
    ids=["tied", "untied", "untied-xla"],
)
def test_orders_agree_to_1e_5(tied, jit):
    results = []
    for contraction in ("direct", "absorbed"):
        layer = LunaAttention(
            2,
            num_pack_heads=4,
            tie_key_value=tied,
            contraction=contraction,
        )
        x, p = sequences()
        layer.build(x.shape, p.shape)
        randomize(layer)
        masks = {
            "query_mask": right_padded([7, 4]),
            "packed_mask": right_padded([2, 3], SLOTS),
        }
        results.append(value_and_gradients(layer, masks, jit))
    for direct, absorbed in zip(*results, strict=True):
        scale = max(1.0, np.abs(direct).max())
        assert np.abs(direct - absorbed).max() <= 1e-5 * scale


@pytest.fixture
def orders_taken(monkeypatch):
    """Names of the functions of `ops.packing` that were called."""
    taken = []
    for name in (
        "pack_direct",
        "pack_absorbed",
        "unpack_direct",
        "unpack_absorbed",
    ):
        original = getattr(packing, name)

        def spy(*args, _name=name, _original=original, **kwargs):
            taken.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(packing, name, spy)
    return taken


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
def test_a_named_order_is_taken(contraction, orders_taken):
    LunaAttention(2, contraction=contraction)(*sequences())
    assert orders_taken == [f"pack_{contraction}", f"unpack_{contraction}"]


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_auto_follows_the_rule_of_the_docstring(
    heads, slots, tied, orders_taken
):
    width, r = 16, 1 if tied else 2
    x, p = sequences(slots=slots, width=width)
    LunaAttention(heads, tie_key_value=tied)(x, p)
    pack = heads * slots < r * width / 2 + slots
    unpack = heads * slots < width + slots
    assert orders_taken == [
        "pack_absorbed" if pack else "pack_direct",
        "unpack_absorbed" if unpack else "unpack_direct",
    ]


def test_auto_counts_the_heads_of_each_attention(orders_taken):
    x, p = sequences(slots=4, width=16)
    LunaAttention(2, num_pack_heads=16)(x, p)
    LunaAttention(16, num_pack_heads=1)(x, p)
    assert orders_taken == [
        "pack_direct",
        "unpack_absorbed",
        "pack_absorbed",
        "unpack_direct",
    ]


def test_auto_counts_the_width_of_the_context(orders_taken):
    # 2·H·L·C < C·W + 2·L·W with H = 2, L = 3, W = 8: narrow contexts only.
    x, p = sequences(slots=3)
    for width in (2, 64):
        LunaAttention(2)(x, p, sequences(width=width)[0])
    assert orders_taken[::2] == ["pack_absorbed", "pack_direct"]


@pytest.mark.parametrize("length", [1, 3, 40])
def test_auto_does_not_depend_on_the_length(length, orders_taken):
    x, p = sequences(length=length, slots=4, width=16)
    LunaAttention(2)(x, p)
    assert orders_taken == ["pack_absorbed", "unpack_absorbed"]


@pytest.mark.parametrize("contraction", ["direct", "absorbed", "auto"])
def test_block_hands_the_order_to_its_attention(contraction, orders_taken):
    x, p = sequences(slots=1)
    LunaTransformerBlock(4, 2, contraction=contraction)(x, p)
    expected = "direct" if contraction == "direct" else "absorbed"
    assert orders_taken == [f"pack_{expected}", f"unpack_{expected}"]


def test_a_regularized_output_is_always_formed(orders_taken):
    layer = LunaAttention(2, contraction="absorbed", activity_regularizer="l2")
    layer(*sequences())
    assert orders_taken == ["pack_direct", "unpack_direct"]
