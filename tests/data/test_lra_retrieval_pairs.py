"""Pairs of documents that cite each other, and of those that do not."""

import collections
import itertools

import numpy as np
import pytest

from luna_tf.data.lra.retrieval import load_retrieval
from luna_tf.data.lra.retrieval_pairs import Example, make_pairs, write_pairs

# Circles of 50 documents in one group, each citing the four after it.
GROUPS = {f"{g}{i:02}": g for g in "abcdefgh" for i in range(50)}
CITATIONS = {
    (f"{g}{i:02}", f"{g}{(i + step) % 50:02}")
    for g in "abcdefgh"
    for i in range(50)
    for step in range(1, 5)
}
LINKED = {frozenset(pair) for pair in CITATIONS}


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(GROUPS, CITATIONS, seed=0)


def test_labels_are_right_and_balanced(pairs):
    assert list(pairs) == ["train", "validation", "test"]
    for rows in pairs.values():
        labels = [row.label for row in rows]
        assert sum(labels) == len(labels) / 2 > 0
        # In no order that could be learned.
        assert labels != sorted(labels) and labels[::2] != labels[1::2]
        for row in rows:
            cited = frozenset((row.first, row.second)) in LINKED
            assert row.label == cited and row.first != row.second


def test_no_pair_comes_twice(pairs):
    for rows in pairs.values():
        assert len({frozenset(row[1:]) for row in rows}) == len(rows)


def test_no_document_is_in_two_splits(pairs):
    seen = collections.Counter()
    for rows in pairs.values():
        seen.update({name for row in rows for name in row[1:]})
    assert set(seen.values()) == {1}


def test_groups_and_firsts_give_nothing_away(pairs):
    for rows in pairs.values():
        sides = {
            label: collections.Counter(
                (row.first, GROUPS[row.second])
                for row in rows
                if row.label == label
            )
            for label in (0, 1)
        }
        assert sides[0] == sides[1]


def test_how_often_a_document_is_cited_gives_nothing_away():
    hubs = [f"hub {i}" for i in range(8)]
    leaves = {f"{hub} leaf {i}": hub for hub in hubs for i in range(40)}
    citations = {*leaves.items(), *itertools.pairwise(leaves)}
    pairs = make_pairs(dict.fromkeys([*hubs, *leaves], 0), citations)
    share = {
        label: np.mean(
            [
                row.first in hubs or row.second in hubs
                for row in pairs["train"]
                if row.label == label
            ]
        )
        for label in (0, 1)
    }
    # Of documents drawn alike, one in 41 would be a hub.
    assert share[1] > 0.3 and abs(share[0] - share[1]) < 0.15


def test_either_document_may_come_first(pairs):
    cited = [row[1:] for row in pairs["train"] if row.label]
    forwards = sum(pair in CITATIONS for pair in cited)
    assert 0.3 < forwards / len(cited) < 0.7


def test_most_citations_stay_inside_of_a_split(pairs):
    kept = sum(row.label for rows in pairs.values() for row in rows)
    # A random split of the documents would keep 0.66 of them.
    assert kept > 0.8 * len(LINKED)


def test_held_out_share(pairs):
    for name in ("validation", "test"):
        documents = {n for row in pairs[name] for n in row[1:]}
        assert 0.1 <= len(documents) / len(GROUPS) < 0.2


def test_seed_decides(pairs):
    shuffled = dict(sorted(GROUPS.items(), reverse=True))
    assert make_pairs(shuffled, sorted(CITATIONS), seed=0) == pairs
    assert make_pairs(GROUPS, CITATIONS, seed=1) != pairs


def test_unknown_documents_are_ignored(pairs):
    more = CITATIONS | {("a00", "nowhere"), ("nowhere", "b00"), ("c00", "c00")}
    assert make_pairs(GROUPS, more, seed=0) == pairs


def test_too_few_documents():
    with pytest.raises(
        ValueError, match="2 documents with 1 citations are too"
    ):
        make_pairs({"a": 1, "b": 1}, {("a", "b")})


@pytest.mark.parametrize("held_out", [0, 0.5])
def test_impossible_share(held_out):
    with pytest.raises(ValueError, match=f"held_out={held_out}"):
        make_pairs(GROUPS, CITATIONS, held_out=held_out)


EXAMPLES = {
    name: [Example(1, "a", "b"), Example(0, "c", "a")]
    for name in ("train", "validation", "test")
}
TEXTS = {"a": "one\ttwo\n three", "b": "xé", "c": '"c"'}


def test_written_as_released(tmp_path):
    folder = tmp_path / "made" / "here"
    write_pairs(folder, EXAMPLES, TEXTS)
    expected = '1.0\ta\tb\tone two three\txé\n0.0\tc\ta\t"c"\tone two three\n'
    for name in ("train", "eval", "test"):
        path = folder / f"new_aan_pairs.{name}.tsv"
        assert path.read_text(encoding="utf8") == expected
    assert len(list(folder.iterdir())) == 3
    assert load_retrieval(folder)["test"].labels.tolist() == [1, 0]


def test_long_texts_are_cut_between_characters(tmp_path):
    write_pairs(tmp_path, EXAMPLES, TEXTS, max_bytes=2)
    splits = load_retrieval(tmp_path)
    first, second = splits["test"].documents
    assert (first.example(0).tobytes(), second.example(0).tobytes()) == (
        b"on",
        b"x",
    )


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "new_aan_pairs.eval.tsv").write_text("precious")
    with pytest.raises(FileExistsError, match="eval.tsv is there already"):
        write_pairs(tmp_path, EXAMPLES, TEXTS)
    [path] = tmp_path.iterdir()
    assert path.read_text() == "precious"
