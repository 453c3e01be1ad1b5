"""Batches made by TensorFlow equal those of `Split.padded`."""

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.lra.listops import Split, encode
from luna_tf.data.lra.listops_batches import gather

SOURCES = [
    "7",
    "[MIN 4 9 2 ]",
    "[MED 1 9 ]",
    "[SM 7 [MED 1 4 ] [MAX 3 [MIN 8 5 ] ] ]",
    "3",
]
# From the second example with its two marks on: 7 tokens, then 6.
LENGTHS = [1, 2, 3, 6, 7, 8, 40]


@pytest.fixture(scope="module")
def split():
    return Split.from_rows([encode(s) for s in SOURCES], [7, 2, 5, 4, 3])


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_padded(split, length):
    indices = [4, 1, 1, 0, 3, 2]
    batch = gather(split, length)(tf.constant(indices, tf.int64))
    assert set(batch) == {"token_ids", "labels"}
    for name, expected in (
        ("token_ids", split.padded(indices, length)),
        ("labels", split.labels[indices]),
    ):
        assert batch[name].dtype == tf.int32
        np.testing.assert_array_equal(batch[name], expected)


@pytest.mark.parametrize("length", [4, 7, 40])
def test_equals_padded_in_a_pipeline(split, length):
    dataset = tf.data.Dataset.range(4).batch(2, drop_remainder=True)
    dataset = dataset.map(gather(split, length))
    assert dataset.element_spec == {
        "token_ids": tf.TensorSpec((2, length), tf.int32),
        "labels": tf.TensorSpec((2,), tf.int32),
    }
    token_ids = [batch["token_ids"] for batch in dataset]
    np.testing.assert_array_equal(
        np.concatenate(token_ids), split.padded(range(4), length)
    )


def test_is_a_small_graph_without_python(split):
    many = Split.from_rows([encode(s) for s in SOURCES * 2000], [1] * 10_000)
    graphs = []
    for examples in (split, many):
        # Made while another graph is built, as in a pipeline's function.
        function = tf.function(lambda i, s=examples: gather(s, 8)(i))
        spec = tf.TensorSpec((3,), tf.int64)
        graphs.append(function.get_concrete_function(spec).graph.as_graph_def())
    operations = {node.op for node in graphs[1].node}
    assert "GatherV2" in operations
    assert not {op for op in operations if "PyFunc" in op}
    # The data are captured, not copied into every graph.
    small, large = (graph.ByteSize() for graph in graphs)
    assert large - small < 100 < many.tokens.nbytes


def test_a_length_below_1_is_refused(split):
    with pytest.raises(ValueError, match="sequence_length=0"):
        gather(split, 0)
