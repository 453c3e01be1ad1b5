"""`PackedEmbedding`: the learned rows and which of them are in use."""

import gradients
import keras
import numpy as np
import pytest
from layers.luna_reference import array, right_padded, sequences

from luna_tf import PackedEmbedding
from luna_tf.layers import _masks

X = sequences(batch=3, length=6)[0]
MASK = right_padded([6, 2, 0], 6)


def rows_in_use(layer, x=X, mask=None):
    mask = _masks.get_mask(layer(x, padding_mask=mask))
    return None if mask is None else array(mask).sum(1).tolist()


def test_every_example_gets_the_same_learned_rows():
    layer = PackedEmbedding(4)
    got = array(layer(X))
    assert got.shape == (3, 4, 8)
    for row in got:
        np.testing.assert_array_equal(row, array(layer.embeddings))


def test_initial_standard_deviation_is_the_official_one():
    layer = PackedEmbedding(500)
    layer.build((None, None, 64))
    rows = array(layer.embeddings)
    assert abs(rows.std() * 64**0.5 - 1) < 0.02
    assert abs(rows.mean()) < 0.01


def test_dynamic_uses_as_many_rows_as_there_are_tokens():
    assert rows_in_use(PackedEmbedding(4), mask=MASK) == [4, 2, 0]


def test_dynamic_without_a_mask_counts_the_whole_length():
    assert rows_in_use(PackedEmbedding(4)) is None
    assert rows_in_use(PackedEmbedding(9)) == [6, 6, 6]


def test_rows_in_use_come_first_wherever_the_padding_is():
    layer = PackedEmbedding(4)
    left = _masks.get_mask(layer(X, padding_mask=MASK[:, ::-1]))
    right = _masks.get_mask(layer(X, padding_mask=MASK))
    np.testing.assert_array_equal(array(left), array(right))
    np.testing.assert_array_equal(array(right)[1], [1, 1, 0, 0])


def test_fixed_masks_nothing():
    assert rows_in_use(PackedEmbedding(4, dynamic=False), mask=MASK) is None
    assert rows_in_use(PackedEmbedding(9, dynamic=False)) is None


def test_the_mask_travels_with_the_inputs():
    x = _masks.set_mask(
        keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(MASK)
    )
    assert rows_in_use(PackedEmbedding(4), x) == [4, 2, 0]
    # An explicit one wins.
    assert rows_in_use(PackedEmbedding(4), x, ~MASK) == [0, 4, 4]
    assert rows_in_use(PackedEmbedding(4), x, MASK.astype("int32")) == [4, 2, 0]


def test_in_a_functional_model_the_mask_is_known():
    x = keras.Input((None, 8))
    assert _masks.get_mask(PackedEmbedding(4)(x)).shape == (None, 4)
    assert _masks.get_mask(PackedEmbedding(4, dynamic=False)(x)) is None
    assert PackedEmbedding(4)(x).shape == (None, 4, 8)


def test_gradients_add_up_over_the_batch():
    layer = PackedEmbedding(4)
    layer.build(X.shape)
    _, _, (got,) = gradients.run(
        lambda x: {"p": layer(x)},
        layer.trainable_variables,
        {"x": X},
        {"p": np.ones((3, 4, 8), "float32")},
    )
    np.testing.assert_array_equal(got, np.full((4, 8), 3))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_rows_in_float32(policy):
    layer = PackedEmbedding(4, dtype=policy)
    got = keras.backend.standardize_dtype(layer(X).dtype)
    assert got == policy.removeprefix("mixed_")
    assert layer.embeddings.dtype == "float32"


def test_initializer_regularizer_and_constraint_are_used():
    layer = PackedEmbedding(
        4,
        embeddings_initializer="ones",
        embeddings_regularizer="l2",
        embeddings_constraint="non_neg",
    )
    assert (array(layer(X)) == 1).all()
    assert len(layer.losses) == 1
    assert type(layer.embeddings.constraint).__name__ == "NonNeg"
