"""Rows of sentence pairs: ended, shifted, padded, cut."""

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.parallel import Bucket, Shape, TokenLists
from luna_tf.data.parallel.batches import gather

SOURCE = TokenLists.of([[5, 6, 7], [8], [], [9, 10, 11, 12, 13]])
TARGET = TokenLists.of([[15], [16, 17, 18], [19, 20, 21, 22], []])
BUCKET = Bucket(Shape(5, 4, 2), np.array([0, 2, 3]))


def as_lists(batch):
    return {name: tensor.numpy().tolist() for name, tensor in batch.items()}


def test_rows():
    batch = as_lists(gather(SOURCE, TARGET, BUCKET)(tf.range(3)))
    assert batch == {
        "encoder_token_ids": [
            [5, 6, 7, 2, 1],
            [2, 1, 1, 1, 1],
            [9, 10, 11, 12, 2],  # cut
        ],
        "decoder_token_ids": [[2, 15, 1, 1], [2, 19, 20, 21], [2, 1, 1, 1]],
        "labels": [[15, 2, 1, 1], [19, 20, 21, 2], [2, 1, 1, 1]],
    }


def test_other_special_tokens():
    read = gather(SOURCE, TARGET, BUCKET, start_id=30, end_id=31, padding_id=0)
    batch = as_lists(read(tf.constant([0], tf.int64)))
    assert batch == {
        "encoder_token_ids": [[5, 6, 7, 31, 0]],
        "decoder_token_ids": [[30, 15, 0, 0]],
        "labels": [[15, 31, 0, 0]],
    }


def test_has_static_shapes_inside_of_a_pipeline():
    read = gather(SOURCE, TARGET, BUCKET)
    dataset = tf.data.Dataset.range(2).map(lambda i: read(tf.stack([i, i + 1])))
    assert {n: (s.shape, s.dtype) for n, s in dataset.element_spec.items()} == {
        "encoder_token_ids": ((2, 5), tf.int32),
        "decoder_token_ids": ((2, 4), tf.int32),
        "labels": ((2, 4), tf.int32),
    }
    found = [
        as_lists(tf.nest.map_structure(tf.constant, b))
        for b in dataset.as_numpy_iterator()
    ]
    assert found[1] == as_lists(read(tf.constant([1, 2], tf.int64)))


def test_as_many_sources_as_targets():
    with pytest.raises(ValueError, match="Received: 4 and 1"):
        gather(SOURCE, TokenLists.of([[1]]), BUCKET)
