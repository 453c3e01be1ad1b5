"""Classes, blocks and complaints that the readers share."""

import pickle

import numpy as np
import pytest

from luna_tf.data.lra.labelled import (
    LabelledSplits,
    Problems,
    blocks,
    natural_order,
    sorted_classes,
)
from luna_tf.data.lra.splits import ImageSplit


def pictures(*labels):
    return ImageSplit(np.zeros((len(labels), 2, 2)), labels)


def test_splits_know_their_classes():
    splits = LabelledSplits({"train": pictures(0, 2)}, iter("abc"))
    assert list(splits) == ["train"]
    assert splits.class_names == ("a", "b", "c")
    copy = pickle.loads(pickle.dumps(splits))
    assert copy.class_names == splits.class_names
    assert copy["train"].labels.tolist() == [0, 2]


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_of_the_classes_are_refused(label):
    parts = {"train": pictures(0), "test": pictures(0, 1, label)}
    message = rf"'test' must be in 0\.\.2\. Received: {label} at example 2"
    with pytest.raises(ValueError, match=message):
        LabelledSplits(parts, "abc")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "10", "-1"], ("-1", "9", "10")),
        (["pos", "neg", "pos"], ("neg", "pos")),
        (["10", "9", "none"], ("10", "9", "none")),
    ],
)
def test_classes_are_in_order(labels, classes):
    assert sorted_classes(labels) == classes


def test_numbers_in_names_count_by_value():
    names = ["10_4.txt", "9_10.txt", "9_2.txt", "b.txt", "a10.txt", "a2.txt"]
    assert sorted(names, key=natural_order) == [
        "9_2.txt",
        "9_10.txt",
        "10_4.txt",
        "a2.txt",
        "a10.txt",
        "b.txt",
    ]


def test_blocks_of_the_imdb_training_half():
    labels = np.repeat([0, 1], 12_500)
    parts = blocks(labels, 0.1, 0.2)
    assert list(parts) == ["train", "validation", "test"]
    for label in (0, 1):
        start = 12_500 * label
        ends = np.cumsum([start, 8750, 1250, 2500])
        for (first, last), indices in zip(
            zip(ends, ends[1:], strict=False), parts.values(), strict=True
        ):
            of_class = indices[labels[indices] == label]
            np.testing.assert_array_equal(of_class, np.arange(first, last))


def test_blocks_keep_the_order_of_the_file():
    parts = blocks(np.array([1, 0, 0, 1, 0, 1, 1, 0]), 0.25, 0.25)
    assert parts["train"].tolist() == [0, 1, 2, 3]
    assert parts["validation"].tolist() == [4, 5]
    assert parts["test"].tolist() == [6, 7]


def test_shares_are_as_exact_as_they_are_written():
    # int(100 * 0.29) is 28.
    assert len(blocks(np.zeros(100), 0.0, 0.29)["test"]) == 29


def test_no_share_is_no_split():
    assert list(blocks(np.zeros(10), 0.0, 0.2)) == ["train", "test"]
    assert list(blocks(np.zeros(10), 0.2, 0.0)) == ["train", "validation"]


@pytest.mark.parametrize(
    "shares", [(-0.1, 0.2), (0.1, -0.2), (0.5, 0.5), (float("nan"), 0.1)]
)
def test_impossible_shares_are_refused(shares):
    message = "validation_fraction and test_fraction must be at least 0"
    with pytest.raises(ValueError, match=message):
        blocks(np.zeros(10), *shares)


def test_too_few_examples_for_a_split():
    with pytest.raises(ValueError, match="test_fraction=0.1 leaves no example"):
        blocks(np.arange(20) % 4, 0.2, 0.1)


class TestProblems:
    def test_the_first_is_raised(self):
        with pytest.raises(ValueError, match="a.csv, line 3: bad.*skip_malf"):
            Problems("a.csv").add("line 3", "bad")

    def test_skipped_ones_are_counted_and_the_first_few_named(self):
        problems = Problems("a.csv", skip_malformed=True)
        for line in range(1, 8):
            problems.add(f"line {line}", "bad")

        def read():
            problems.warn(10)

        with pytest.warns(UserWarning, match="7 malformed of 17") as caught:
            read()
        [warning] = caught
        assert warning.filename == __file__
        assert "line 5: bad; ...)" in str(warning.message)
        assert "line 6" not in str(warning.message)

    def test_nothing_left_is_an_error(self):
        problems = Problems("a.csv", skip_malformed=True)
        with pytest.raises(ValueError, match=r"a.csv holds no examples\."):
            problems.warn(0)
        problems.add("line 1", "bad")
        with pytest.raises(ValueError, match="no examples that .*line 1: bad"):
            problems.warn(0)
