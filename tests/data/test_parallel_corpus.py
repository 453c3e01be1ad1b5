"""Pairs of sentences from files, and what is said of files that are wrong."""

import gzip
import pathlib

import pytest
import tensorflow as tf

from luna_tf.data.parallel import (
    CorpusError,
    Pairs,
    read_aligned,
    read_tsv,
    sample_path,
    split,
)

HEADER = "book\ten\tes\n"
ROWS = "A\tone\tuno\nA\ttwo\tdos\nB\tthree “3”\ttrés\n"
ENGLISH, SPANISH = ["one", "two", "three “3”"], ["uno", "dos", "trés"]
GROUPS = ["A", "A", "B"]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        if isinstance(content, str):
            content = content.encode()
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


class TestTSV:
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    @pytest.mark.parametrize(
        ("header", "columns"),
        [(HEADER, ("en", "es", "book")), ("", (2, 3, 1)), ("", ("2", "3", 1))],
    )
    def test_columns_by_name_or_number(self, write, pack, header, columns):
        # Whether a file is packed is not told by its name.
        path = write("pairs.tsv", pack((header + ROWS).encode()))
        assert read_tsv(path, *columns) == Pairs(ENGLISH, SPANISH, GROUPS)
        assert read_tsv(path, *columns[:2]).groups is None

    def test_any_order_of_columns_and_windows_files(self, write):
        text = "\ufeff" + (HEADER + ROWS).replace("\n", "\r\n")
        pairs = read_tsv(write("pairs.tsv", text), "es", "book", "en")
        assert pairs == Pairs(SPANISH, GROUPS, ENGLISH)

    def test_files_of_patterns_come_in_the_order_of_names(
        self, write, tmp_path
    ):
        for name in "cab":
            write(f"{name}.tsv", f"x\ty\n{name}1\t1\n{name}2\t2\n")
        write("d[1].tsv", "x\ty\nd\td\n")
        paths = [str(tmp_path / "d[1].tsv"), str(tmp_path / "?.tsv")]
        pairs = read_tsv(paths, "x", "y")
        assert pairs.sources == ["d", "a1", "a2", "b1", "b2", "c1", "c2"]

    def test_remote_files(self):
        for name in ("a", "b"):
            with tf.io.gfile.GFile(f"ram://pairs/{name}.gz", "wb") as file:
                file.write(gzip.compress(ROWS.encode()))
        pairs = read_tsv("ram://pairs/*.gz", 2, 3)
        assert pairs == Pairs(2 * ENGLISH, 2 * SPANISH)

    def test_quotes_mean_nothing(self, write):
        path = write("pairs.tsv", '"one\t1"\n""\t2\n')
        assert read_tsv(path, 1, 2).sources == ['"one', '""']

    def test_an_empty_side_is_an_error_or_skipped_and_counted(self, write):
        path = write("pairs.tsv", "a\tb\nc\t \n \td\ne\tf\n")
        with pytest.raises(CorpusError, match="line 2: the target is empty"):
            read_tsv(path, 1, 2)
        pairs = read_tsv(path, 1, 2, on_empty="skip")
        assert (pairs.sources, pairs.skipped) == (["a", "e"], 2)
        path = write("empty.tsv", "\t\n\t\n")
        with pytest.raises(CorpusError, match="no pair is left: all 2"):
            read_tsv(path, 1, 2, on_empty="skip")

    @pytest.mark.parametrize(
        ("content", "columns", "message"),
        [
            (HEADER + ROWS, ("en", "fr"), "no column 'fr' .*'book', 'en', 'es"),
            (HEADER, ("en", "es"), "pairs.tsv is empty"),
            ("", ("en", "es"), "pairs.tsv is empty, or its first line"),
            ("", (1, 2), "pairs.tsv is empty"),
            (ROWS, (1, 4), "has 3 columns; target_column is 4"),
            (ROWS + "C\tx\n", (2, 3), "line 4: 2 columns, .* has 3"),
            (HEADER + ROWS + "\n", ("en", "es"), "line 5: 1 columns"),
            (ROWS.encode() + b"C\t\xff\tx\n", (2, 3), "line 4: not UTF-8"),
            # No time in it: the name of the test must always be the same.
            (
                gzip.compress(ROWS.encode(), mtime=0)[:-9],
                (2, 3),
                "is damaged",
            ),
        ],
    )
    def test_says_what_is_wrong_and_where(
        self, write, content, columns, message
    ):
        path = write("pairs.tsv", content)
        with pytest.raises(CorpusError, match=message) as caught:
            read_tsv(path, *columns)
        assert str(caught.value).startswith(path)

    def test_missing_files(self, write, tmp_path):
        for name in ("no.tsv", "no-*.tsv", "folder/*.tsv"):
            path = str(tmp_path / name)
            with pytest.raises(FileNotFoundError) as caught:
                read_tsv([write("there.tsv", "a\tb"), path], 1, 2)
            assert str(caught.value) == f"there is no file {path}."
        with pytest.raises(CorpusError, match="is a folder"):
            read_tsv(str(tmp_path), 1, 2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("en", 2), "all names or all numbers"),
            ((0, 1), "numbered from 1. Received: 0"),
            (("en", "es", None, "ignore"), "on_empty must be one of 'error'"),
        ],
    )
    def test_arguments_are_checked_first(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            read_tsv("nowhere.tsv", *arguments)


class TestAligned:
    def test_lines_are_pairs(self, write):
        sources = write("en.txt", "\n".join(ENGLISH))
        packed = gzip.compress("\n".join([*SPANISH, ""]).encode())
        targets = write("es.gz", packed)
        assert read_aligned(sources, targets) == Pairs(ENGLISH, SPANISH)

    def test_several_files_are_aligned_by_name(self, write, tmp_path):
        for name, text in (("2.a", "c"), ("1.a", "a\nb")):
            write(name, text)
            write(name.replace("a", "b"), text.upper())
        patterns = (str(tmp_path / f"*.{side}") for side in "ab")
        pairs = read_aligned(*patterns)
        assert pairs == Pairs(["a", "b", "c"], ["A", "B", "C"])

    def test_says_what_does_not_belong_together(self, write, tmp_path):
        one, two = write("1.a", "a\nb\n"), write("1.b", "a\nb\n\n")
        with pytest.raises(CorpusError) as caught:
            read_aligned(one, two)
        assert f"{one} has 2 lines, but {two} has 3" in str(caught.value)
        write("2.a", "c")
        with pytest.raises(CorpusError, match="are 2 files, but"):
            read_aligned(str(tmp_path / "*.a"), two)
        empty = write("empty", "")
        with pytest.raises(CorpusError, match="are empty"):
            read_aligned(empty, empty)

    def test_an_empty_line_is_an_error_or_skipped_and_counted(self, write):
        one, two = write("1.a", "a\n\nc\n"), write("1.b", "a\nb\nc\n")
        with pytest.raises(CorpusError, match="line 2: the source is empty"):
            read_aligned(one, two)
        pairs = read_aligned(one, two, on_empty="skip")
        assert (pairs.sources, pairs.skipped) == (["a", "c"], 1)


class TestSplit:
    pairs = Pairs(list("abcd"), list("ABCD"), ["x", "y", "x", "z"])

    def test_holds_out_whole_groups(self):
        train, validation, test = split(self.pairs, ["y"], ["z"])
        assert train == Pairs(["a", "c"], ["A", "C"], ["x", "x"])
        assert validation == Pairs(["b"], ["B"], ["y"])
        assert test == Pairs(["d"], ["D"], ["z"])

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ((["w"], ["z"]), "validation_groups has 'w'; there are x, y, z"),
            ((["y"], ["W"]), "test_groups has 'W'"),
            ((["y"], ["y"]), "both have y"),
            ((["y"], ["x", "z"]), "nothing to train on"),
        ],
    )
    def test_names_what_is_wrong(self, groups, message):
        with pytest.raises(ValueError, match=message):
            split(self.pairs, *groups)

    def test_needs_groups(self):
        with pytest.raises(ValueError, match="group_column"):
            split(Pairs(["a"], ["b"]), [], ["x"])


class TestSample:
    def test_has_the_held_out_books_and_enough_else(self):
        pairs = read_tsv(sample_path(), "en", "es", "book")
        train, validation, test = split(pairs, ["Ruth"], ["Mark"])
        assert (len(validation), len(test)) == (85, 678)
        assert len(train) > 4000
        assert test.sources[0].startswith("The beginning of the Good News")
        assert test.targets[0].startswith("PRINCIPIO del evangelio")

    def test_is_small(self):
        assert pathlib.Path(sample_path()).stat().st_size < 500_000

    def test_is_acknowledged(self):
        notice = pathlib.Path(__file__).parents[2] / "NOTICE"
        assert "data/parallel/verses_en_es.tsv.gz" in notice.read_text()
