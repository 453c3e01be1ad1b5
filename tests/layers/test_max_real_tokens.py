"""Padding that is dropped changes the cost of a row and nothing else."""

import keras
import numpy as np
import pytest
from keras import ops

from luna_tf.layers import LunaEmbedding
from luna_tf.layers._masks import get_mask

IDS = np.array([[0, 5, 0, 6, 7, 0], [8, 0, 0, 0, 0, 9], [0] * 6, [1] * 6])


def make(**arguments):
    layer = LunaEmbedding(
        10,
        4,
        **{
            "packed_length": None,
            "position_embedding": "sinusoidal",
            "num_segments": 2,
            "seed": 0,
            **arguments,
        },
    )
    layer(IDS, segment_ids=IDS % 2)
    return layer


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned"])
def test_real_tokens_come_first_in_their_order(positions, skip):
    arguments = dict(
        position_embedding=positions,
        positions_skip_padding=skip,
        max_sequence_length=6 if positions == "learned" else None,
    )
    whole, dropping = make(**arguments), make(**arguments, max_real_tokens=3)
    dropping.set_weights(whole.get_weights())
    x = to_numpy(whole(IDS, segment_ids=IDS % 2))
    kept = dropping(IDS, segment_ids=IDS % 2)
    assert kept.shape == (4, 3, 4)
    np.testing.assert_array_equal(
        to_numpy(get_mask(kept)), [[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]]
    )
    kept = to_numpy(kept)
    np.testing.assert_allclose(kept[0], x[0, [1, 3, 4]], atol=1e-6)
    np.testing.assert_allclose(kept[1, :2], x[1, [0, 5]], atol=1e-6)
    # A row with more real tokens loses its end.
    np.testing.assert_allclose(kept[3], x[3, :3], atol=1e-6)


def test_a_single_row_is_taken_from_as_many_are():
    layer = make(max_real_tokens=3)
    whole = to_numpy(layer(IDS, segment_ids=IDS % 2))
    for row in range(4):
        alone = layer(IDS[row : row + 1], segment_ids=IDS[row : row + 1] % 2)
        np.testing.assert_allclose(to_numpy(alone)[0], whole[row], atol=1e-6)


def test_a_larger_number_than_there_are_only_sorts():
    kept = make(max_real_tokens=9)(IDS, segment_ids=IDS % 2)
    assert kept.shape == (4, 6, 4)
    counts = to_numpy(get_mask(kept)).sum(axis=1)
    np.testing.assert_array_equal(counts, [3, 2, 0, 6])


def test_symbolic_shapes_are_those_of_a_call():
    for length, expected in ((None, None), (6, 3), (2, 2)):
        layer = LunaEmbedding(
            10, 4, 2, position_embedding="sinusoidal", max_real_tokens=3
        )
        x, p = layer(keras.Input((length,), dtype="int32"))
        assert x.shape == (None, expected, 4)
        assert p.shape == (None, 2, 4)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(max_real_tokens=0), "`max_real_tokens`"),
        (dict(max_real_tokens=3, padding_id=None), "`padding_id`.*max_real"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
