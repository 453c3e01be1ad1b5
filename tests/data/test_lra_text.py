"""Text from the IMDB archive and from tables, and what is wrong in them."""

import csv
import shutil
import stat

import pytest

from luna_tf.data.lra.text import load_text
from luna_tf.data.tables import read_table


def texts_of(split):
    [documents] = split.documents
    return [documents.example(i).tobytes() for i in range(len(split))]


def contents(splits):
    return {
        name: list(zip(texts_of(split), split.labels.tolist(), strict=True))
        for name, split in splits.items()
    }


@pytest.fixture
def imdb(tmp_path):
    """The archive in small: 10 training reviews a class, and 2 for test."""
    folder = tmp_path / "aclImdb"
    for split, count in (("train", 10), ("test", 2)):
        for label in ("neg", "pos"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                path = folder / split / label / f"{i + 5}_{i % 4 + 1}.txt"
                path.write_bytes(f"{split} {label} {i + 5}<br />é".encode())
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("no label")
    (folder / "train" / "pos" / "urls.dat").write_text("no review")
    return folder


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return path

    return write


class TestIMDB:
    def test_validation_is_the_end_of_the_training_half(self, imdb):
        splits = load_text(str(imdb), validation_fraction=0.2)
        assert splits.class_names == ("neg", "pos")
        # By number: 9 comes before 10.
        expected = {
            "train": ("train", range(5, 13)),
            "validation": ("train", range(13, 15)),
            "test": ("test", range(5, 7)),
        }
        assert contents(splits) == {
            name: [
                (f"{half} {label} {i}<br />é".encode(), number)
                for number, label in enumerate(("neg", "pos"))
                for i in numbers
            ]
            for name, (half, numbers) in expected.items()
        }

    def test_validation_can_be_left_out(self, imdb):
        splits = load_text(imdb, validation_fraction=0)
        assert {n: len(s) for n, s in splits.items()} == dict(train=20, test=4)

    @pytest.mark.parametrize("missing", ["test", "train", "test/neg"])
    def test_missing_folder_says_where_to_get_it(self, imdb, missing):
        shutil.rmtree(imdb / missing)
        with pytest.raises(FileNotFoundError) as caught:
            load_text(imdb)
        assert f"no folder {imdb / missing}" in str(caught.value)
        assert "ai.stanford.edu" in str(caught.value)
        assert "train/neg/*.txt" in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b" \n", "the text is empty"), (b"caf\xe9!", "byte 4 is not UTF-8")],
    )
    def test_bad_review(self, imdb, content, problem):
        (imdb / "train" / "pos" / "7_3.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"train/pos, 7_3.txt: {problem}"):
            load_text(imdb)
        with pytest.warns(UserWarning, match="skipped 1 malformed of 10"):
            splits = load_text(imdb, skip_malformed=True)
        assert len(splits["train"]) + len(splits["validation"]) == 19

    def test_empty_class(self, imdb):
        for path in (imdb / "test" / "neg").iterdir():
            path.unlink()
        with pytest.raises(ValueError, match="test/neg holds no examples"):
            load_text(imdb)

    def test_folder_without_permission(self, imdb, without_privileges):
        folder = imdb / "train" / "neg"
        folder.chmod(0)
        with without_privileges(imdb):
            with pytest.raises(PermissionError, match=str(folder)):
                load_text(imdb)
        folder.chmod(stat.S_IRWXU)


class TestTable:
    def test_columns_quotes_and_order(self, write):
        path = write(
            "reviews.csv",
            "\ufeffsource,review,stars\r\n"
            'a,"two\nlines, ""quoted""",5\r\n'
            "a, spaces ,1 \r\n"
            "b,other,9\r\n"
            "a,é,5\r\n",
        )
        table = read_table(path, "review", "stars", where="source=a")
        assert table.texts == [
            b'two\nlines, "quoted"',
            b" spaces ",
            "é".encode(),
        ]
        assert table.labels == ["5", "1", "5"]

    def test_quotes_mean_nothing_between_tabs(self, write):
        path = write("a.tsv", 'label\ttext\nx\t"one, two\ny\t"\n')
        assert read_table(path).texts == [b'"one, two', b'"']

    def test_fields_of_any_length_and_the_limit_stays(self, write):
        limit = csv.field_size_limit()
        long = "x" * (limit + 1)
        table = read_table(write("a.csv", f"text,label\n{long},1\n"))
        assert len(table.texts[0]) == limit + 1
        assert csv.field_size_limit() == limit
        with pytest.raises(ValueError):
            read_table(write("a.csv", 'text,label\n"a,1\n'))
        assert csv.field_size_limit() == limit

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            (b"a,b,1", "line 4: 3 columns, where the first line has 2"),
            (b"a", "line 4: 1 columns"),
            (b",1", "line 4: the text is empty"),
            (b"a, ", "line 4: the label is empty"),
            (b"caf\xe9,1", "line 4: byte 0xe9 is not UTF-8"),
            (b'"a"b,1', "line 4: .*expected after"),
        ],
    )
    def test_bad_row(self, write, row, problem):
        # The first example takes two lines.
        path = write("a.csv", b'text,label\n"1\n2",0\n' + row + b"\n\nx,1\n")
        with pytest.raises(ValueError, match=f"a.csv, {problem}"):
            read_table(path)
        with pytest.warns(UserWarning, match=problem):
            table = read_table(path, skip_malformed=True)
        assert table.texts == [b"1\n2", b"x"]

    def test_cut_off_file(self, write):
        path = write("a.csv", 'text,label\na,0\n"b\nc,1\nd')
        with pytest.raises(ValueError, match="line 3: unexpected end of data"):
            read_table(path)

    @pytest.mark.parametrize(
        ("name", "content", "options", "problem"),
        [
            ("a.csv", "", {}, "a.csv is empty"),
            ("a.csv", "text,label\n", {}, "a.csv holds no examples"),
            ("a.txt", "text,label\n", {}, "must end in .csv or .tsv"),
            ("a.csv", "txt,label\n", {}, "'text' .text_column.*'txt', 'label'"),
            ("a.csv", "text,text,label\n", {}, "one column 'text'"),
            ("a.csv", "text,label\na,1\n", {"where": "x"}, "where='x'"),
            ("a.csv", "text,label\na,1\n", {"where": "x=1"}, "'x' .where"),
            (
                "a.csv",
                "text,label\na,1\n",
                {"where": "label=2"},
                "no rows with",
            ),
            ("a.tsv", "text,label\na,1\n", {}, "has 'text,label'"),
        ],
    )
    def test_bad_file(self, write, name, content, options, problem):
        with pytest.raises(ValueError, match=problem):
            read_table(write(name, content), **options)


class TestLoad:
    def test_one_file_is_split_in_blocks(self, write):
        rows = [f"t{i},{'pos' if i % 2 else 'neg'}\n" for i in range(20)]
        splits = load_text(write("a.csv", "text,label\n" + "".join(rows)))
        assert splits.class_names == ("neg", "pos")
        assert contents(splits) == {
            "train": [(b"t%d" % i, i % 2) for i in range(14)],
            "validation": [(b"t%d" % i, i % 2) for i in (14, 15)],
            "test": [(b"t%d" % i, i % 2) for i in range(16, 20)],
        }

    @pytest.mark.parametrize("suffix", ["csv", "tsv"])
    def test_three_files(self, write, tmp_path, suffix):
        comma = {"csv": ",", "tsv": "\t"}[suffix]
        for name in ("train", "validation", "test"):
            rows = [("text", "label"), (f"{name} a", "10"), (f"{name} b", "9")]
            lines = [comma.join(row) + "\n" for row in rows]
            write(f"{name}.{suffix}", "".join(lines))
        splits = load_text(tmp_path)
        assert splits.class_names == ("9", "10")
        for name in ("train", "validation", "test"):
            expected = [(f"{name} a".encode(), 1), (f"{name} b".encode(), 0)]
            assert contents(splits)[name] == expected

    def test_validation_is_held_out_if_it_has_no_file(self, write, tmp_path):
        write("train.csv", "text,label\na,0\nb,0\nc,1\nd,1\n")
        write("test.csv", "text,label\ne,0\n")
        assert contents(load_text(tmp_path, validation_fraction=0.5)) == {
            "train": [(b"a", 0), (b"c", 1)],
            "validation": [(b"b", 0), (b"d", 1)],
            "test": [(b"e", 0)],
        }

    def test_label_that_was_not_trained(self, write, tmp_path):
        write("train.csv", "text,label\na,0\nb,1\n")
        path = write("test.csv", "text,label\nc,0\nd,2\n")
        message = f"{path}, line 3: label '2' is not one of '0', '1'"
        with pytest.raises(ValueError, match=message):
            load_text(tmp_path, validation_fraction=0)

    def test_missing_data(self, write, tmp_path):
        for path, problem in (
            (tmp_path, f"no text data in {tmp_path}. Give"),
            (tmp_path / "a.csv", "a.csv, which does not exist"),
        ):
            with pytest.raises(FileNotFoundError, match=problem):
                load_text(path)
        write("train.csv", "text,label\na,0\n")
        with pytest.raises(FileNotFoundError, match="no test.csv in"):
            load_text(tmp_path)

    def test_impossible_shares_are_refused_before_reading(self, tmp_path):
        with pytest.raises(ValueError, match="validation_fraction=0.5"):
            load_text(tmp_path / "none.csv", 0.5, 0.5)
