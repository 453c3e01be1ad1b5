"""ListOps vocabulary, expressions, splits, files and reference lines."""

import numpy as np
import pytest

from luna_tf.data.lra.listops import (
    CLS_ID,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    Split,
    accuracy_per_operator,
    decode,
    encode,
    evaluate,
    read_tsv,
    reference_lines,
    to_tsv_source,
)

EXPRESSIONS = {
    "7": 7,
    "[MIN 4 9 2 ]": 2,
    "[MAX 4 9 2 ]": 9,
    "[SM 4 9 2 ]": 5,
    "[MED 1 9 2 ]": 2,
    # Halves are cut off: 4.5 becomes 4.
    "[MED 9 1 7 2 ]": 4,
    "[SM 7 [MED 1 4 ] [MAX 3 [MIN 8 5 ] ] ]": 4,
}


def make_split(*examples):
    rows = [encode(source) for source, _ in examples]
    return Split.from_rows(rows, [label for _, label in examples])


def write_tsv(path, *lines, header="Source\tTarget", end="\n"):
    text = "".join(line + end for line in (header, *lines))
    path.write_bytes(text.encode())
    return path


def test_vocabulary_is_fixed():
    assert VOCABULARY == (
        *("<pad>", "<cls>", "<eos>"),
        *"0123456789",
        *("[MIN", "[MAX", "[MED", "[SM", "]"),
    )
    assert (PAD_ID, CLS_ID, EOS_ID) == (0, 1, 2)
    assert encode("0 9 [MIN [SM ]").tolist() == [3, 12, 13, 16, 17]


@pytest.mark.parametrize("source,value", EXPRESSIONS.items())
def test_evaluate(source, value):
    assert evaluate(source) == value
    assert evaluate(source.split()) == value
    assert evaluate(encode(source)) == value
    assert decode(encode(source)) == source


@pytest.mark.parametrize(
    "source,message",
    [
        ("", "expected one expression, found 0"),
        ("1 2", "expected one expression, found 2"),
        ("[MIN 1 2", "1 brackets are not closed"),
        ("1 ]", "nothing open for the ']' at token 1"),
        ("[MIN [MAX ] 2 ]", "no arguments before the ']' at token 2"),
        ("[MIN 10 ]", "unknown token '10'"),
        ("[FIRST 1 2 ]", "unknown token '\\[FIRST'"),
        ("<pad> 1", "unknown token '<pad>'"),
    ],
)
def test_evaluate_names_the_problem(source, message):
    with pytest.raises(ValueError, match=message):
        evaluate(source)


def test_evaluate_rejects_special_ids():
    with pytest.raises(ValueError, match="id 0 at token 1"):
        evaluate([3, PAD_ID])


def test_parentheses_are_those_of_the_release():
    # Every node of the binary tree, `[MAX 4` first, is in parentheses.
    assert (
        to_tsv_source(encode("[MAX 4 3 9 ]")) == "( ( ( ( [MAX 4 ) 3 ) 9 ) ] )"
    )
    assert (
        to_tsv_source(encode("[MAX [MIN 1 2 ] 3 ]"))
        == "( ( ( [MAX ( ( ( [MIN 1 ) 2 ) ] ) ) 3 ) ] )"
    )
    assert to_tsv_source(encode("8")) == "8"


@pytest.mark.parametrize("source", EXPRESSIONS)
@pytest.mark.parametrize("parentheses", [True, False])
def test_both_notations_read_back(source, parentheses):
    written = to_tsv_source(encode(source), parentheses)
    assert decode(encode(written)) == source
    assert written.count("(") == written.count(")")
    tokens = source.split()
    # An operator with k arguments stands for k + 1 binary nodes.
    nodes = len(tokens) - 1 if parentheses else 0
    assert len(written.split()) == len(tokens) + 2 * nodes


def test_to_tsv_source_rejects_fragments():
    with pytest.raises(ValueError, match="not closed"):
        to_tsv_source(encode("[MIN 1"))


def test_split_is_indexable_and_compact():
    split = make_split(("[MAX 4 3 ]", 4), ("7", 7))
    assert len(split) == 2
    assert split.lengths.tolist() == [4, 1]
    assert decode(split.example(0)) == "[MAX 4 3 ]"
    assert decode(split.example(-1)) == "7"
    with pytest.raises(IndexError):
        split.example(2)
    assert [VOCABULARY[i] for i in split.root_operators()] == ["[MAX", "7"]
    assert (split.tokens.dtype, split.labels.dtype) == (np.uint8, np.uint8)
    assert split.row_splits.dtype == np.int64


@pytest.mark.parametrize(
    "row_splits", [[0, 4], [0, 3, 4], [1, 4, 5], [0, 5, 5], [0, 6, 5]]
)
def test_split_rejects_arrays_that_do_not_fit(row_splits):
    with pytest.raises(ValueError, match="row_splits"):
        Split(encode("[MAX 4 3 ] 7"), np.array(row_splits), np.array([4, 7]))


@pytest.mark.parametrize("add_cls", [True, False])
@pytest.mark.parametrize("add_eos", [True, False])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 9])
def test_padded(add_cls, add_eos, length):
    split = make_split(("7", 7), ("[MAX 4 3 ]", 4), ("[MIN 1 2 3 ]", 1))
    indices = [2, 0, -1, 1, 2]
    expected = []
    for i in indices:
        ids = [CLS_ID] * add_cls + split.example(i).tolist()
        ids = ids + [EOS_ID] * add_eos + [PAD_ID] * length
        expected.append(ids[:length])
    rows = split.padded(indices, length, add_cls, add_eos)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, expected)


def test_padded_edges():
    split = make_split(("7", 7))
    assert split.padded([], 3).shape == (0, 3)
    with pytest.raises(IndexError):
        split.padded([1], 3)
    with pytest.raises(ValueError, match="sequence_length=0"):
        split.padded([0], 0)


@pytest.mark.parametrize("parentheses", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_tsv(tmp_path, parentheses, end):
    lines = [
        f"{to_tsv_source(encode(source), parentheses)}\t{value}"
        for source, value in EXPRESSIONS.items()
    ]
    split = read_tsv(write_tsv(tmp_path / "a.tsv", *lines, end=end))
    assert split.labels.tolist() == list(EXPRESSIONS.values())
    assert [decode(split.example(i)) for i in range(len(split))] == list(
        EXPRESSIONS
    )


MALFORMED = {
    "[MIN 1 2 ]": "expected 2 columns, found 1",
    "": "expected 2 columns, found 1",
    "[MIN 1 2 ]\t1\t1": "expected 2 columns, found 3",
    "[MIN 1 x ]\t1": "unknown token 'x'",
    "[MIN 1 2\t1": "1 brackets are not closed",
    "1 2 ]\t1": "nothing open",
    "[MIN 1 2 ]\t10": "label '10' is not one of 0..9",
    "[MIN 1 2 ]\t": "label '' is not one of 0..9",
    "[MIN 1 2 ]\t-1": "label '-1' is not one of 0..9",
    "[MIN 1 2 ]\t2": "label is 2 but the value is 1",
}


@pytest.mark.parametrize("line,problem", MALFORMED.items())
def test_malformed_line_is_reported(tmp_path, line, problem):
    path = write_tsv(tmp_path / "bad.tsv", "[MAX 1 2 ]\t2", line)
    with pytest.raises(ValueError, match="bad.tsv, line 3: ") as caught:
        read_tsv(path)
    assert problem in str(caught.value)


def test_malformed_lines_are_skipped_only_on_request(tmp_path):
    path = write_tsv(
        tmp_path / "bad.tsv", "[MAX 1 2 ]\t2", *MALFORMED, "[MIN 1 2 ]\t1"
    )
    with pytest.warns(UserWarning) as caught:
        split = read_tsv(path, skip_malformed=True)
    assert split.labels.tolist() == [2, 1]
    [warning] = caught
    message = str(warning.message)
    assert "bad.tsv: skipped 10 malformed of 12 lines" in message
    assert "line 3: expected 2 columns" in message
    assert "line 7: 1 brackets" in message and "line 8" not in message


def test_unverified_reading_still_checks_tokens_and_brackets(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", "[MIN 1 2 ]\t2")
    assert read_tsv(path, verify=False).labels.tolist() == [2]
    path = write_tsv(tmp_path / "a.tsv", "[MIN 1 2 ] ]\t2")
    with pytest.raises(ValueError, match="1 brackets are opened, 2 are closed"):
        read_tsv(path, verify=False)


def test_bytes_that_are_not_text_are_reported(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"Source\tTarget\n[MIN 1 \xff ]\t1\n")
    with pytest.raises(ValueError, match="line 2: unknown token"):
        read_tsv(path)


def test_files_without_header_or_examples_are_errors(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", header="[MIN 1 2 ]\t1")
    with pytest.raises(ValueError, match="line 1: expected the header"):
        read_tsv(path, skip_malformed=True)
    path = write_tsv(tmp_path / "a.tsv")
    with pytest.raises(ValueError, match="holds no examples"):
        read_tsv(path)


def test_reference_lines():
    train = make_split(
        ("[MIN 0 1 ]", 0),
        ("[MIN 0 2 ]", 0),
        ("[MAX 9 1 ]", 9),
        ("[SM 0 0 ]", 0),
    )
    # The last root does not occur in train: the majority answers for it.
    test = make_split(
        ("[MIN 0 3 ]", 0),
        ("[MAX 9 2 ]", 9),
        ("[MAX 1 2 ]", 2),
        ("[MED 0 0 ]", 0),
    )
    assert reference_lines(train, test) == {
        "majority": 0.5,
        "root_operator": 0.75,
    }


def test_accuracy_per_operator():
    split = make_split(
        ("[MAX 9 1 ]", 9), ("[MIN 0 1 ]", 0), ("[MIN 1 1 ]", 1), ("3", 3)
    )
    accuracies = accuracy_per_operator(split, [9, 0, 0, 0])
    assert accuracies == {"3": (0.0, 1), "[MIN": (0.5, 2), "[MAX": (1.0, 1)}
    with pytest.raises(ValueError, match="predictions.shape=\\(3,\\)"):
        accuracy_per_operator(split, [0, 0, 0])
