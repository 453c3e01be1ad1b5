"""Dropout: where it acts, that it is unbiased, and that seeds are kept."""

import keras
import numpy as np
import pytest
from layers.luna_reference import (
    array,
    assert_all_close,
    numpy,
    randomize,
    sequences,
)

from luna_tf import LunaAttention, LunaTransformerBlock

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
N = 8
SEED = np.array([1, 2], "uint32")


def identity(contraction, rate=0.5):
    """A layer of one head that shows its weights in its outputs.

    With values equal to the unit vectors, the sum of weighted values is the
    row of weights itself.
    """
    layer = LunaAttention(
        1,
        tie_key_value=False,
        dropout=rate,
        contraction=contraction,
        use_bias=False,
    )
    layer.build((1, N, N), (1, N, N))
    for weight in layer.weights:
        weight.assign(np.eye(N).reshape(weight.shape))
    return layer


def seeds(pack, unpack):
    seed = keras.ops.convert_to_tensor(SEED)
    return seed if pack else None, seed if unpack else None


def entries(dropped, weights, rate=0.5):
    """Asserts that each entry is 0 or scaled up; returns the kept share."""
    kept = dropped != 0
    np.testing.assert_allclose(
        dropped, np.where(kept, weights / (1 - rate), 0), rtol=1e-5
    )
    return kept.mean()


@ORDERS
def test_dropout_after_the_pack_softmax(contraction):
    layer = identity(contraction)
    eye = np.eye(N, dtype="float32")[None]
    _, packed, pack, _ = numpy(
        layer(
            eye,
            sequences(1, 1, N)[1],
            return_attention_scores=True,
            dropout_seeds=seeds(True, False),
        )
    )
    assert 0.2 < entries(packed, pack[:, 0]) < 0.8
    np.testing.assert_allclose(pack.sum(-1), 1, rtol=1e-5)


@ORDERS
def test_dropout_after_the_unpack_softmax(contraction):
    layer = identity(contraction)
    x = sequences(1, N)[0]
    # Sharp pack weights: the packed output is the context, unit vectors.
    eye = np.eye(N, dtype="float32")[None]
    output, packed, _, unpack = numpy(
        layer(
            x,
            eye * 300,
            eye,
            return_attention_scores=True,
            dropout_seeds=seeds(False, True),
        )
    )
    np.testing.assert_allclose(packed, eye, atol=1e-6)
    assert 0.2 < entries(output, unpack[:, 0]) < 0.8
    np.testing.assert_allclose(unpack.sum(-1), 1, rtol=1e-5)


@ORDERS
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_training_drops_in_both_attentions(contraction, tied):
    layer = LunaAttention(
        2, tie_key_value=tied, dropout=0.5, contraction=contraction, seed=1
    )
    x, p = sequences()
    layer.build(x.shape, p.shape)
    randomize(layer)
    drawn = layer.draw_seeds(True)
    assert all(seed is not None for seed in drawn)
    assert not np.array_equal(*(array(seed) for seed in drawn))
    outputs = {
        (pack, unpack): layer(
            x,
            p,
            dropout_seeds=(
                drawn[0] if pack else None,
                drawn[1] if unpack else None,
            ),
        )
        for pack in (False, True)
        for unpack in (False, True)
    }
    assert_all_close(outputs[False, False], layer(x, p, training=False), 0)

    def differ(a, b, index):
        return np.abs(array(outputs[a][index] - outputs[b][index])).max() > 1e-3

    # The pack dropout is seen in the packed output, the other is not.
    assert differ((True, False), (False, False), 1)
    assert not differ((False, True), (False, False), 1)
    assert differ((False, True), (False, False), 0)


@ORDERS
def test_without_training_nothing_is_dropped(contraction):
    x, p = sequences()
    layer = LunaAttention(2, dropout=0.5, contraction=contraction)
    assert_all_close(layer(x, p), layer(x, p, training=False), 0)
    block = LunaTransformerBlock(
        6, 2, dropout=0.5, activation_dropout=0.5, contraction=contraction
    )
    assert_all_close(block(x, p), block(x, p, training=False), 0)


@ORDERS
def test_dropout_keeps_the_mean(contraction):
    # Of the packed output, which is linear in the weights: biases included.
    layer = LunaAttention(2, dropout=0.3, contraction=contraction, seed=0)
    x, p = sequences(1)
    layer.build(x.shape, p.shape)
    randomize(layer)
    many = [np.repeat(y, 4000, axis=0) for y in (x, p)]
    _, packed = layer(*many, training=True)
    samples = array(packed)
    error = samples.mean(0) - array(layer(x, p)[1])[0]
    assert (np.abs(error) < 5 * samples.std(0) / 4000**0.5 + 1e-5).all()
    assert samples.std(0).min() > 0.01


def test_a_seed_repeats_a_run():
    x, p = sequences()

    def run(seed):
        keras.utils.set_random_seed(0)
        layer = LunaAttention(2, dropout=0.5, seed=seed)
        return [array(layer(x, p, training=True)[0]) for _ in range(2)]

    first, again, other = run(7), run(7), run(8)
    assert_all_close(first, again, 0)
    assert np.abs(first[0] - first[1]).max() > 1e-3
    assert np.abs(first[0] - other[0]).max() > 1e-3


# === The block ===


BRANCHES = {
    # rates that are not zero -> does it change (tokens, packed sequence)?
    "attention_dropout": (True, True),
    "activation_dropout": (True, False),
    "dropout": (True, True),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
def test_each_rate_of_the_block_acts(name, first):
    rates = dict.fromkeys(BRANCHES, 0.0) | {name: 0.5}
    block = LunaTransformerBlock(6, 2, normalize_first=first, seed=3, **rates)
    x, p = sequences()
    block.build(x.shape, p.shape)
    randomize(block)
    got, expected = block(x, p, training=True), block(x, p)
    changed = tuple(
        bool(np.abs(array(a) - array(b)).max() > 1e-3)
        for a, b in zip(got, expected, strict=True)
    )
    assert changed == BRANCHES[name]


def test_attention_dropout_defaults_to_dropout():
    assert LunaTransformerBlock(6, 2, dropout=0.3).attention_dropout == 0.3
    block = LunaTransformerBlock(6, 2, dropout=0.3, attention_dropout=0.0)
    assert block.self_attention.dropout == 0.0


@pytest.fixture
def drops(monkeypatch):
    """Records the rates and shapes of dropouts; each maps to zeros."""
    from luna_tf.layers import _attention, _block

    calls = []

    def record(x, rate, seed):
        calls.append((rate, tuple(x.shape), seed is not None))
        return x * 0

    monkeypatch.setattr(_attention, "dropout", record)
    monkeypatch.setattr(_block, "dropout", record)
    return calls


def test_block_drops_on_all_branches_and_after_the_activation(drops):
    x, p = sequences()
    block = LunaTransformerBlock(
        6,
        2,
        dropout=0.1,
        attention_dropout=0.2,
        activation_dropout=0.3,
        contraction="direct",
    )
    block(x, p, training=True)
    pack, unpack = (2, 2, 3, 7), (2, 2, 7, 3)
    assert drops == [
        (0.2, pack, True),
        (0.2, unpack, True),
        (0.1, x.shape, True),
        (0.1, p.shape, True),
        (0.3, (2, 7, 6), True),
        (0.1, x.shape, True),
    ]


def test_residuals_go_round_the_dropout(drops):
    # With every branch dropped a pre-norm block is the identity.
    x, p = sequences()
    block = LunaTransformerBlock(6, 2, dropout=0.1, normalize_first=True)
    assert_all_close(block(x, p, training=True), (x, p), 0)


def test_every_dropout_of_a_block_has_its_own_seed(monkeypatch):
    from luna_tf.layers import _attention, _block

    used = []

    def record(x, rate, seed):
        used.append(tuple(array(seed)))
        return x

    monkeypatch.setattr(_attention, "dropout", record)
    monkeypatch.setattr(_block, "dropout", record)
    block = LunaTransformerBlock(
        6, 2, dropout=0.1, activation_dropout=0.1, seed=5
    )
    block(*sequences(), training=True)
    block(*sequences(), training=True)
    assert len(used) == len(set(used)) == 12
