"""`LunaEmbedding`: token, position and packed embeddings."""

import keras
import numpy as np
import pytest
from layers.luna_reference import array, assert_all_close, randomize

from luna_tf import LunaEmbedding
from luna_tf.layers import _masks
from luna_tf.ops import sinusoidal_positions

IDS = np.array([[3, 4, 5, 0], [6, 0, 0, 0]])
KEEP = IDS != 0


def embedding(**kwargs):
    config = dict(
        vocabulary_size=9,
        hidden_dim=8,
        packed_length=3,
        max_sequence_length=5,
        normalize=False,
    )
    layer = LunaEmbedding(**{**config, **kwargs})
    layer.build((None, None))
    return randomize(layer)


def tables(layer):
    rows = array(layer.packed_embedding.embeddings)
    return array(layer.token_embedding.embeddings)[IDS], rows


def test_learned_positions_and_scale():
    layer = embedding(scale=3.0, first_position=2)
    assert layer.positions.embeddings.shape == (7, 8)
    tokens, rows = tables(layer)
    positions = array(layer.positions.embeddings)[[2, 3, 4, 5]]
    x, p = layer(IDS)
    expected = (tokens * 3 + positions) * KEEP[..., None]
    packed = np.stack([rows * 3] * 2)
    packed[1, 1:] = 0  # one token: one row in use
    assert_all_close((x, p), (expected, packed))


def test_sinusoidal_positions_reach_both_sequences():
    layer = embedding(position_embedding="sinusoidal", dynamic_packing=False)
    tokens, rows = tables(layer)
    code = array(sinusoidal_positions([[0, 1, 2, 3]], 8))
    x, p = layer(IDS)
    expected = (tokens + code) * KEEP[..., None]
    assert_all_close((x, p), (expected, np.stack([rows + code[0, :3]] * 2)))


def test_no_positions():
    layer = embedding(position_embedding="none")
    x, _ = layer(IDS)
    assert_all_close([x], [tables(layer)[0] * KEEP[..., None]])


def test_layer_norms_come_before_the_zeroing_of_padding():
    layer = embedding(normalize=True)
    x, p = (array(y) for y in layer(IDS))
    assert not x[~KEEP].any() and not p[1, 1:].any()
    gamma, beta = array(layer.layer_norm.gamma), array(layer.layer_norm.beta)
    plain = (x[KEEP] - beta) / gamma
    np.testing.assert_allclose(plain.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(plain.std(-1), 1, atol=1e-2)


def test_positions_do_not_depend_on_the_side_of_the_padding():
    layer = embedding(normalize=True)
    right, left = [[3, 4, 0, 0]], [[0, 0, 3, 4]]
    a, b = (array(layer(np.array(ids))[0]) for ids in (right, left))
    np.testing.assert_allclose(a[:, :2], b[:, 2:])


def test_masks_of_both_sequences_travel():
    x, p = embedding()(IDS)
    np.testing.assert_array_equal(array(_masks.get_mask(x)), KEEP)
    np.testing.assert_array_equal(
        array(_masks.get_mask(p)), [[1, 1, 1], [1, 0, 0]]
    )


def test_without_a_padding_id_every_token_counts():
    x, p = embedding(padding_id=None)(IDS)
    assert _masks.get_mask(x) is None and _masks.get_mask(p) is None
    assert array(x)[1, 3].any()


@pytest.mark.parametrize("padding_id", [0, None])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "fixed"])
def test_symbolic_masks_are_those_of_eager_calls(padding_id, dynamic):
    # Longer than packed: then an eager call knows that all rows are in use.
    layer = embedding(padding_id=padding_id, dynamic_packing=dynamic)
    outputs = layer(keras.Input((None,), dtype="int32"))
    masks = [_masks.get_mask(y) is not None for y in outputs]
    assert masks == [padding_id is not None, dynamic]
    assert [y.shape for y in outputs] == [(None, None, 8), (None, 3, 8)]


def test_dropout_acts_on_both_sequences_and_spares_padding():
    layer = embedding(dropout=0.5, seed=1)
    plain = layer(IDS)
    dropped = layer(IDS, training=True)
    for a, b in zip(plain, dropped, strict=True):
        a, b = array(a), array(b)
        kept = b != 0
        assert 0.2 < kept[a != 0].mean() < 0.8
        np.testing.assert_allclose(b[kept], 2 * a[kept], rtol=1e-5)
    assert_all_close(layer(IDS), plain, 0)


def test_initial_standard_deviation_is_the_official_one():
    layer = LunaEmbedding(500, 64, 3, 500)
    layer.build((None, None))
    for table in (layer.token_embedding, layer.positions):
        assert abs(array(table.embeddings).std() * 8 - 1) < 0.02


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_mixed_precision(policy, positions):
    layer = embedding(
        position_embedding=positions, normalize=True, dtype=policy
    )
    exact = embedding(position_embedding=positions, normalize=True)
    for mixed, expected in zip(layer(IDS), exact(IDS), strict=True):
        dtype = keras.backend.standardize_dtype(mixed.dtype)
        assert dtype == policy.removeprefix("mixed_")
        np.testing.assert_allclose(array(mixed), array(expected), atol=0.05)


def test_embeddings_initializer_is_used():
    layer = LunaEmbedding(9, 8, 3, 5, embeddings_initializer="ones")
    layer.build((None, None))
    assert (array(layer.token_embedding.embeddings) == 1).all()
    assert (array(layer.positions.embeddings) == 1).all()


def test_without_a_packed_sequence_there_is_only_x():
    for options in ({}, {"normalize": True}):
        layer = embedding(packed_length=None, **options)
        both = embedding(**options)
        names = {v.path.split("/", 1)[1] for v in layer.weights}
        others = {v.path.split("/", 1)[1] for v in both.weights}
        assert others - names == {v for v in others if v.startswith("packed_")}
        by_name = {v.path.split("/", 1)[1]: v for v in both.weights}
        for v in layer.weights:
            v.assign(by_name[v.path.split("/", 1)[1]])
        x = layer(IDS)
        assert_all_close([x], [both(IDS)[0]], 1e-6)
        np.testing.assert_array_equal(array(_masks.get_mask(x)), KEEP)
        symbolic = layer(keras.Input((None,), dtype="int32"))
        assert symbolic.shape == (None, None, 8)


def test_a_shared_table_is_used_and_saved_in_the_config():
    table = keras.layers.Embedding(9, 8, name="table")
    layer = embedding(token_embedding=table)
    other = embedding(token_embedding=table, position_embedding="none")
    assert layer.token_embedding is other.token_embedding is table
    assert len([w for w in layer.weights if w.shape == (9, 8)]) == 1
    config = layer.get_config()
    again = LunaEmbedding.from_config(config)
    assert again.get_config() == config
    assert again.token_embedding.name == "table"
    with pytest.raises(ValueError, match="`token_embedding` must .*9, 8"):
        embedding(token_embedding=keras.layers.Embedding(9, 4))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_mask_replaces_the_padding_id(positions):
    layer = embedding(position_embedding=positions)
    ids = np.array([[3, 0, 5, 6]])
    mask = np.array([[1, 1, 1, 0]])
    # Token 0 counts here, though it is the padding id.
    x, p = layer(ids, padding_mask=mask)
    np.testing.assert_array_equal(array(_masks.get_mask(x)), mask == 1)
    np.testing.assert_array_equal(array(_masks.get_mask(p)), [[1, 1, 1]])
    shifted, _ = layer(
        np.roll(ids, 1, axis=1), padding_mask=np.roll(mask, 1, axis=1)
    )
    assert_all_close([shifted[:, 1:]], [x[:, :3]])
    with pytest.raises(ValueError, match="`padding_mask` must have"):
        layer(ids, padding_mask=mask[:, :2])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
@pytest.mark.parametrize("kind", [int, np.int32])
def test_tokens_may_come_a_few_at_a_time(positions, kind):
    layer = embedding(
        position_embedding=positions, padding_id=None, packed_length=None
    )
    ids = np.array([[3, 4, 5, 6, 7]])
    whole = layer(ids)
    parts = [
        layer(ids[:, a:b], start_index=kind(a))
        for a, b in ((0, 2), (2, 3), (3, 5))
    ]
    assert_all_close(
        [np.concatenate([array(x) for x in parts], axis=1)], [whole]
    )


def test_a_few_tokens_beyond_the_learned_positions_are_an_error():
    layer = embedding(packed_length=None)
    with pytest.raises(ValueError, match="(?s)length`, 5. Got.*after 4 tokens"):
        layer(IDS[:, :2], start_index=4)


# === Values in place of tokens ===


def value_embedding(**kwargs):
    return embedding(vocabulary_size=None, padding_id=None, **kwargs)


GREYS = np.array([[0.0, -1.0, 0.25, 1.0], [1.0, 1.0, 0.0, 0.5]], "float32")


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_values_are_multiplied_by_a_vector(positions):
    layer = value_embedding(position_embedding=positions, scale=3.0)
    weights = layer.value_embedding
    kernel, bias = array(weights.kernel), array(weights.bias)
    assert kernel.shape == (1, 8) and layer.token_embedding is None
    expected = (GREYS[..., None] * kernel[0] + bias) * 3
    if positions == "learned":
        expected = expected + array(layer.positions.embeddings)[:4]
    elif positions == "sinusoidal":
        expected = expected + array(sinusoidal_positions([[0, 1, 2, 3]], 8))
    x, p = layer(GREYS)
    assert_all_close([x], [expected])
    assert _masks.get_mask(x) is None and _masks.get_mask(p) is None


def test_initial_values_are_the_official_ones():
    layer = LunaEmbedding(None, 4096, 3, 5, padding_id=None)
    layer.build((None, None))
    kernel, bias = layer.value_embedding.weights
    assert abs(array(kernel).std() - 1) < 0.05
    assert abs(array(bias).std() - 0.1) < 0.005


def test_values_come_back_from_the_config():
    layer = value_embedding()
    again = LunaEmbedding.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    symbolic = again(keras.Input((None,)))
    assert [y.shape for y in symbolic] == [(None, None, 8), (None, 3, 8)]
    again.set_weights(layer.get_weights())
    assert_all_close(again(GREYS), layer(GREYS), 0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_values_in_mixed_precision(policy):
    mixed = value_embedding(normalize=True, dtype=policy)(GREYS)
    exact = value_embedding(normalize=True)(GREYS)
    for a, b in zip(mixed, exact, strict=True):
        dtype = keras.backend.standardize_dtype(a.dtype)
        assert dtype == policy.removeprefix("mixed_")
        np.testing.assert_allclose(array(a), array(b), atol=0.05)


def test_all_256_grey_levels_stay_apart_in_bfloat16():
    levels = (np.arange(256) / 255 - 0.5) / 0.5
    layer = value_embedding(
        max_sequence_length=256, position_embedding="none", dtype="bfloat16"
    )
    layer.value_embedding.kernel.assign(np.ones((1, 8)))
    layer.value_embedding.bias.assign(np.zeros(8))
    x, _ = layer(levels[None].astype("float32"))
    assert len(np.unique(array(keras.ops.cast(x, "float32")))) == 256


def test_tokens_and_values_are_not_taken_for_each_other():
    with pytest.raises(ValueError, match="must be floating-point values"):
        value_embedding()(IDS)
    with pytest.raises(ValueError, match="must be integers"):
        embedding()(GREYS)


@pytest.mark.parametrize(
    "name,value",
    [("padding_id", 0), ("token_embedding", keras.layers.Embedding(9, 8))],
)
def test_values_take_nothing_that_belongs_to_tokens(name, value):
    arguments = {"padding_id": None, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be None .*values"):
        LunaEmbedding(None, 8, 3, 5, **arguments)


def test_positions_may_count_padding():
    # Black pixels, say: a pixel's place must not depend on which are black.
    ids = np.array([[0, 5, 0, 7]])
    for skip, rows in ((True, [0, 1]), (False, [1, 3])):
        layer = LunaEmbedding(
            9,
            4,
            None,
            max_sequence_length=4,
            normalize=False,
            positions_skip_padding=skip,
        )
        x = array(layer(ids))[0, [1, 3]]
        tokens = array(layer.token_embedding.embeddings)[[5, 7]]
        positions = array(layer.positions.embeddings)[rows]
        np.testing.assert_allclose(x, tokens + positions, atol=1e-6)
        copy = LunaEmbedding.from_config(layer.get_config())
        assert copy.positions_skip_padding is skip


def test_segments_are_added():
    ids = np.array([[5, 6, 7]])
    segments = np.array([[0, 1, 1]])
    layer = LunaEmbedding(
        9,
        4,
        None,
        position_embedding="none",
        normalize=False,
        num_segments=2,
    )
    x = array(layer(ids, segment_ids=segments))[0]
    tokens = array(layer.token_embedding.embeddings)[[5, 6, 7]]
    of_segments = array(layer.segments.embeddings)[[0, 1, 1]]
    np.testing.assert_allclose(x, tokens + of_segments, atol=1e-6)
    with pytest.raises(ValueError, match="`segment_ids` must be given with"):
        layer(ids)
    plain = LunaEmbedding(9, 4, None, position_embedding="none")
    with pytest.raises(ValueError, match="`segment_ids` must be given with"):
        plain(ids, segment_ids=segments)
