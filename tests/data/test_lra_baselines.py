import numpy as np
import pytest

from luna_tf.data.lra.baselines import baselines, tf_idf
from luna_tf.data.lra.listops import Split, encode, reference_lines
from luna_tf.data.lra.splits import ImageSplit, Sequences, TextSplit


def test_the_majority_of_the_training_labels_is_scored():
    pixels = np.zeros((4, 2, 2))
    train = ImageSplit(pixels, [2, 2, 0, 1])
    test = ImageSplit(pixels, [0, 2, 0, 2])
    assert baselines(train, test) == {"majority": 0.5}


def test_listops_has_its_root_operators():
    rows = [encode(s) for s in ("[MIN 4 0 ]", "[MAX 9 1 ]", "[MIN 0 7 ]")]
    split = Split.from_rows(rows, [0, 9, 0])
    found = baselines(split, split)
    assert found == reference_lines(split, split)
    assert found["root_operator"] == 1.0


def texts(rows):
    return Sequences.from_rows([row.encode() for row in rows])


class TestWords:
    @pytest.fixture(scope="class")
    def sentences(self):
        pytest.importorskip("sklearn")
        rng = np.random.default_rng(0)
        words = rng.choice(["film", "plot", "cast", "scene"], (60, 6))
        labels = np.arange(60) % 2
        rows = [
            " ".join([*row, "not good" if label else "good not"])
            for row, label in zip(words, labels, strict=True)
        ]
        return rows, labels

    def test_pairs_of_words_are_seen(self, sentences):
        rows, labels = sentences
        train = TextSplit((texts(rows[:40]),), labels[:40])
        test = TextSplit((texts(rows[40:]),), labels[40:])
        assert tf_idf(train, test) == 1.0

    def test_both_documents_are_seen(self, sentences):
        rows, labels = sentences
        noise = texts(["nothing"] * 40), texts(["nothing"] * 20)
        train = TextSplit((noise[0], texts(rows[:40])), labels[:40])
        test = TextSplit((noise[1], texts(rows[40:])), labels[40:])
        assert tf_idf(train, test) == 1.0
