"""Retrieval pairs as released, and what is wrong in them."""

import numpy as np
import pytest

from luna_tf.data.lra.retrieval import FILES, load_retrieval, read_pairs

LINES = [
    b"1.0\ta\tb\tfirst \"one\t second, 'one'",
    "0.0\tc\td\té\tsecond two".encode(),
]
EXAMPLES = [
    (1, b'first "one', b" second, 'one'"),
    (0, "é".encode(), b"second two"),
]


@pytest.fixture
def write(tmp_path):
    def write(lines, name="new_aan_pairs.test.tsv"):
        path = tmp_path / name
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


def contents(split):
    first, second = split.documents
    return [
        (label, first.example(i).tobytes(), second.example(i).tobytes())
        for i, label in enumerate(split.labels.tolist())
    ]


def test_bytes_are_kept_as_they_are(write):
    split = read_pairs(write(LINES))
    assert contents(split) == EXAMPLES
    assert split.documents[0].tokens.dtype == np.uint8


def test_labels_may_be_integers_and_lines_end_like_on_windows(write):
    path = write([b"1\ta\tb\tx\ty\r", b"0\ta\tb\tx\ty\r"])
    assert contents(read_pairs(path)) == [(1, b"x", b"y"), (0, b"x", b"y")]


def test_documents_are_cut_to_bytes(write):
    path = write([b"1.0\ta\tb\t%s\t%s" % (b"x" * 10_001, b"y" * 10_000)])
    split = read_pairs(path)
    assert [part.lengths.tolist() for part in split.documents] == 2 * [[10_000]]
    # Bytes are tokens: a character may be cut in two.
    assert contents(read_pairs(write(LINES), 1)) == [
        (1, b"f", b" "),
        (0, b"\xc3", b"s"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1.0\ta\tb\tx", "4 columns, not 5"),
        (b"1.0\ta\tb\tx\ty\tz", "6 columns, not 5"),
        (b"", "1 columns, not 5"),
        (b"2.0\ta\tb\tx\ty", "label '2.0' is not 0.0 or 1.0"),
        (b"label\ta\tb\tx\ty", "label 'label' is not"),
        (b"1.0\ta\tb\tcaf\xe9\ty", "byte 12 of the line is not UTF-8"),
        (b"1.0\ta\tb\t \ty", "the first text is empty"),
        (b"1.0\ta\tb\tx\t", "the second text is empty"),
    ],
)
def test_bad_line(write, line, problem):
    path = write([LINES[0], line, LINES[1]])
    with pytest.raises(ValueError, match=f"{path}, line 2: {problem}"):
        read_pairs(path)
    with pytest.warns(UserWarning, match="1 malformed of 3 examples .line 2"):
        assert contents(read_pairs(path, skip_malformed=True)) == EXAMPLES


def test_empty_file(write):
    with pytest.raises(ValueError, match="test.tsv holds no examples"):
        read_pairs(write([]))


def test_folder_of_the_release(write, tmp_path):
    for count, file in enumerate(FILES.values(), start=1):
        write(count * LINES, file)
    splits = load_retrieval(str(tmp_path))
    assert list(splits) == ["train", "validation", "test"]
    assert splits.class_names == ("unrelated", "cited")
    for count, split in enumerate(splits.values(), start=1):
        assert contents(split) == count * EXAMPLES
    short = load_retrieval(tmp_path, max_bytes=3)
    assert short["train"].documents[1].lengths.tolist() == [3, 3]


def test_missing_file_says_where_to_get_it(write, tmp_path):
    write(LINES)
    with pytest.raises(FileNotFoundError) as caught:
        load_retrieval(tmp_path)
    message = str(caught.value)
    assert f"no new_aan_pairs.train.tsv in {tmp_path}" in message
    assert "lra_release/tsv_data" in message and "man_pages" in message


def test_impossible_length(tmp_path):
    with pytest.raises(ValueError, match="max_bytes=0"):
        load_retrieval(tmp_path, max_bytes=0)
