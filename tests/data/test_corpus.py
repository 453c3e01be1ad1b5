"""Text corpora: files, documents, rows, prepared rows."""

import gzip
import json

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.corpus import (
    CorpusError,
    RowFormat,
    divide,
    explained,
    find_files,
    learn_vocabulary,
    prepare,
    read_documents,
    sample_path,
    token_rows,
)
from luna_tf.data.corpus.files import check_whole
from luna_tf.data.parallel.vocabulary import VocabularyError
from luna_tf.models import (
    LunaByteTokenizer,
    LunaSentencePieceTokenizer,
    LunaWordPieceTokenizer,
)

FORM = RowFormat(8, start_id=254, end_id=255, pad_id=0)


def texts(documents, files=None):
    with explained(files):
        return [d["text"].decode() for d in documents.as_numpy_iterator()]


def write(folder, name, content):
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    if name.endswith(".gz"):
        content = gzip.compress(content)
    path.write_bytes(content)
    return str(path)


def bytes_of(texts):
    return LunaByteTokenizer()(texts)


class TestFiles:
    def test_globs_and_commas(self, tmp_path):
        for name in ("a1.txt", "a2.txt", "b.txt.gz"):
            write(tmp_path, name, "text\n")
        files = find_files(f"{tmp_path}/a*.txt, {tmp_path}/b.txt.gz")
        assert [p.rpartition("/")[2] for p in files.paths] == [
            "a1.txt",
            "a2.txt",
            "b.txt.gz",
        ]
        assert files.kind == "text"

    @pytest.mark.parametrize(
        "name,content,message",
        [
            ("a.txt", b"", "is empty"),
            ("a.txt", b"ab\0cd", "byte 2 is 0"),
            ("a.txt", b"fine\nb\xe9r", "line 2 is not UTF-8: byte 6 is 0xe9"),
            ("a.txt.gz", None, "is not compressed by gzip"),
        ],
    )
    def test_what_is_no_text(self, tmp_path, name, content, message):
        path = tmp_path / name
        path.write_bytes(b"plain" if content is None else content)
        with pytest.raises(CorpusError, match=message):
            find_files(str(path))

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(CorpusError, match="none.txt matches no file"):
            find_files(f"{tmp_path}/none.txt")
        with pytest.raises(CorpusError, match="It is a folder: allowed is"):
            find_files(str(tmp_path))
        with pytest.raises(CorpusError, match="at least one file"):
            find_files(" , ")

    def test_two_kinds(self, tmp_path):
        write(tmp_path, "a.txt", "x")
        write(tmp_path, "b.jsonl", "{}")
        with pytest.raises(CorpusError, match="must be of one kind"):
            find_files(f"{tmp_path}/*")


class TestDocuments:
    def test_blank_lines(self, tmp_path):
        content = "\n\none\r\ntwo\n\n \n\nthree\n"
        files = find_files(write(tmp_path, "a.txt.gz", content))
        found = list(read_documents(files).as_numpy_iterator())
        assert [d["text"] for d in found] == [b"one\ntwo", b"three"]
        assert [d["place"].rpartition(b", ")[2] for d in found] == [
            b"line 3",
            b"line 8",
        ]

    def test_a_byte_order_mark_is_no_text(self, tmp_path):
        for name in ("a.txt", "a.txt.gz"):
            files = find_files(write(tmp_path, name, "\ufeffone\n\ntwo\n"))
            for separator in ("blank_line", "line"):
                found = texts(read_documents(files, separator))
                assert found == ["one", "two"]
            whole = texts(read_documents(files, "file"))
            assert whole == ["one\n\ntwo"]

    def test_other_separators(self, tmp_path):
        path = write(tmp_path, "a.txt", "one\n\ntwo\n")
        files = find_files(path)
        assert texts(read_documents(files, "line")) == ["one", "two"]
        assert texts(read_documents(files, "file")) == ["one\n\ntwo"]
        zipped = find_files(write(tmp_path, "b.txt.gz", "one\n\ntwo\n"))
        assert texts(read_documents(zipped, "file")) == ["one\n\ntwo"]
        with pytest.raises(ValueError, match="separator must be one of"):
            read_documents(files, "page")

    def test_long_documents_lose_nothing(self, tmp_path):
        lines = [f"line {i} " + "x" * 60 for i in range(2000)]
        files = find_files(write(tmp_path, "a.txt", "\n".join(lines)))
        assert texts(read_documents(files)) == ["\n".join(lines)]

    def test_json_lines(self, tmp_path):
        lines = [json.dumps({"body": t, "n": 1}) for t in ("one", "zwei ä")]
        files = find_files(write(tmp_path, "a.jsonl.gz", "\n".join(lines)))
        assert texts(read_documents(files, text_field="body")) == [
            "one",
            "zwei ä",
        ]
        bad = find_files(write(tmp_path, "b.jsonl", '{"body": "x"}\n[1]\n'))
        with pytest.raises(CorpusError, match="b.jsonl, line 2: no text in"):
            texts(read_documents(bad, text_field="body"))
        documents = read_documents(bad, text_field="body", skip_malformed=True)
        assert texts(documents) == ["x"]

    def test_records(self, tmp_path):
        path = str(tmp_path / "a.tfrecord")
        with tf.io.TFRecordWriter(path) as out:
            for text in (b"one", b"two"):
                value = tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[text])
                )
                features = tf.train.Features(feature={"text": value})
                example = tf.train.Example(features=features)
                out.write(example.SerializeToString())
        assert texts(read_documents(find_files(path))) == ["one", "two"]
        content = (tmp_path / "a.tfrecord").read_bytes()
        zipped = find_files(write(tmp_path, "b.tfrecord.gz", content))
        assert texts(read_documents(zipped)) == ["one", "two"]
        cut = tmp_path / "cut.tfrecord"
        cut.write_bytes((tmp_path / "a.tfrecord").read_bytes()[:-5])
        with pytest.raises(CorpusError, match="cut off or damaged"):
            texts(read_documents(find_files(str(cut))))

    def test_records_of_another_kind(self, tmp_path):
        path = str(tmp_path / "a.tfrecord")
        number = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
        features = tf.train.Features(feature={"text": number})
        example = tf.train.Example(features=features).SerializeToString()
        for record in (b"none at all", example):
            with tf.io.TFRecordWriter(path) as out:
                out.write(record)
            found = find_files(path)
            with pytest.raises(CorpusError, match="cannot be read in one of"):
                texts(read_documents(found), found)

    @pytest.mark.parametrize("cut", [1, 9, 500])
    def test_a_gzip_file_that_is_cut_off(self, cut, tmp_path):
        rng = np.random.default_rng(0)
        letters = rng.integers(97, 123, 5000).astype("u1")
        content = gzip.compress(letters.tobytes())
        path = tmp_path / "a.txt.gz"
        path.write_bytes(content + gzip.compress(b"more") + b"\0" * 8)
        check_whole(str(path))
        path.write_bytes(content[:-cut])
        with pytest.raises(CorpusError, match="a.txt.gz is cut off"):
            check_whole(str(path))

    @pytest.mark.parametrize(
        ("word", "problem"), [(b"b\xe9r", "not UTF-8"), (b"a\0b", "not text")]
    )
    def test_bytes_that_no_text_has_far_into_a_file(
        self, word, problem, tmp_path
    ):
        line = b"fine " * 200 + b"\n\n"
        content = line * 300 + word + b"\n\nfine"
        files = find_files(write(tmp_path, "a.txt", content))
        with pytest.raises(CorpusError, match=f"a.txt, line 601: {problem}"):
            texts(read_documents(files))
        documents = read_documents(files, skip_malformed=True)
        assert len(texts(documents)) == 301

    def test_bytes_that_no_text_has_far_into_json(self, tmp_path):
        line = b'{"text": "' + b"fine " * 200 + b'"}\n'
        content = line * 300 + b'{"text": "b\xe9r"}\n'
        files = find_files(write(tmp_path, "b.jsonl", content))
        with pytest.raises(CorpusError, match="b.jsonl, line 301: not UTF-8"):
            texts(read_documents(files))
        documents = read_documents(files, skip_malformed=True)
        assert len(texts(documents)) == 300

    def test_zeros_in_json(self, tmp_path):
        lines = '{"text": "a\\u0000b"}\n{"text": "fine"}'
        files = find_files(write(tmp_path, "b.jsonl", lines))
        documents = read_documents(files, skip_malformed=True)
        assert texts(documents) == ["fine"]

    def test_division_depends_on_the_text_alone(self):
        files = find_files(sample_path())
        documents = read_documents(files).take(300)
        parts = divide(documents, {"validation": 0.1, "test": 0.2})
        found = {name: texts(part) for name, part in parts.items()}
        assert sum(map(len, found.values())) == 300
        assert 15 <= len(found["validation"]) <= 45
        assert 35 <= len(found["test"]) <= 85
        again = divide(documents.skip(100), {"validation": 0.1, "test": 0.2})
        assert set(texts(again["test"])) <= set(found["test"])
        with pytest.raises(ValueError, match="together be below 1"):
            divide(documents, {"test": 1.0})


class TestVocabulary:
    WORDS = "the moon shines at night and the sun by day".split()

    @pytest.fixture(scope="class")
    def documents(self, tmp_path_factory):
        words = self.WORDS
        lines = [" ".join(words[i % 7 : i % 7 + 3]) for i in range(50)]
        folder = tmp_path_factory.mktemp("words")
        files = find_files(write(folder, "a.txt", "\n\n".join(lines)))
        return read_documents(files)

    def test_byte_pairs(self, documents):
        proto = learn_vocabulary(documents, "bpe", 300)
        tokenizer = LunaSentencePieceTokenizer(proto)
        assert tokenizer.vocabulary_size() == 300
        pieces = [tokenizer.id_to_token(i) for i in tokenizer("the moon")]
        assert pieces == ["\u2581the", "\u2581moon"]

    def test_word_pieces(self, documents):
        pieces = learn_vocabulary(documents, "wordpiece", 40)
        assert pieces[:5] == "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
        assert len(pieces) <= 40
        tokenizer = LunaWordPieceTokenizer(pieces)
        text = "the moon shines"
        assert tokenizer.detokenize(tokenizer(text)) == text

    def test_what_cannot_be_learned(self, documents):
        with pytest.raises(ValueError, match="kind must be one of wordpiece"):
            learn_vocabulary(documents, "words", 40)
        with pytest.raises(VocabularyError, match="from no text"):
            learn_vocabulary(documents.take(0), "bpe", 300)


class TestRows:
    @staticmethod
    def rows(documents, packing="document"):
        form = RowFormat(8, 254, 255, 0, packing)
        dataset = tf.data.Dataset.from_tensor_slices({"text": documents})
        found = token_rows(dataset, bytes_of, form).as_numpy_iterator()
        return [
            bytes(i for i in row if i)
            .replace(b"\xfe", b"<")
            .replace(b"\xff", b">")
            for row in found
        ]

    def test_one_document_per_row(self):
        assert self.rows(["abcdefgh", "x", "", "abcdef"]) == [
            b"<abcdef>",
            b"<gh>",
            b"<x>",
            b"<abcdef>",
        ]

    def test_full_rows(self):
        # The end token of a document lies between it and the next.
        assert self.rows(["abcdefgh", "x", "", "yz"], "full") == [
            b"<abcdef>",
            b"<gh>x>y>",
            b"<z>",
        ]
        assert self.rows(["abcdef"], "full") == [b"<abcdef>"]

    def test_many_documents_in_order(self):
        documents = [f"{i:03}" * (i % 7) for i in range(200)]
        joined = b"".join(self.rows(documents))
        text = "".join(documents).encode()
        assert joined.replace(b"<", b"").replace(b">", b"") == text

    def test_formats_that_cannot_be(self):
        with pytest.raises(ValueError, match="length must be at least 3"):
            RowFormat(2, 1, 2, 0)
        with pytest.raises(ValueError, match="packing must be one of"):
            RowFormat(8, 1, 2, 0, "tight")


class TestPrepared:
    @pytest.fixture
    def files(self, tmp_path):
        for i in range(3):
            write(tmp_path, f"{i}.txt", "\n\n".join([f"{i}abcdefgh"] * 20))
        return find_files(f"{tmp_path}/*.txt")

    def make(self, files, tmp_path, **given):
        folder = str(tmp_path / "rows")
        return prepare(files, folder, bytes_of, FORM, 256, {"v": 1}, **given)

    def test_rows_come_back(self, files, tmp_path):
        corpus = self.make(files, tmp_path)
        assert corpus.counts["train"] == {"rows": 120, "tokens": 780}
        rows = corpus.rows("train")
        assert (rows.shape, rows.dtype) == ((120, 8), np.uint16)
        assert rows[0].tolist() == [254, *b"0abcde", 255]
        assert corpus.rows("train", limit=3)[1].tolist() == rows[40].tolist()

    def test_it_goes_on_where_it_was(self, files, tmp_path):
        calls = []
        first = self.make(files, tmp_path)
        path = f"{first.folder}/00001.json"
        tf.io.gfile.remove(path)  # as if it had been killed there
        tf.io.gfile.remove(f"{first.folder}/train-00001.tfrecord")

        def tokenize(batch):
            calls.append(1)
            return bytes_of(batch)

        folder = str(tmp_path / "rows")
        again = prepare(files, folder, tokenize, FORM, 256, {"v": 1})
        assert again == first and len(calls) == 1
        np.testing.assert_array_equal(again.rows("train"), first.rows("train"))

    def test_other_settings_are_other_rows(self, files, tmp_path):
        first = self.make(files, tmp_path)
        other = self.make(files, tmp_path, fractions={"test": 0.3})
        assert other.folder != first.folder
        changed = files.paths[0]
        with open(changed, "a") as file:
            file.write("more")
        new = find_files(",".join(files.paths))
        assert self.make(new, tmp_path).folder != first.folder

    def test_streams_cover_all_rows_whatever_the_workers(self, files, tmp_path):
        corpus = self.make(files, tmp_path)
        expected = sorted(map(tuple, corpus.rows("train").tolist()))
        for workers in (1, 2, 5):
            found = []
            for worker in range(workers):
                rows = corpus.dataset("train", 0, worker, workers)
                mine = range(worker, 3, workers) if workers <= 3 else None
                count = 40 * len(mine) if mine else 120 // workers
                found += [
                    tuple(r.tolist())
                    for r in rows.take(count).as_numpy_iterator()
                ]
            assert sorted(found) == expected, workers

    def test_damage_is_noticed(self, files, tmp_path):
        corpus = self.make(files, tmp_path)
        path = f"{corpus.folder}/train-00001.tfrecord"
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        with pytest.raises(CorpusError):
            corpus.rows("train")

    def test_nothing_to_train_on(self, tmp_path):
        files = find_files(write(tmp_path, "a.txt", "\n \n\n"))
        with pytest.raises(CorpusError, match="no document to train on"):
            self.make(files, tmp_path)
