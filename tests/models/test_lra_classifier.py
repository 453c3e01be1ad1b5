"""`LRAClassifier`: configuration, padding, pooling, saving, arguments."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.layers import LunaPooling
from luna_tf.models import LRAClassifier

SMALL = dict(
    vocabulary_size=11,
    num_classes=4,
    max_sequence_length=9,
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=12,
    packed_length=3,
)
# Every argument at another value than its default.
EVERYTHING = dict(
    **SMALL,
    num_pack_heads=4,
    tie_key_value=True,
    share_layers=True,
    dynamic_packing=False,
    dropout=0.2,
    attention_dropout=0.3,
    activation_dropout=0.4,
    activation="relu",
    position_embedding="sinusoidal",
    first_position=2,
    embedding_scale=2.0,
    pooling="packed",
    pooling_includes_padding=True,
    head_hidden_dim=6,
    head_dropout=0.1,
    padding_id=1,
    positions_skip_padding=False,
    normalize_first=True,
    contraction="direct",
    remat=True,
    seed=3,
    dtype="mixed_bfloat16",
    name="luna",
)
# What a model reads: `test_lra_inputs.py`.
INPUTS = ("num_documents", "pair_features", "input_type")
IDS = np.array([[2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0]])


def make(**kwargs):
    model = LRAClassifier(**{**SMALL, **kwargs})
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(size=weight.shape) * 0.3 + 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def logits(model, ids=IDS, **kwargs):
    return keras.ops.convert_to_numpy(model(np.array(ids), **kwargs))


def assert_same(a, b):
    for ids in (IDS, IDS[:1, :3], [[2] * 9] * 3):
        np.testing.assert_array_equal(logits(a, ids), logits(b, ids))


# === Configuration ===


def test_every_argument_comes_back():
    arguments = inspect.signature(LRAClassifier).parameters
    elsewhere = {"attention", "max_real_tokens", *INPUTS}
    assert set(arguments) - {"kwargs", *elsewhere} == EVERYTHING.keys() - {
        "name"
    }
    model = LRAClassifier(**EVERYTHING)
    config = model.get_config()
    again = LRAClassifier.from_config(config)
    assert again.get_config() == config
    assert again.name == "luna"
    for name, value in EVERYTHING.items():
        if name in arguments:
            assert value != arguments[name].default
        if name != "dtype":
            assert config[name] == value, name
    assert again.blocks[0].dtype_policy.name == "mixed_bfloat16"


HOLES = np.array([[0, 3, 0, 0, 6, 7], [8, 0, 0, 9, 0, 0], [5, 4, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    "attention,pooling",
    [("luna", "mean"), ("luna", "packed"), ("softmax", "mean")],
)
def test_dropped_padding_changes_no_logit(attention, pooling, tmp_path):
    arguments = dict(
        attention=attention,
        pooling=pooling,
        position_embedding="sinusoidal",
        positions_skip_padding=False,
        # Of the longest of these rows, to which dynamic packing looks.
        packed_length=3 if attention == "luna" else None,
        dynamic_packing=attention != "luna",
    )
    whole = make(**arguments)
    dropping = make(**arguments, max_real_tokens=3)
    expected = logits(whole, HOLES)
    np.testing.assert_allclose(logits(dropping, HOLES), expected, atol=3e-6)
    # And one token less shows.
    shorter = make(**arguments, max_real_tokens=2)
    assert np.abs(logits(shorter, HOLES) - expected)[0].max() > 3e-5
    dropping.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.get_config() == dropping.get_config()
    assert_same(again, dropping)


def test_attention_scores_are_where_the_tokens_were():
    arguments = dict(positions_skip_padding=False, dynamic_packing=False)
    whole = make(**arguments).attention_scores(HOLES)
    dropping = make(**arguments, max_real_tokens=3).attention_scores(HOLES)
    real = HOLES != 0
    for (pack, unpack), (pack_dropped, unpack_dropped) in zip(
        whole, dropping, strict=True
    ):
        np.testing.assert_allclose(pack_dropped, pack, atol=1e-5)
        np.testing.assert_allclose(
            np.array(unpack_dropped) * real[:, None, :, None],
            np.array(unpack) * real[:, None, :, None],
            atol=1e-5,
        )


@pytest.mark.parametrize(
    "other",
    [
        dict(padding_id=None),
        dict(pooling="mean", pooling_includes_padding=True),
    ],
)
def test_padding_that_cannot_be_dropped(other):
    name = next(n for n in other if n != "pooling")
    with pytest.raises(ValueError, match=f"`{name}`.*max_real_tokens"):
        make(max_real_tokens=3, **other)


def test_registered_under_the_package():
    for cls in (LRAClassifier, LunaPooling):
        name = f"luna_tf>{cls.__name__}"
        assert keras.saving.get_registered_object(name) is cls


def test_logits_are_float32_in_mixed_precision():
    model = make(dtype="mixed_bfloat16")
    assert logits(model).dtype == np.float32
    assert model.blocks[0].compute_dtype == "bfloat16"
    np.testing.assert_allclose(logits(model), logits(make()), atol=0.2)


def test_shared_layers_are_one_block_applied_twice():
    shared = make(share_layers=True)
    assert len(shared.blocks) == 1
    apart = make()
    apart.embedding.set_weights(shared.embedding.get_weights())
    apart.head[-1].set_weights(shared.head[-1].get_weights())
    for block in apart.blocks:
        block.set_weights(shared.blocks[0].get_weights())
    np.testing.assert_array_equal(logits(shared), logits(apart))


def test_arguments_reach_the_layers():
    model = LRAClassifier(**EVERYTHING)
    block, attention = model.blocks[0], model.blocks[0].self_attention
    assert block.activation is keras.activations.relu
    assert (block.normalize_first, block.remat) == (True, True)
    assert (block.dropout, block.activation_dropout) == (0.2, 0.4)
    assert (attention.dropout, attention.num_pack_heads) == (0.3, 4)
    assert (attention.contraction, attention.tie_key_value) == ("direct", True)
    embedding = model.embedding
    assert (embedding.dropout, embedding.padding_id) == (0.2, 1)
    assert (embedding.scale, embedding.first_position) == (2.0, 2)
    assert embedding.packed_embedding.dynamic is False
    kinds = [type(layer).__name__ for layer in model.head]
    assert kinds == ["Dropout", "Dense", "Dense"]
    assert (model.head[0].rate, model.head[1].units) == (0.1, 6)
    assert model.head[-1].use_bias is False


def test_dropouts_have_seeds_of_their_own():
    model = LRAClassifier(**{**EVERYTHING, "share_layers": False})
    seeds = [
        layer.seed
        for layer in model._flatten_layers()
        if getattr(layer, "seed", None) is not None
        and not isinstance(layer, LRAClassifier)
    ]
    generators = [
        layer.seed_generator._initial_seed
        for layer in model._flatten_layers()
        if getattr(layer, "seed_generator", None) is not None
    ]
    assert len(seeds) >= 6
    assert len(set(generators)) == len(generators)


# === Padding ===


@pytest.mark.parametrize(
    "pooling,positions,contraction",
    itertools.product(
        ("cls", "mean", "packed"), ("learned", "sinusoidal"), ("auto",)
    ),
)
def test_an_example_depends_on_no_batch_mate(pooling, positions, contraction):
    model = make(pooling=pooling, position_embedding=positions)
    batch = logits(model)
    np.testing.assert_allclose(batch[1:], logits(model, IDS[1:, :2]), atol=1e-5)
    np.testing.assert_allclose(batch[:1], logits(model, IDS[:1]), atol=1e-5)


def test_the_official_mean_counts_padding():
    model = make(pooling="mean", pooling_includes_padding=True)
    short = logits(model, IDS[1:, :2])
    assert np.abs(logits(model)[1:] - short).max() > 1e-3


def test_without_a_padding_id_every_token_counts():
    model = make(padding_id=None)
    changed = np.abs(logits(model)[1:] - logits(model, IDS[1:, :2])).max()
    assert changed > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "packed"])
def test_a_fully_padded_row_is_finite(pooling):
    got = logits(make(pooling=pooling), [[0, 0, 0], [1, 2, 3]])
    assert np.isfinite(got).all()


# === Pooling ===


def with_mask(x, mask):
    from luna_tf.layers import _masks

    # Keras 3.12 drops the mask of what it has to cast.
    x = tf.constant(x, tf.float32)
    return _masks.set_mask(x, tf.constant(mask))


def test_pooling_values():
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 2, 3))
    x_mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    p_mask = np.array([[1, 0], [1, 1]], bool)
    masked = with_mask(x, x_mask), with_mask(p, p_mask)

    def pool(*args):
        return np.array(LunaPooling(*args)(*masked))

    def mean(x, mask):
        return np.stack([r[m].mean(0) for r, m in zip(x, mask, strict=True)])

    for got, expected in (
        (pool("cls"), x[:, 0]),
        (pool("mean"), mean(x, x_mask)),
        (pool("packed"), mean(p, p_mask)),
        (pool("mean", True), x.mean(1)),
        (pool("packed", True), p.mean(1)),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert getattr(LunaPooling()(*masked), "_keras_mask", None) is None


# === Training ===


@pytest.mark.parametrize("pooling", ["cls", "packed"])
def test_fit_misses_no_gradient(pooling):
    # Keras warns about missing gradients, and warnings are errors here. The
    # last packed sequence is used by nobody when tokens are pooled.
    model = make(pooling=pooling, num_layers=1)
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    history = model.fit(IDS, np.array([1, 2]), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_every_dropout_is_off_in_inference():
    model = LRAClassifier(**{**EVERYTHING, "dtype": "float32"})
    np.testing.assert_array_equal(logits(model), logits(model, training=False))
    assert np.abs(logits(model) - logits(model, training=True)).max() > 1e-3


# === Saving ===


def test_keras_file(model, tmp_path):
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, LRAClassifier)
    assert_same(loaded, model)


def test_weights_file(model, tmp_path):
    model.save_weights(tmp_path / "m.weights.h5")
    other = LRAClassifier(**SMALL)
    other.load_weights(tmp_path / "m.weights.h5")
    assert_same(other, model)


def test_clone_model(model):
    clone = keras.models.clone_model(model)
    assert clone is not model and clone.weights[0] is not model.weights[0]
    clone.set_weights(model.get_weights())
    assert_same(clone, model)


def test_export(model, tmp_path):
    model.export(tmp_path / "m", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    for ids in (IDS, IDS[:1, :3], [[2] * 9] * 3):
        ids = np.array(ids, "int32")
        np.testing.assert_allclose(
            loaded.serve(ids), logits(model, ids), atol=1e-6
        )


# === Wrong arguments ===


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("vocabulary_size", 0, "positive"),
        ("num_classes", 0, "positive"),
        ("num_layers", -1, "positive"),
        ("max_sequence_length", None, "positive"),
        ("num_heads", 0, "positive"),
        ("num_heads", 3, "divide the width"),
        ("num_pack_heads", 3, "divide the width"),
        ("hidden_dim", 0, "positive"),
        ("intermediate_dim", 0, "positive"),
        ("packed_length", 0, "positive"),
        ("dropout", 1.0, r"\[0, 1\)"),
        ("attention_dropout", -0.5, r"\[0, 1\)"),
        ("activation_dropout", 2, r"\[0, 1\)"),
        ("head_dropout", 1.5, r"\[0, 1\)"),
        ("head_hidden_dim", 0, "positive"),
        ("position_embedding", "rotary", "'learned', 'sinusoidal', 'none'"),
        ("pooling", "max", "'cls', 'mean', 'packed'"),
        ("contraction", "fast", "'auto', 'direct', 'absorbed'"),
        ("packed_length", None, "positive"),
        ("attention", "linear", "'luna', 'softmax'"),
        ("num_documents", 3, r"\(1, 2\)"),
        ("pair_features", "sum", "'concatenation', 'interaction'"),
        ("pair_features", "interaction", "'concatenation' with num_docum"),
        ("input_type", "pixels", "'tokens', 'values'"),
        ("max_real_tokens", 0, "positive"),
    ],
)
def test_wrong_argument(name, value, allowed):
    with pytest.raises(ValueError, match=f"`{name}`.*{allowed}") as raised:
        LRAClassifier(**{**SMALL, name: value})
    assert f"Got: {value!r}" in str(raised.value)


def test_too_long_an_input_raises(model):
    with pytest.raises(ValueError, match="`max_sequence_length`, 9"):
        model(np.ones((1, 10), "int32"))


def test_an_empty_batch_gives_no_logits():
    assert tuple(make()(np.zeros((0, 5), "int32")).shape) == (0, 4)


def test_beyond_the_position_table_there_are_no_wrong_numbers():
    model = make()
    with pytest.raises(ValueError, match="max_sequence_length"):
        model(np.ones((1, 10), "int32"))
    compiled = tf.function(
        lambda ids: model(ids),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, None], tf.int32)],
    )
    assert np.isfinite(compiled(np.ones((1, 9), "int32"))).all()
    assert np.isnan(compiled(np.ones((1, 10), "int32"))).all()


@pytest.mark.parametrize("include_padding", [False, True])
def test_long_means_are_exact_in_float16(include_padding):
    pool = LunaPooling("mean", include_padding, dtype="mixed_float16")
    x = np.full((1, 20_000, 2), 1.5, "float16")
    pooled = pool(x, np.zeros((1, 1, 2), "float16"))
    np.testing.assert_array_equal(np.array(pooled), [[1.5, 1.5]])


def test_dropout_seeds_are_not_negative():
    model = make(head_dropout=0.1, seed=0)
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    assert seeds
    assert all(seed.numpy()[0] >= 0 for seed in seeds)


# === The baseline: softmax attention in the same encoder ===

SOFTMAX = {
    **{k: v for k, v in SMALL.items() if k != "packed_length"},
    "attention": "softmax",
}
# Every argument that both attentions take, at another value than its default.
SOFTMAX_EVERYTHING = {
    **{
        name: value
        for name, value in EVERYTHING.items()
        if name
        not in (
            "num_pack_heads",
            "tie_key_value",
            "dynamic_packing",
            "contraction",
            "packed_length",
        )
    },
    "attention": "softmax",
    "pooling": "mean",
}


def make_softmax(**kwargs):
    return make(attention="softmax", **kwargs)


def test_softmax_comes_back():
    model = LRAClassifier(**SOFTMAX_EVERYTHING)
    config = model.get_config()
    again = LRAClassifier.from_config(config)
    assert again.get_config() == config
    for name, value in SOFTMAX_EVERYTHING.items():
        if name != "dtype":
            assert config[name] == value, name
    (block,) = again.blocks
    assert (block.activation_dropout, block.remat) == (0.4, True)
    assert (block.dropout, block.attention_dropout) == (0.2, 0.3)
    assert block.normalize_first is True
    assert block.activation is keras.activations.relu
    assert block.compute_dtype == "bfloat16"
    assert (again.embedding.scale, again.embedding.padding_id) == (2.0, 1)


def test_a_config_from_before_there_was_a_choice_is_luna_on_tokens():
    config = LRAClassifier(**SMALL).get_config()
    assert config.pop("attention") == "luna"
    for name in INPUTS:
        del config[name]
    model = LRAClassifier.from_config(config)
    assert type(model.blocks[0]).__name__ == "LunaTransformerBlock"
    assert model.input.name == "token_ids"
    assert model.input_shape == (None, None)


def test_softmax_differs_in_the_attention_and_the_packed_sequence_alone():
    luna, softmax = (
        LRAClassifier(**SMALL, attention=attention)
        for attention in ("luna", "softmax")
    )

    def other_weights(model):
        return {
            w.path: tuple(w.shape)
            for w in model.weights
            if "attention/" not in w.path and "packed" not in w.path
        }

    assert other_weights(luna) == other_weights(softmax)
    assert not any("packed" in w.path for w in softmax.weights)
    width, layers = SMALL["hidden_dim"], SMALL["num_layers"]
    attention = [w for w in softmax.weights if "self_attention/" in w.path]
    count = sum(int(np.prod(w.shape)) for w in attention)
    assert count == layers * 4 * (width * width + width)
    rest = sum(int(np.prod(shape)) for shape in other_weights(luna).values())
    assert softmax.count_params() == count + rest


@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
def test_softmax_misses_no_gradient(remat):
    model = make_softmax(dropout=0.1, remat=remat)
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    before = [w.numpy() for w in model.trainable_weights]
    history = model.fit(IDS, np.array([1, 2]), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, weight in zip(before, model.trainable_weights, strict=True):
        # A softmax does not see the bias of its keys.
        if not weight.path.endswith("key/bias"):
            assert np.abs(weight.numpy() - old).max() > 0, weight.path


@pytest.mark.parametrize(
    "pooling,positions",
    itertools.product(("cls", "mean"), ("learned", "sinusoidal")),
)
def test_softmax_depends_on_no_padding(pooling, positions):
    model = make_softmax(pooling=pooling, position_embedding=positions)
    batch = logits(model)
    np.testing.assert_allclose(batch[1:], logits(model, IDS[1:, :2]), atol=1e-5)
    changed = IDS.copy()
    changed[1, 1] = 5
    assert np.abs(logits(model, changed)[1] - batch[1]).max() > 1e-3


def test_softmax_without_a_padding_id_counts_every_token():
    model = make_softmax(padding_id=None)
    changed = np.abs(logits(model)[1:] - logits(model, IDS[1:, :2])).max()
    assert changed > 1e-3


def test_softmax_of_a_fully_padded_row_is_finite():
    assert np.isfinite(logits(make_softmax(), [[0, 0, 0], [1, 2, 3]])).all()


def test_softmax_in_mixed_precision_and_compiled():
    exact = make_softmax()
    expected = logits(exact)
    mixed = make_softmax(dtype="mixed_bfloat16")
    assert logits(mixed).dtype == np.float32
    np.testing.assert_allclose(logits(mixed), expected, atol=0.2)
    compiled = tf.function(lambda ids: exact(ids), jit_compile=True)
    got = compiled(tf.constant(IDS, tf.int32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_softmax_in_files(tmp_path):
    model = make_softmax()
    model.save(tmp_path / "m.keras")
    assert_same(keras.models.load_model(tmp_path / "m.keras"), model)
    model.save_weights(tmp_path / "m.weights.h5")
    other = LRAClassifier(**SOFTMAX)
    other.load_weights(tmp_path / "m.weights.h5")
    assert_same(other, model)
    model.export(tmp_path / "m", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    served = loaded.serve(np.array(IDS, "int32"))
    np.testing.assert_allclose(served, logits(model), atol=1e-6)


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("num_pack_heads", 2, "must be None"),
        ("tie_key_value", True, "must be False"),
        ("dynamic_packing", False, "must be True"),
        ("contraction", "direct", "must be 'auto'"),
        ("pooling", "packed", "must be 'cls' or 'mean'"),
        ("num_heads", 3, "divide the width"),
    ],
)
def test_softmax_refuses_what_only_luna_has(name, value, allowed):
    with pytest.raises(ValueError, match=f"`{name}` .*{allowed}") as raised:
        LRAClassifier(**{**SOFTMAX, name: value})
    assert f"Got: {value!r}" in str(raised.value)
