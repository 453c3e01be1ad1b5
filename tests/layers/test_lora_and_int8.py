"""LoRA and int8 quantization reach every projection, in both orders."""

import keras
import numpy as np
import pytest
from layers.luna_reference import array, assert_all_close, randomize, sequences

from luna_tf import LunaAttention, LunaTransformerBlock
from luna_tf.ops import packing

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
PROJECTIONS = {
    True: {"pack_query", "pack_key_value", "key_value"},
    False: {"pack_query", "pack_key", "pack_value", "key", "value"},
}


def projections(layer):
    return {
        sub.name: sub
        for sub in layer._flatten_layers()
        if isinstance(sub, (keras.layers.Dense, keras.layers.EinsumDense))
    }


def make(contraction, tied=False, **kwargs):
    layer = LunaAttention(
        2, contraction=contraction, tie_key_value=tied, **kwargs
    )
    x, p = sequences()
    layer.build(x.shape, p.shape)
    return randomize(layer)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_matrix_is_a_sublayer_that_lora_and_int8_know(tied):
    layer = make("auto", tied)
    names = PROJECTIONS[tied] | {"query", "attention_output"}
    assert projections(layer).keys() == names
    kernels = {w.path for w in layer.weights if w.name == "kernel"}
    assert kernels == {sub.kernel.path for sub in projections(layer).values()}


@ORDERS
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_lora_acts_on_every_projection(contraction, tied):
    for name in PROJECTIONS[tied] | {"query", "attention_output"}:
        layer = make(contraction, tied)
        x, p = sequences()
        before = array(layer(x, p)[0])
        sub = projections(layer)[name]
        sub.enable_lora(2)
        randomize_lora(sub)
        after = array(layer(x, p)[0])
        assert np.abs(after - before).max() > 1e-4, name
        # What LoRA computes is the layer with the merged kernel.
        merged = make(contraction, tied)
        for target, source in zip(
            projections(merged).values(),
            projections(layer).values(),
            strict=True,
        ):
            target.kernel.assign(array(source.kernel))
            target.bias.assign(array(source.bias))
        assert_all_close(merged(x, p), layer(x, p), 1e-4)


def randomize_lora(sub):
    rng = np.random.default_rng(5)
    for weight in (sub.lora_kernel_a, sub.lora_kernel_b):
        weight.assign(rng.normal(size=weight.shape) * 0.3)


@pytest.fixture
def orders_taken(monkeypatch):
    taken = []
    for name in ("pack_absorbed", "unpack_absorbed"):
        original = getattr(packing, name)

        def spy(*args, _name=name, _original=original, **kwargs):
            taken.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(packing, name, spy)
    return taken


def test_lora_keeps_the_absorbed_order(orders_taken):
    layer = make("absorbed")
    for sub in projections(layer).values():
        sub.enable_lora(2)
    layer(*sequences())
    assert orders_taken == ["pack_absorbed", "unpack_absorbed"]


@ORDERS
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_int8_is_close_and_never_folded(contraction, tied, orders_taken):
    layer = make(contraction, tied)
    x, p = sequences()
    exact = layer(x, p)
    del orders_taken[:]
    for sub in projections(layer).values():
        sub.quantize("int8")
        assert "int8" in {w.dtype for w in sub.weights}
    got = layer(x, p)
    assert not orders_taken
    for a, b in zip(got, exact, strict=True):
        scale = np.abs(array(b)).max()
        assert 0 < np.abs(array(a) - array(b)).max() < 0.1 * scale


def test_only_the_quantized_attention_leaves_the_absorbed_order(orders_taken):
    layer = make("absorbed")
    layer.pack_value.quantize("int8")
    layer(*sequences())
    assert orders_taken == ["unpack_absorbed"]


def functional():
    x, p = keras.Input((None, 8)), keras.Input((3, 8))
    block = LunaTransformerBlock(6, 2, tie_key_value=False)
    model = keras.Model([x, p], block(x, p))
    randomize(block)
    return model


# Keras warns about every layer that has nothing to quantize.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a")
def test_quantizing_a_model_reaches_every_matrix():
    model = functional()
    exact = model(list(sequences()))
    model.quantize("int8")
    subs = projections(model)
    assert len(subs) == 9
    assert all("int8" in {w.dtype for w in s.weights} for s in subs.values())
    for a, b in zip(model(list(sequences())), exact, strict=True):
        assert 0 < np.abs(array(a) - array(b)).max() < 0.3
