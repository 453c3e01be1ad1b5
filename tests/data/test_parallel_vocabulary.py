"""Subwords of a corpus: the same every time, and clear about their limits."""

import json
import re

import numpy as np
import pytest

from luna_tf.data.parallel import (
    TokenLists,
    Vocabulary,
    VocabularyError,
    load_or_train,
    read_tsv,
    sample_path,
    train_vocabulary,
)
from luna_tf.data.parallel import (
    vocabulary as module,
)

SIZE = 500


@pytest.fixture(scope="module")
def sentences():
    pairs = read_tsv(sample_path(), "en", "es", "book")
    ruth = [i for i, book in enumerate(pairs.groups) if book == "Ruth"]
    return [s[i] for s in (pairs.sources, pairs.targets) for i in ruth]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def proto(request, sentences):
    return train_vocabulary(sentences, SIZE, request.param)


def test_ids_of_special_tokens_and_the_size(proto):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    names = [model.id_to_piece(i) for i in range(5)]
    assert names == ["<s>", "<pad>", "</s>", "<unk>", "<0x00>"]
    assert Vocabulary(proto).size == SIZE


def test_text_comes_back_even_what_was_never_seen(proto, sentences):
    vocabulary = Vocabulary(proto)
    texts = [*sentences, "Ωmega 水 🙂", ""]
    tokens = vocabulary.encode(texts)
    assert len(tokens) == len(texts)
    assert tokens.values.dtype == np.int32
    assert tokens.values.min() > module.UNK_ID
    assert tokens.values.max() < SIZE
    assert tokens.lengths[-1] == 0
    rows = [tokens[i] for i in range(len(tokens))]
    assert vocabulary.decode(rows) == texts
    ended = [[0, *row, 2, 1, 1] for row in rows]
    assert vocabulary.decode(ended) == texts
    assert vocabulary.decode([]) == []


def test_chunks_make_no_difference(proto, sentences, monkeypatch):
    whole = Vocabulary(proto).encode(sentences)
    monkeypatch.setattr(module, "_CHUNK", 7)
    parts = Vocabulary(proto).encode(sentences)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.row_splits, whole.row_splits)
    assert len(Vocabulary(proto).encode([])) == 0


def test_is_the_same_every_time(proto, sentences):
    model_type = "unigram" if b"unigram" in proto else None
    found = [
        train_vocabulary(sentences, SIZE, model_type=name)
        for name in ([model_type] if model_type else ["unigram", "bpe"])
    ]
    assert proto in found


def test_long_sentences_count_too(sentences):
    # The library's default would leave all of it out.
    proto = train_vocabulary([" ".join(sentences)], SIZE)
    assert Vocabulary(proto).size == SIZE


def test_an_even_selection_of_too_many_sentences(sentences):
    chosen = train_vocabulary(sentences, 400, max_sentences=60)
    assert chosen == train_vocabulary(sentences[::3], 400)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_error_names_the_largest_and_the_smallest_size(
    sentences, model_type
):
    with pytest.raises(VocabularyError, match="at most") as caught:
        train_vocabulary(sentences, 50_000, model_type)
    largest = int(
        re.search(r"most ([\d,]+)", str(caught.value))[1].replace(",", "")
    )
    train_vocabulary(sentences, largest, model_type)
    with pytest.raises(VocabularyError):
        train_vocabulary(sentences, largest + 1, model_type)
    with pytest.raises(VocabularyError, match="at least") as caught:
        train_vocabulary(sentences, 30, model_type)
    smallest = int(re.search(r"least ([\d,]+)", str(caught.value))[1])
    train_vocabulary(sentences, smallest, model_type)
    with pytest.raises(VocabularyError):
        train_vocabulary(sentences, smallest - 1, model_type)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], 300, "word"), "model_type must be one of 'unigram', 'bpe'"),
        ((["a"], 0), "size must be at least 1. Received: 0"),
        (([], 300), "from no text"),
        (([" ", ""], 300), "from no text"),
        ((["a"], 300, "bpe", "latin"), "could not learn"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_vocabulary(*arguments)


def test_rare_characters_may_be_spelt_in_bytes(sentences):
    """Their ids are then left to longer subwords."""
    rare = [chr(0x4E00 + i) for i in range(300)]
    with pytest.raises(VocabularyError, match="lower character_coverage"):
        train_vocabulary([*sentences, *rare], SIZE)
    proto = train_vocabulary([*sentences, *rare], SIZE, character_coverage=0.98)
    vocabulary = Vocabulary(proto)
    assert vocabulary.decode([vocabulary.encode(["水"])[0]]) == ["水"]


class TestProto:
    def test_of_something_else_is_refused(self):
        with pytest.raises(VocabularyError, match="not a SentencePiece model"):
            Vocabulary(b"nonsense")

    def test_with_other_special_tokens_is_refused(self, sentences, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "PAD_ID", 3)
            patch.setattr(module, "UNK_ID", 1)
            proto = train_vocabulary(sentences, SIZE)
        with pytest.raises(VocabularyError, match="'pad': 3.*allowed are"):
            Vocabulary(proto)


class TestCache:
    def test_is_used_only_for_the_same(self, sentences, tmp_path, monkeypatch):
        trained = []

        def train(*arguments, **options):
            trained.append((len(arguments[0]), arguments[1], options))
            return train_vocabulary(*arguments, **options)

        monkeypatch.setattr(module, "train_vocabulary", train)
        path = str(tmp_path / "run" / "vocabulary.model")
        first = load_or_train(path, sentences, SIZE)
        assert load_or_train(path, sentences, SIZE) == first
        assert len(trained) == 1
        with open(path, "rb") as file:
            assert file.read() == first
        other = load_or_train(path, sentences, SIZE, model_type="bpe")
        assert other != first
        load_or_train(path, sentences[1:], SIZE)
        load_or_train(path, sentences[1:], SIZE - 1)
        assert [entry[:2] for entry in trained] == [
            (len(sentences), SIZE),
            (len(sentences), SIZE),
            (len(sentences) - 1, SIZE),
            (len(sentences) - 1, SIZE - 1),
        ]
        assert trained[1][2] == {"model_type": "bpe"}
        names = sorted(p.name for p in (tmp_path / "run").iterdir())
        assert names == ["vocabulary.model", "vocabulary.model.json"]

    def test_may_have_to_be_there(self, sentences, tmp_path):
        path = str(tmp_path / "vocabulary.model")
        with pytest.raises(VocabularyError, match="model is missing"):
            load_or_train(path, sentences, SIZE, may_train=False)
        first = load_or_train(path, sentences, SIZE)
        again = load_or_train(path, sentences, SIZE, may_train=False)
        assert again == first
        with pytest.raises(VocabularyError, match="other sentences"):
            load_or_train(path, sentences[1:], SIZE, may_train=False)

    def test_may_be_remote(self, sentences, monkeypatch):
        path = "ram://run/vocabulary.model"
        first = load_or_train(path, sentences, SIZE)
        monkeypatch.setattr(module, "train_vocabulary", None)
        assert load_or_train(path, sentences, SIZE) == first

    @pytest.mark.parametrize("damaged", ["model", "model.json"])
    def test_that_is_damaged_is_replaced(self, sentences, tmp_path, damaged):
        path = tmp_path / "vocabulary.model"
        first = load_or_train(str(path), sentences, SIZE)
        file = tmp_path / f"vocabulary.{damaged}"
        file.write_bytes(file.read_bytes()[:-20])
        assert load_or_train(str(path), sentences, SIZE) == first
        assert path.read_bytes() == first
        assert json.loads((tmp_path / "vocabulary.model.json").read_text())


class TestTokenLists:
    def test_join(self):
        one, two = TokenLists.of([[1, 2], []]), TokenLists.of([[3]])
        both = TokenLists.join([one, TokenLists.of([]), two])
        assert [row.tolist() for row in both] == [[1, 2], [], [3]]
        assert len(TokenLists.join([])) == 0

    @pytest.mark.parametrize("splits", [[], [1, 3], [0, 2], [0, 4, 3]])
    def test_refuses_splits_that_do_not_fit(self, splits):
        with pytest.raises(ValueError, match="row_splits must rise from 0"):
            TokenLists(np.zeros(3, np.int32), np.array(splits, np.int64))
