"""Batches made by TensorFlow equal those made row by row."""

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.lra.batches import (
    BYTES,
    LISTOPS,
    gather_pixel_ids,
    gather_pixel_values,
    gather_sequences,
)
from luna_tf.data.lra.listops import Split, encode
from luna_tf.data.lra.splits import ImageSplit, Sequences

SOURCES = [
    "7",
    "[MIN 4 9 2 ]",
    "[MED 1 9 ]",
    "[SM 7 [MED 1 4 ] [MAX 3 [MIN 8 5 ] ] ]",
    "3",
]
# From the second example with its two marks on: 7 tokens, then 6.
LENGTHS = [1, 2, 3, 6, 7, 8, 40]


def gather(split, length, *marks):
    return gather_sequences([split], split.labels, length, LISTOPS, *marks)


@pytest.fixture(scope="module")
def split():
    return Split.from_rows([encode(s) for s in SOURCES], [7, 2, 5, 4, 3])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "marks", [(True, True), (True, False), (False, True), (False, False)]
)
def test_equals_padded(split, length, marks):
    indices = [4, 1, 1, 0, 3, 2]
    batch = gather(split, length, *marks)(tf.constant(indices, tf.int64))
    assert set(batch) == {"token_ids", "labels"}
    for name, expected in (
        ("token_ids", split.padded(indices, length, *marks)),
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


def test_bytes_of_two_documents():
    first = Sequences.from_rows([b"ab", b"\x00\xff"])
    second = Sequences.from_rows([b"abcdef", b"z"])
    gather = gather_sequences([first, second], np.array([1, 0]), 5, BYTES)
    batch = gather(tf.constant([1, 0], tf.int64))
    np.testing.assert_array_equal(
        batch["token_ids"],
        [
            [[257, 1, 256, 258, 0], [257, 123, 258, 0, 0]],
            [[257, 98, 99, 258, 0], [257, 98, 99, 100, 101]],
        ],
    )
    np.testing.assert_array_equal(batch["labels"], [0, 1])


@pytest.fixture(scope="module")
def pictures():
    pixels = np.arange(24).reshape(4, 2, 3) * 11
    return ImageSplit(pixels, [3, 2, 1, 0])


@pytest.mark.parametrize(
    ("length", "marks", "row"),
    [
        (8, (True, True), [256, 66, 77, 88, 99, 110, 121, 257]),
        (6, (True, True), [256, 66, 77, 88, 99, 110]),
        (7, (False, True), [66, 77, 88, 99, 110, 121, 257]),
        (6, (False, False), [66, 77, 88, 99, 110, 121]),
    ],
)
def test_pixels_as_tokens(pictures, length, marks, row):
    batch = gather_pixel_ids(pictures, length, *marks)(tf.constant([1, 1]))
    np.testing.assert_array_equal(batch["token_ids"], [row, row])
    np.testing.assert_array_equal(batch["labels"], [2, 2])


def test_pictures_are_never_padded(pictures):
    with pytest.raises(ValueError, match="at most 7, .*sequence_length=8"):
        gather_pixel_ids(pictures, 8, add_eos=False)


def test_pixels_as_values(pictures):
    gather = gather_pixel_values(pictures, mean=0.5, std=0.5)
    batch = gather(tf.constant([3, 0], tf.int64))
    expected = pictures.pixels[[3, 0]].reshape(2, 6) / 127.5 - 1
    np.testing.assert_allclose(batch["pixel_values"], expected, atol=1e-6)
    np.testing.assert_array_equal(batch["labels"], [0, 3])
