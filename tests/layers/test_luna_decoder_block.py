"""`LunaDecoderBlock`: residuals, norms, masks, cache, decoder-only form."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    LENGTH,
    SLOTS,
    WIDTH,
    array,
    assert_all_close,
    numpy,
    randomize,
    right_padded,
    sequences,
)

from luna_tf.layers import LunaDecoderBlock, _masks

FIRST = pytest.mark.parametrize("first", [False, True], ids=["post", "pre"])
CROSS = pytest.mark.parametrize("cross", [True, False], ids=["cross", "only"])
SOURCE = 5
X_MASK = right_padded([7, 4])
P_MASK = right_padded([2, 3], SLOTS)
E_MASK = right_padded([3, 5], SOURCE)


def inputs(cross=True):
    """`x`, `p` and the encoder sequence, of a width of its own, or None."""
    encoded = sequences(length=SOURCE, width=6, seed=5)[0]
    return *sequences(), encoded if cross else None


def in_order(arrays):
    """The block's inputs by name; JAX sorts dictionaries."""
    return [arrays[name] for name in "xpe" if name in arrays]


def make(cross=True, seed=0, **kwargs):
    block = LunaDecoderBlock(
        6, 2, **{"chunk_size": 3, "num_pack_heads": 4, **kwargs}
    )
    block.build(*(a.shape for a in inputs(cross) if a is not None))
    return randomize(block, seed)


def decode(block, cuts, masks=(None, None, None), cross=True):
    """Outputs of cached calls on pieces of `x`, and the next `p`."""
    x, p, encoded = inputs(cross)
    cache, p = block.initial_cache(p, encoded, masks[1], masks[2])
    outputs = []
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        mask = None if masks[0] is None else masks[0][:, start:stop]
        y, cache = block(
            x[:, start:stop], decoder_padding_mask=mask, cache=cache
        )
        outputs.append(y)
    return keras.ops.concatenate(outputs, axis=1), p


@FIRST
@CROSS
def test_equals_its_parts_in_order(first, cross):
    block = make(cross, normalize_first=first, activation="gelu")
    x, p, encoded = inputs(cross)
    got = block(x, p, encoded)

    def before(norm, x):
        return norm(x) if first else x

    def after(norm, x):
        return x if first else norm(x)

    norm = block.self_attention_layer_norm
    y = after(norm, x + block.self_attention(before(norm, x), p))
    q = p
    if cross:
        norm, packed_norm = (
            block.cross_attention_layer_norm,
            block.packed_layer_norm,
        )
        z, q = block.cross_attention(
            before(norm, y), before(packed_norm, p), encoded
        )
        y, q = after(norm, y + z), after(packed_norm, p + q)
    norm = block.feedforward_layer_norm
    z = block.feedforward_intermediate_dense(before(norm, y))
    z = block.feedforward_output_dense(keras.activations.gelu(z))
    assert_all_close(got, (after(norm, y + z), q), 1e-6)


@FIRST
@CROSS
@pytest.mark.parametrize("split", range(LENGTH + 1))
def test_prefill_and_rest_equal_the_parallel_form(first, cross, split):
    block = make(cross, normalize_first=first)
    expected = block(
        *inputs(cross),
        packed_mask=P_MASK,
        encoder_padding_mask=E_MASK if cross else None,
    )
    masks = None, P_MASK, E_MASK if cross else None
    assert_all_close(decode(block, [split], masks, cross), expected, 5e-6)


@FIRST
@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_steps_equal_the_parallel_form(first, contraction, tied):
    block = make(
        normalize_first=first, contraction=contraction, tie_key_value=tied
    )
    expected = block(*inputs())
    assert_all_close(decode(block, range(1, LENGTH)), expected, 5e-6)


@FIRST
def test_padding_is_as_if_it_were_not_there(first):
    block = make(normalize_first=first)
    x, p, encoded = inputs()
    x_mask = np.array([[0, 1, 1, 0, 1, 0, 0], [1] * 7], bool)
    garbage = np.where(x_mask[..., None], x, 9.0).astype("float32")
    source = np.where(E_MASK[..., None], encoded, 9.0).astype("float32")
    got = numpy(
        block(
            garbage,
            p,
            source,
            decoder_padding_mask=x_mask,
            encoder_padding_mask=E_MASK,
        )
    )
    for row in (0, 1):
        expected = block(
            x[row : row + 1, x_mask[row]],
            p[row : row + 1],
            encoded[row : row + 1, E_MASK[row]],
        )
        mine = got[0][row : row + 1, x_mask[row]], got[1][row : row + 1]
        assert_all_close(mine, expected)


@CROSS
def test_keras_masks_survive_a_stack_eagerly_and_symbolically(cross):
    stack = [make(cross, seed) for seed in range(3)]
    arrays = [a for a in inputs(cross) if a is not None]
    masks = [X_MASK, P_MASK, E_MASK][: len(arrays)]
    given = [
        _masks.set_mask(*map(keras.ops.convert_to_tensor, pair))
        for pair in zip(arrays, masks, strict=True)
    ]
    symbols = [keras.Input(a.shape[1:], batch_size=2) for a in arrays]
    for symbol, mask in zip(symbols, masks, strict=True):
        _masks.set_mask(symbol, keras.KerasTensor(mask.shape, "bool"))
    expected = arrays
    for block in stack:
        given[:2] = block(*given)
        symbols[:2] = block(*symbols)
        expected[:2] = block(
            *expected,
            decoder_padding_mask=masks[0],
            packed_mask=masks[1],
            encoder_padding_mask=masks[2] if cross else None,
        )
        for x, symbol, mask in zip(given, symbols, masks, strict=False):
            np.testing.assert_array_equal(array(_masks.get_mask(x)), mask)
            assert _masks.get_mask(symbol).shape == mask.shape
    assert_all_close(given[:2], expected[:2], 1e-6)


def test_a_decoder_only_block_leaves_the_packed_sequence_alone():
    block = make(cross=False)
    x, p, _ = inputs()
    p = keras.ops.convert_to_tensor(p)
    _, passed = block(x, p, packed_mask=P_MASK)
    assert_all_close([passed], [p], 0)
    assert _masks.get_mask(p) is None  # the caller's tensor gets no mask
    assert not hasattr(block, "cross_attention")
    assert not [w for w in block.weights if "packed_layer" in w.path]


@FIRST
@CROSS
def test_every_weight_gets_a_gradient(first, cross):
    # Also where nobody reads the packed output: `fit` would warn.
    block = make(cross, normalize_first=first, tie_key_value=False)
    _, _, weights = gradients.run(
        lambda **arrays: {"x": block(*in_order(arrays))[0]},
        block.trainable_variables,
        {
            name: a
            for name, a in zip("xpe", inputs(cross), strict=True)
            if a is not None
        },
        {"x": np.ones((2, LENGTH, WIDTH), "float32")},
    )
    assert all(g is not None and np.isfinite(g).all() for g in weights)


@FIRST
def test_an_untied_cancelled_bias_gets_no_noise(first):
    block = make(normalize_first=first, tie_key_value=False)
    rng = np.random.default_rng(0)
    _, _, weights = gradients.run(
        lambda **arrays: dict(zip("xp", block(*in_order(arrays)), strict=True)),
        block.trainable_variables,
        dict(zip("xpe", inputs(), strict=True)),
        {
            "x": rng.normal(size=(2, LENGTH, WIDTH)).astype("float32"),
            "p": rng.normal(size=(2, SLOTS, WIDTH)).astype("float32"),
        },
    )
    paths = [v.path for v in block.trainable_variables]
    zero = {
        path.split("/", 1)[1]
        for path, g in zip(paths, weights, strict=True)
        if not g.any()
    }
    # Of the causal attention no bias cancels.
    assert zero == {
        "cross_attention/key/bias",
        "cross_attention/pack_key/bias",
    }


def training_step(block, cross):
    arrays = [a for a in inputs(cross) if a is not None]

    def function(**given):
        outputs = block(*in_order(given), training=True)
        return dict(zip("xp", outputs, strict=True))

    cotangents = {"x": np.ones_like(arrays[0]), "p": arrays[1]}
    outputs, g_inputs, g_weights = gradients.run(
        function,
        block.trainable_variables,
        dict(zip("xpe", arrays, strict=False)),
        cotangents,
    )
    return [*outputs.values(), *g_inputs.values(), *g_weights]


@FIRST
@CROSS
def test_remat_changes_nothing(first, cross):
    options = dict(
        normalize_first=first,
        dropout=0.3,
        attention_dropout=0.2,
        activation_dropout=0.4,
        seed=11,
    )
    results = []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        block = make(cross, remat=remat, **options)
        results.append(training_step(block, cross))
    for plain, remat in zip(*results, strict=True):
        np.testing.assert_allclose(remat, plain, rtol=1e-6, atol=1e-6)


def test_remat_passes_gradients_to_the_encoder():
    block = make(remat=True)
    x, p, encoded = inputs()
    _, g_inputs, _ = gradients.run(
        lambda x, p, e: {"x": block(x, p, e, training=True)[0]},
        block.trainable_variables,
        {"x": x, "p": p, "e": encoded},
        {"x": x},
    )
    assert all(np.abs(g).max() > 1e-3 for g in g_inputs.values())


@pytest.mark.parametrize(
    "name", ["dropout", "attention_dropout", "activation_dropout"]
)
@CROSS
def test_each_rate_acts_in_training_only(name, cross):
    rates = dict.fromkeys(
        ["dropout", "attention_dropout", "activation_dropout"], 0.0
    )
    block = make(cross, seed=3, **{**rates, name: 0.5})
    arrays = inputs(cross)
    expected = array(block(*arrays)[0])
    drawn = [array(block(*arrays, training=True)[0]) for _ in range(2)]
    for a, b in ((drawn[0], expected), (drawn[1], expected), drawn):
        assert np.abs(a - b).max() > 1e-3


def test_every_dropout_has_its_own_seed(monkeypatch):
    from luna_tf.layers import _attention, _block

    used = []

    def record(x, rate, seed):
        used.append(tuple(array(seed)))
        return x

    monkeypatch.setattr(_attention, "dropout", record)
    monkeypatch.setattr(_block, "dropout", record)
    block = LunaDecoderBlock(6, 2, dropout=0.1, activation_dropout=0.1, seed=5)
    for _ in range(2):
        block(*inputs(), training=True)
    assert len(used) == len(set(used)) == 18


@CROSS
def test_mixed_precision_is_close_and_keeps_float32_sums(cross):
    exact, mixed = (make(cross, dtype=d) for d in (None, "mixed_bfloat16"))
    expected = exact(*inputs(cross))
    x, p, encoded = inputs(cross)
    cache, next_p = mixed.initial_cache(p, encoded)
    y, cache = mixed(x, cache=cache)
    for got in (mixed(x, p, encoded), (y, next_p)):
        for a, b in zip(got, expected, strict=True):
            assert keras.backend.standardize_dtype(a.dtype) == "bfloat16"
            np.testing.assert_allclose(array(a), array(b), atol=0.15)
    for name in ("key_sums", "value_sums"):
        dtype = cache["self_attention"][name].dtype
        assert keras.backend.standardize_dtype(dtype) == "float32"


def test_rows_of_a_cache_can_be_reordered():
    block = make()
    x, p, encoded = inputs()
    order = np.array([1, 1, 0])
    cache, _ = block.initial_cache(p, encoded, P_MASK, E_MASK)
    _, cache = block(x[:, :4], cache=cache)
    cache = keras.tree.map_structure(
        lambda t: keras.ops.take(t, order, axis=0), cache
    )
    got, _ = block(x[order, 4:], cache=cache)
    expected, _ = block(
        x, p, encoded, packed_mask=P_MASK, encoder_padding_mask=E_MASK
    )
    assert_all_close([got], [array(expected)[order, 4:]])


@CROSS
def test_symbolic_cached_calls(cross):
    block = make(cross)
    x, p, encoded = inputs(cross)
    cache, _ = block.initial_cache(p, encoded)
    symbols = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=tuple(t.shape), dtype=t.dtype), cache
    )
    token = keras.Input((1, WIDTH), batch_size=2)
    model = keras.Model([token, symbols], block(token, cache=symbols))
    got = model([keras.ops.convert_to_tensor(x[:, :1]), cache])
    expected = block(x[:, :1], cache=cache)
    keras.tree.assert_same_structure(got[1], cache)
    assert_all_close(keras.tree.flatten(got), keras.tree.flatten(expected))


X, P, E = inputs()
ONLY = {"self_attention": {}}


def refused_cache():
    other = LunaDecoderBlock(6, 4, chunk_size=3)
    return other.initial_cache(P, E)[0]


def half_refused_cache():
    good, _ = make().initial_cache(P, E)
    return {**good, "cross_attention": refused_cache()["cross_attention"]}


BAD = {
    "no packed": (lambda: make()(X, None, E), "`packed` may be None only"),
    "no encoder": (
        lambda: make()(X, P),
        "`encoder_sequence` must be given",
    ),
    "an encoder": (
        lambda: make(False)(X, P, E),
        "`encoder_sequence` must be None",
    ),
    "an encoder mask": (
        lambda: make(False)(X, P, encoder_padding_mask=E_MASK),
        "`encoder_padding_mask` needs an `encoder_sequence`",
    ),
    "encoder width": (lambda: make()(X, P, E[..., :4]), "`context`.*width.*6"),
    "encoder batch": (lambda: make()(X, P, E[:1]), "`context`.*batch"),
    "packed width": (lambda: make()(X, P[..., :4], E), "`packed`.*width"),
    "rank": (lambda: make()(X, P, E[0]), "`encoder_sequence`.*rank 3"),
    "mask": (
        lambda: make()(X, P, E, encoder_padding_mask=np.ones((2, 9), bool)),
        "`encoder_padding_mask` must have",
    ),
    "cache keys": (lambda: make()(X, cache=ONLY), "`cache` must come from"),
    "cache heads": (
        lambda: make()(X, cache=refused_cache()),
        "`cache` must come from",
    ),
    "cross cache": (
        lambda: make()(X, cache=half_refused_cache()),
        r"`cache` must come from.*'key': \(2, 3, 2, 4\)",
    ),
    "batch of the cache": (
        lambda: make()(X[:1], cache=make().initial_cache(P, E)[0]),
        "`cache` must come from",
    ),
    "intermediate_dim": (
        lambda: LunaDecoderBlock(0, 2),
        "`intermediate_dim` must be a positive integer. Got: 0",
    ),
    "num_pack_heads": (
        lambda: LunaDecoderBlock(6, 2, num_pack_heads=0),
        "`num_pack_heads` must be a positive integer. Got: 0",
    ),
    "chunk_size": (
        lambda: LunaDecoderBlock(6, 2, chunk_size=0),
        "`chunk_size` must be a positive integer. Got: 0",
    ),
    "contraction": (
        lambda: LunaDecoderBlock(6, 2, contraction="fast"),
        "`contraction` must be one of",
    ),
    **{
        name: (
            lambda name=name: LunaDecoderBlock(6, 2, **{name: 1.5}),
            rf"`{name}` must be in \[0, 1\). Got: 1.5",
        )
        for name in ("dropout", "attention_dropout", "activation_dropout")
    },
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
