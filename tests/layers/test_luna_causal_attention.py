"""`LunaCausalAttention`: formula, cache, padding, precision, bad input."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import (
    LENGTH,
    SLOTS,
    WIDTH,
    array,
    numpy,
    randomize,
    right_padded,
    sequences,
    softmax,
)

from luna_tf.layers import (
    LunaCausalAttention,
    _causal_loop,
    _masks,
    _remat,
)

ORDERS = pytest.mark.parametrize("contraction", ["direct", "absorbed"])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
P_MASK = right_padded([2, 3], SLOTS)


def make(contraction="auto", tied=True, **kwargs):
    layer = LunaCausalAttention(
        2,
        tie_key_value=tied,
        contraction=contraction,
        **{"chunk_size": 3, **kwargs},
    )
    x, p = sequences()
    layer.build(x.shape, p.shape)
    return randomize(layer)


def formula(layer, query, packed, query_mask=None, packed_mask=None):
    """The layer in float64, with every sum written out."""
    x, p = (np.asarray(a, "float64") for a in (query, packed))
    kept = np.ones(x.shape[:2]) if query_mask is None else query_mask != 0

    def project(name, x):
        projection = getattr(layer, name)
        y = np.einsum("btd,dhk->bthk", x, array(projection.kernel))
        return y if projection.bias is None else y + array(projection.bias)

    tied = layer.tie_key_value
    q, c = project("query", x), project("pack_key", x)
    k, v = (
        project("key_value" if tied else name, x) for name in ("key", "value")
    )
    scale = q.shape[-1] ** -0.5
    e = np.einsum("bthk,blhk->bthl", c, project("pack_query", p) * scale)
    e = np.logaddexp2(0, e) * kept[..., None, None]
    past = np.tril(np.ones((x.shape[1], x.shape[1])))
    t = np.maximum(np.cumsum(kept, axis=1), 1)[..., None, None]
    s = np.einsum("bthk,bjhk,tj,bjhl->bthl", q * scale, k, past, e) / t
    mask = None if packed_mask is None else packed_mask[:, None, None] != 0
    a = softmax(s, mask)
    y = np.einsum("bthl,bjhl,tj,bjhk->bthk", a, e, past, v) / t
    last = layer.attention_output
    y = np.einsum("bthk,hkd->btd", y, array(last.kernel))
    return y if last.bias is None else y + array(last.bias)


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(
        array(got), array(expected), rtol=tolerance, atol=tolerance
    )


def decode(layer, x, p, cuts, mask=None, packed_mask=None):
    """Outputs of cached calls on pieces of `x`, and the last cache."""
    cache = layer.initial_cache(p, packed_mask)
    outputs = []
    for start, stop in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        piece = None if mask is None else mask[:, start:stop]
        y, cache = layer(x[:, start:stop], query_mask=piece, cache=cache)
        outputs.append(y)
    return keras.ops.concatenate(outputs, axis=1), cache


@ORDERS
@TIED
@pytest.mark.parametrize("options", [{}, {"use_bias": False, "key_dim": 3}])
def test_equals_the_formula(contraction, tied, options):
    layer = make(contraction, tied, **options)
    x, p = sequences()
    masks = right_padded([7, 4]), P_MASK
    close(layer(x, p), formula(layer, x, p))
    close(layer(x, p, *masks), formula(layer, x, p, *masks))


@ORDERS
@pytest.mark.parametrize("split", range(LENGTH + 1))
def test_prefill_and_rest_equal_the_parallel_form(contraction, split):
    layer = make(contraction)
    x, p = sequences()
    expected = layer(x, p, packed_mask=P_MASK)
    got, cache = decode(layer, x, p, [split], packed_mask=P_MASK)
    close(got, expected, 2e-6)
    np.testing.assert_array_equal(array(cache["num_tokens"]), [LENGTH] * 2)


@ORDERS
@TIED
def test_prefill_and_single_steps_equal_the_parallel_form(contraction, tied):
    layer = make(contraction, tied)
    x, p = sequences()
    got, _ = decode(layer, x, p, range(3, LENGTH))
    close(got, layer(x, p), 2e-6)


PADDED = {
    "right": [[1, 1, 1, 1, 0, 0, 0], [1] * 7],
    "left": [[0, 0, 0, 1, 1, 1, 1], [1] * 7],
    "interior": [[1, 0, 1, 0, 0, 1, 1], [1] * 7],
}


@ORDERS
@pytest.mark.parametrize("side", PADDED)
def test_padding_is_as_if_it_were_not_there(contraction, side):
    layer = make(contraction)
    x, p = sequences()
    mask = np.array(PADDED[side], bool)
    garbage = np.where(mask[..., None], x, 1e3).astype("float32")
    alone = array(layer(x[:1, mask[0]], p[:1]))
    mate = array(layer(x[1:], p[1:]))
    cuts = [1, 2, 4]
    for got in (
        layer(garbage, p, query_mask=mask),
        decode(layer, garbage, p, cuts, mask)[0],
    ):
        got = array(got)
        np.testing.assert_allclose(got[:1, mask[0]], alone, atol=3e-6)
        np.testing.assert_allclose(got[1:], mate, atol=3e-6)
        assert np.isfinite(got).all()


def test_padding_does_not_count_as_tokens():
    layer = make()
    x, p = sequences()
    mask = np.array(PADDED["interior"], bool)
    _, cache = decode(layer, x, p, [2, 3], mask)
    np.testing.assert_array_equal(array(cache["num_tokens"]), [4, 7])


def test_travelling_masks_act_like_explicit_ones():
    layer = make()
    x, p = (keras.ops.convert_to_tensor(y) for y in sequences())
    mask = right_padded([7, 4])
    expected = layer(x, p, mask, P_MASK)
    _masks.set_mask(x, keras.ops.convert_to_tensor(mask))
    _masks.set_mask(p, keras.ops.convert_to_tensor(P_MASK))
    got = layer(x, p)
    close(got, expected, 0)
    np.testing.assert_array_equal(array(_masks.get_mask(got)), mask)
    got, _ = layer(x, cache=layer.initial_cache(p))
    close(got, expected, 2e-6)
    np.testing.assert_array_equal(array(_masks.get_mask(got)), mask)
    assert np.abs(array(layer(*sequences())) - array(expected)).max() > 1e-3


@ORDERS
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
def test_fully_padded_rows_are_finite(contraction, jit):
    # Row 0 has no slots left, row 1 no tokens.
    layer = make(contraction)
    x, p = sequences()
    masks = right_padded([7, 0]), right_padded([0, 3], SLOTS)
    outputs, g_inputs, g_weights = gradients.run(
        lambda x, p: {"y": layer(x, p, *masks)},
        layer.trainable_variables,
        {"x": x, "p": p},
        {"y": np.ones_like(x)},
        jit,
    )
    for y in (*outputs.values(), *g_inputs.values(), *g_weights):
        assert np.isfinite(y).all()
    bias = array(layer.attention_output.bias)
    close(outputs["y"], np.broadcast_to(bias, x.shape), 1e-6)


def test_the_cache_has_a_constant_size():
    layer = make()
    x, p = sequences(length=20)
    _, first = layer(x[:, :1], cache=layer.initial_cache(p))
    _, last = decode(layer, x, p, [1, 9])
    expected = {
        "pack_query": ((2, 2, SLOTS, 4), "float32"),
        "packed_mask": ((2, SLOTS), "bool"),
        "key_sums": ((2, 2, 4, SLOTS), "float32"),
        "value_sums": ((2, 2, SLOTS, 4), "float32"),
        "num_tokens": ((2,), "int32"),
    }
    for cache in (layer.initial_cache(p), first, last):
        got = {
            name: (tuple(t.shape), keras.backend.standardize_dtype(t.dtype))
            for name, t in cache.items()
        }
        assert got == expected


def test_rows_of_a_cache_can_be_reordered():
    # As in beam search: every leaf has the batch on axis 0.
    layer = make()
    x, p = sequences()
    order = np.array([1, 1, 0])
    _, cache = layer(x[:, :4], cache=layer.initial_cache(p, P_MASK))
    cache = keras.tree.map_structure(
        lambda t: keras.ops.take(t, order, axis=0), cache
    )
    got, _ = layer(x[order, 4:], cache=cache)
    expected = layer(x, p, packed_mask=P_MASK)
    close(got, array(expected)[order, 4:], 2e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compiles with TensorFlow"
)
def test_a_cache_passes_through_a_while_loop(jit):
    import tensorflow as tf

    layer = make()
    x, p = sequences()

    @tf.function(jit_compile=jit)
    def run(x, p):
        def body(t, outputs, cache):
            y, cache = layer(x[:, t, None], cache=cache)
            return t + 1, outputs + y[:, 0] * tf.cast(t + 1, y.dtype), cache

        # Loop variables keep their static shapes, or this raises.
        return tf.while_loop(
            lambda t, *_: t < LENGTH,
            body,
            (0, tf.zeros((2, WIDTH)), layer.initial_cache(p)),
        )

    _, total, cache = run(tf.constant(x), tf.constant(p))
    weights = np.arange(1, LENGTH + 1)[:, None]
    close(total, (array(layer(x, p)) * weights).sum(1))
    close(cache["key_sums"], decode(layer, x, p, [])[1]["key_sums"])


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compiles with TensorFlow"
)
@ORDERS
def test_one_trace_serves_every_batch_and_length(contraction, jit):
    import tensorflow as tf

    layer = make(contraction)
    spec = tf.TensorSpec([None, None, WIDTH])

    @tf.function(jit_compile=jit, input_signature=[spec, spec])
    def run(x, p):
        y, _ = layer(x, cache=layer.initial_cache(p))
        return layer(x, p), y

    for batch, length, slots in ((2, 1, 3), (1, 3, 2), (3, 10, 3)):
        x, p = sequences(batch, length, slots)
        for y in run(x, p):
            close(y, formula(layer, x, p))
    assert run.experimental_get_tracing_count() == 1


@ORDERS
def test_bfloat16_keeps_its_sums_in_float32(contraction):
    layer = make(contraction, dtype="mixed_bfloat16")
    x, p = sequences(length=600)
    expected = formula(layer, x, p)
    got, cache = decode(layer, x, p, [300, 301])
    for y in (layer(x, p), got):
        assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
        np.testing.assert_allclose(array(y), expected, atol=0.1)
    exact = make(contraction)
    _, reference = decode(exact, x, p, [])
    for name in ("key_sums", "value_sums"):
        assert keras.backend.standardize_dtype(cache[name].dtype) == "float32"
        # Sums kept in bfloat16 stand still once they are 256 terms large.
        scale = np.abs(array(reference[name])).max()
        error = np.abs(array(cache[name]) - array(reference[name])).max()
        assert error < 5e-3 * scale


def test_one_draw_of_dropout_serves_both_sums():
    layer = make(dropout=0.5, seed=1)
    x, p = sequences()
    drawn = layer.draw_seeds(True)
    seeds = drawn[0], None
    # With the past in the cache as it was drawn, both sums are tied sums.
    cache = layer.initial_cache(p)
    _, cache = layer(x, cache=cache, dropout_seeds=seeds)
    keys = array(cache["key_sums"]).swapaxes(2, 3)
    close(keys, cache["value_sums"])
    _, kept = layer(x, cache=layer.initial_cache(p))
    assert np.abs(keys - array(kept["value_sums"])).max() > 1e-2


def test_training_drops_after_softplus_and_after_softmax():
    layer = make(dropout=0.5, seed=1)
    x, p = sequences()
    first, second = layer.draw_seeds(True)
    outputs = [
        array(layer(x, p, dropout_seeds=seeds))
        for seeds in ((None, None), (first, None), (None, second))
    ]
    close(outputs[0], layer(x, p), 0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outputs[a] - outputs[b]).max() > 1e-3
    trained = [array(layer(x, p, training=True)) for _ in range(2)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


def test_auto_follows_the_rule(monkeypatch):
    taken = []
    original = LunaCausalAttention._absorbed_logits

    def spy(self, *args):
        taken.append(True)
        return original(self, *args)

    monkeypatch.setattr(LunaCausalAttention, "_absorbed_logits", spy)
    # H·L·D < H·K·(D + L), with D = 8 and H = 2: L below 8.
    for slots in (2, 7, 8):
        x, p = sequences(slots=slots)
        LunaCausalAttention(2)(x, p)
        assert len(taken) == (slots < 8)
        del taken[:]
    layer = make("absorbed")
    layer(x[:, :1], cache=layer.initial_cache(p))
    assert not taken
    layer(x[:, :2], cache=layer.initial_cache(p))
    assert taken


def test_a_projection_that_is_quantized_is_not_folded(monkeypatch):
    layer = make("absorbed")
    x, p = sequences()
    exact = array(layer(x, p))
    names = {"pack_query", "pack_key", "query", "key_value"}
    names |= {"attention_output"}
    subs = {s.name: s for s in layer._layers}
    assert subs.keys() == names
    for sub in subs.values():
        sub.quantize("int8")
    monkeypatch.setattr(LunaCausalAttention, "_absorbed_logits", None)
    error = np.abs(array(layer(x, p)) - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max()


@ORDERS
def test_lora_acts_on_every_projection(contraction):
    x, p = sequences()
    for name in ("pack_query", "pack_key", "query", "key", "value"):
        layer = make(contraction, tied=False)
        before = array(layer(x, p))
        sub = getattr(layer, name)
        sub.enable_lora(2)
        for weight in (sub.lora_kernel_a, sub.lora_kernel_b):
            weight.assign(np.ones(weight.shape) * 0.2)
        assert np.abs(array(layer(x, p)) - before).max() > 1e-4, name
        close(layer(x, p), formula(layer, x, p), 1e-4)


def test_symbolic_calls_have_the_shapes_of_eager_ones():
    layer = make(dtype="mixed_bfloat16")
    x, p = sequences()
    cache = layer.initial_cache(p)
    x, _ = (keras.ops.cast(y, "float32") for y in (x, p))
    symbolic = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=tuple(t.shape), dtype=t.dtype), cache
    )
    inputs = keras.Input((None, WIDTH), batch_size=2)
    output, after = layer(inputs, cache=symbolic)
    model = keras.Model([inputs, symbolic], [output, after])
    for got, expected in zip(
        keras.tree.flatten(model([x, cache])),
        keras.tree.flatten(layer(x, cache=cache)),
        strict=True,
    ):
        assert got.dtype == expected.dtype
        close(got, expected, 1e-6)
    assert output.dtype == "bfloat16"
    assert {n: t.shape for n, t in after.items()} == {
        n: tuple(t.shape) for n, t in cache.items()
    }


def cache_of(**changes):
    """A good cache with some leaves changed, None = left out."""
    _, p = sequences()
    cache = {**make().initial_cache(p), **changes}
    return {name: t for name, t in cache.items() if t is not None}


BAD_CACHES = {
    "key": lambda: cache_of(key_sums=None),
    "extra": lambda: cache_of(more=np.zeros((2,))),
    "heads": lambda: cache_of(key_sums=np.zeros((2, 4, 2, SLOTS))),
    "width": lambda: cache_of(value_sums=np.zeros((2, 2, SLOTS, 5))),
    "packed length": lambda: cache_of(packed_mask=np.ones((2, 4), bool)),
    "batch": lambda: make().initial_cache(sequences(batch=3)[1]),
    "another layer": lambda: {"key": np.zeros((2, 3, 2, 4))},
    "no dict": lambda: [np.zeros((2, 3))],
}


@pytest.mark.parametrize("name", BAD_CACHES)
def test_a_cache_from_elsewhere_is_refused(name):
    x, _ = sequences()
    with pytest.raises(ValueError, match="`cache` must come from") as raised:
        make()(x, cache=BAD_CACHES[name]())
    assert "'key_sums': (2, 2, 4" in str(raised.value)


X, P = sequences()
BAD_CALLS = {
    "no packed": (lambda: make()(X), "`packed` may be None only with"),
    "width": (lambda: make()(X[..., :6], P[..., :6]), "`query`.*width.*8"),
    "packed width": (lambda: make()(X, P[..., :6]), "`packed`.*width"),
    "packed batch": (lambda: make()(X, P[:1]), "`packed`.*batch"),
    "rank": (lambda: make()(X[0], P), "rank 3"),
    "float mask": (lambda: make()(X, P, np.ones((2, 7))), "`query_mask`"),
    "mask shape": (
        lambda: make()(X, P, packed_mask=np.ones((2, 4), bool)),
        "`packed_mask`",
    ),
    "cache width": (
        lambda: make().initial_cache(P[..., :6]),
        "`packed`.*width",
    ),
    "heads": (
        lambda: LunaCausalAttention(3)(X, P),
        "`num_heads` must divide.*8.*Got: 3",
    ),
    "chunk": (
        lambda: LunaCausalAttention(2, chunk_size=0),
        "`chunk_size` must be a positive integer. Got: 0",
    ),
    "chunk float": (
        lambda: LunaCausalAttention(2, chunk_size=1.5),
        "`chunk_size` must be a positive integer. Got: 1.5",
    ),
    "contraction": (
        lambda: LunaCausalAttention(2, contraction="fast"),
        "`contraction`.*'auto', 'direct', 'absorbed'.*'fast'",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_named(name):
    call, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_initial_cache_builds_the_layer():
    x, p = sequences()
    layer, other = LunaCausalAttention(2), LunaCausalAttention(2)
    cache = layer.initial_cache(p)
    other.build(x.shape, p.shape)
    assert [w.shape for w in layer.weights] == [w.shape for w in other.weights]
    y, _ = layer(x, cache=cache)
    close(y, numpy(layer(x, p)), 2e-6)


def with_gradients(layer, x, p, masks=(), jit=False, **kwargs):
    """Output and all gradients, flat."""
    rng = np.random.default_rng(1)
    results = gradients.run(
        lambda x, p: {"y": layer(x, p, *masks, **kwargs)},
        layer.trainable_variables,
        {"x": x, "p": p},
        {"y": rng.standard_normal(x.shape, np.float32)},
        jit,
    )
    return keras.tree.flatten(results)


@pytest.fixture
def loops(monkeypatch):
    """Lets blocks have 3 tokens, and lists the calls that go by block."""
    calls = []
    original = _causal_loop.attend

    def spy(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(_causal_loop, "attend", spy)
    monkeypatch.setattr(_causal_loop, "BLOCK", 3)
    return calls


MASKS = {
    "no mask": (),
    "masks": (np.array(PADDED["interior"], bool), P_MASK),
    "nothing kept": (right_padded([7, 0]), right_padded([0, 3], SLOTS)),
}


@TIED
@pytest.mark.parametrize("options", [{}, {"use_bias": False, "key_dim": 3}])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_blocks_change_neither_output_nor_gradients(
    tied, options, masks, loops, monkeypatch
):
    layer = make("absorbed", tied, **options)
    x, p = sequences()
    # Three blocks, of which the last one is not full.
    got = with_gradients(layer, x, p, masks)
    assert len(loops) == 1
    monkeypatch.setattr(_causal_loop, "BLOCK", LENGTH)
    expected = with_gradients(layer, x, p, masks)
    assert len(loops) == 1
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@TIED
@pytest.mark.parametrize("jit", [False, True])
def test_blocks_drop_the_same(tied, jit, loops, monkeypatch):
    layer = make("absorbed", tied, dropout=0.4)
    x, p = sequences()
    masks = MASKS["masks"]
    seeds = keras.ops.convert_to_tensor([[3, 4], [5, 6]], "uint32")
    options = {"jit": jit, "training": True, "dropout_seeds": tuple(seeds)}
    got = with_gradients(layer, x, p, masks, **options)
    assert len(loops) == 1
    monkeypatch.setattr(_causal_loop, "BLOCK", LENGTH)
    expected = with_gradients(layer, x, p, masks, **options)
    assert len(loops) == 1
    for a, b in zip(got, expected, strict=True):
        close(a, b)
    options["training"] = options["dropout_seeds"] = None
    kept = with_gradients(layer, x, p, masks, **options)
    assert np.abs(array(got[0]) - array(kept[0])).max() > 1e-3


@pytest.mark.parametrize(("block", "chunk"), [(4, 2), (6, 2), (6, 4), (1, 3)])
def test_blocks_of_several_chunks_change_nothing(
    block, chunk, loops, monkeypatch
):
    layer = make("absorbed", chunk_size=chunk)
    x, p = sequences(length=20)
    monkeypatch.setattr(_causal_loop, "BLOCK", block)
    got = with_gradients(layer, x, p, jit=True)
    assert len(loops) == 1
    monkeypatch.setattr(_causal_loop, "BLOCK", 20)
    expected = with_gradients(layer, x, p, jit=True)
    for a, b in zip(got, expected, strict=True):
        close(a, b)


def test_blocks_can_be_rematerialized(loops):
    layer = make("absorbed")
    x, p = sequences()
    expected = with_gradients(layer, x, p, MASKS["masks"], jit=True)
    del loops[:]
    kept, slots = map(keras.ops.convert_to_tensor, MASKS["masks"])
    got = gradients.run(
        lambda x, p: {
            "y": _remat.with_weights(
                layer,
                lambda x, p: layer(x, p, kept, slots),
                [x, p],
                {},
                remat=True,
            )
        },
        layer.trainable_variables,
        {"x": x, "p": p},
        {"y": np.random.default_rng(1).standard_normal(x.shape, np.float32)},
        jit=True,
    )
    assert loops
    for a, b in zip(keras.tree.flatten(got), expected, strict=True):
        close(a, b)


def test_blocks_in_bfloat16_keep_their_sums_in_float32(loops, monkeypatch):
    layer = make("absorbed", dtype="mixed_bfloat16")
    x, p = sequences(length=600)
    got = with_gradients(layer, x, p, jit=True)
    monkeypatch.setattr(_causal_loop, "BLOCK", 600)
    exact = with_gradients(make("absorbed"), x, p, jit=True)
    assert len(loops) == 1
    # Sums kept in bfloat16 stand still once they are 256 terms large.
    for a, b in zip(got, exact, strict=True):
        error = np.abs(array(a) - array(b)).max()
        assert error < 0.03 * np.abs(array(b)).max()


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compiles with TensorFlow"
)
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_blocks_take_every_batch(jit, loops):
    import tensorflow as tf

    layer = make("absorbed")
    specs = [tf.TensorSpec([None, n, WIDTH]) for n in (LENGTH, SLOTS)]

    @tf.function(jit_compile=jit, input_signature=specs)
    def run(x, p):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, p)
        return y, tape.gradient(y, x)

    for batch in (1, 3):
        x, p = sequences(batch)
        y, dx = run(x, p)
        close(y, formula(layer, x, p))
        assert dx.shape == x.shape
    assert len(loops) == 1


def regularized():
    return make("absorbed", activity_regularizer="l2")


def quantized():
    layer = make("absorbed")
    layer.query.quantize("int8")
    return layer


BY_LENGTH = {
    "short": lambda x, p: make("absorbed")(x[:, :3], p),
    "direct": lambda x, p: make("direct")(x, p),
    "inference": lambda x, p: make("absorbed")(x, p, training=False),
    "regularized": lambda x, p: regularized()(x, p),
    "quantized": lambda x, p: quantized()(x, p),
    "cache": lambda x, p: decode(make("absorbed"), x, p, []),
}


@pytest.mark.parametrize("name", BY_LENGTH)
def test_what_blocks_cannot_do_goes_at_once(name, loops):
    x, p = sequences()
    BY_LENGTH[name](x, p)
    assert not loops
    make("absorbed")(x, p)
    assert loops
