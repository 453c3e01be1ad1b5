"""Dropping padding changes the cost of a row and nothing else."""

import keras
import numpy as np
import pytest
from keras import ops

from luna_tf.layers import DropPadding, LunaEmbedding
from luna_tf.layers._masks import get_mask

IDS = np.array([[0, 5, 0, 6, 7, 0], [8, 0, 0, 0, 0, 9], [0] * 6, [1] * 6])


@pytest.fixture(scope="module")
def embedding():
    return LunaEmbedding(10, 4, None, position_embedding="sinusoidal")


def to_numpy(x):
    return ops.convert_to_numpy(x)


def test_real_tokens_come_first_in_their_order(embedding):
    x = embedding(IDS)
    kept = DropPadding(3)(x)
    assert kept.shape == (4, 3, 4)
    np.testing.assert_array_equal(
        to_numpy(get_mask(kept)),
        [[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]],
    )
    x, kept = to_numpy(x), to_numpy(kept)
    np.testing.assert_array_equal(kept[0], x[0, [1, 3, 4]])
    np.testing.assert_array_equal(kept[1, :2], x[1, [0, 5]])
    # A row with more real tokens loses its end.
    np.testing.assert_array_equal(kept[3], x[3, :3])


def test_a_longer_length_than_the_row_only_sorts_it(embedding):
    kept = DropPadding(9)(embedding(IDS))
    assert kept.shape == (4, 6, 4)
    counts = to_numpy(get_mask(kept)).sum(axis=1)
    np.testing.assert_array_equal(counts, [3, 2, 0, 6])


def test_without_a_mask_all_tokens_are_real():
    x = np.arange(12.0, dtype="float32").reshape(1, 4, 3)
    kept = DropPadding(2)(x)
    np.testing.assert_array_equal(to_numpy(kept), x[:, :2])
    assert get_mask(kept) is None


def test_symbolic_shapes_are_those_of_a_call(embedding):
    for length, expected in ((None, None), (6, 3), (2, 2)):
        inputs = keras.Input((length,), dtype="int32")
        kept = DropPadding(3)(embedding(inputs))
        assert kept.shape == (None, expected, 4)


def test_length_below_1():
    with pytest.raises(ValueError, match="`length`"):
        DropPadding(0)
