"""ListOps as a task: splits in memory, the released files, reference lines.

An example is an expression of `listops_expressions`, whose names are also to
be had here; the task is to name its value, one of ten classes.
"""

import dataclasses
import os
import warnings
from collections.abc import Sequence

import numpy as np

from luna_tf.data.lra.listops_expressions import (
    CLOSE_ID,
    CLS_ID,
    EOS_ID,
    FIRST_OPERATOR_ID,
    OPERATORS,
    PAD_ID,
    VOCABULARY,
    decode,
    encode,
    evaluate,
    to_tsv_source,
)
from luna_tf.data.lra.splits import Sequences, join_rows

__all__ = [
    "CLS_ID",
    "EOS_ID",
    "NUM_CLASSES",
    "OPERATORS",
    "PAD_ID",
    "VOCABULARY",
    "Split",
    "accuracy_per_operator",
    "decode",
    "encode",
    "evaluate",
    "read_tsv",
    "reference_lines",
    "to_tsv_source",
]

NUM_CLASSES = 10
_HEADER = "Source\tTarget"
_PLACES_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Sequences):
    """Expressions in memory, one byte per token, indexed from 0.

    Args:
        tokens: uint8, the ids of all examples end to end, without `<cls>`,
            `<eos>` and `<pad>`.
        row_splits: int64, one more than there are examples; example `i` is
            `tokens[row_splits[i]:row_splits[i + 1]]`.
        labels: uint8, the value of each example.

    Raises:
        ValueError: the three arrays do not fit each other.

    Example:

    >>> from luna_tf.data.lra.listops_expressions import encode
    >>> split = Split(encode("[MAX 4 3 ] 7"), [0, 4, 5], labels=[4, 7])
    >>> len(split)
    2
    >>> split.padded([1], 4)  # <cls> 7 <eos> <pad>
    array([[ 1, 10,  2,  0]], dtype=int32)
    """

    labels: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = np.asarray(self.labels, np.uint8)
        object.__setattr__(self, "labels", labels)
        if labels.shape != (len(self.row_splits) - 1,):
            raise ValueError(
                "row_splits must have one entry more than there are labels. "
                f"Received: {len(labels)} labels, "
                f"row_splits={self.row_splits}."
            )

    @classmethod
    def from_rows(  # type: ignore[override]
        cls, rows: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray
    ) -> "Split":
        """Returns the split whose i-th example is the ids `rows[i]`."""
        return cls(*join_rows(rows), np.asarray(labels))

    def padded(
        self,
        indices: Sequence[int] | np.ndarray,
        sequence_length: int,
        add_cls: bool = True,
        add_eos: bool = True,
    ) -> np.ndarray:
        """Returns examples as the rows of one array.

        Args:
            indices: which examples, in which order.
            sequence_length: the length of all rows. Longer examples are cut
                to their first `sequence_length` ids (as the official code
                does), `<cls>` counted; the cut loses `<eos>` first. Shorter
                ones are padded with `PAD_ID` on the right.
            add_cls: start each row with `<cls>`.
            add_eos: put `<eos>` after the last token of each row.

        Returns:
            An int32 array of shape `(len(indices), sequence_length)`.

        Raises:
            IndexError: there is no such example.
            ValueError: `sequence_length` is below 1.
        """
        if sequence_length < 1:
            raise ValueError(
                "sequence_length must be at least 1. "
                f"Received: sequence_length={sequence_length}."
            )
        indices = np.asarray(indices, np.int64)
        lengths = self.lengths[indices][:, None]
        starts = self.row_splits[:-1][indices][:, None]
        columns = np.arange(sequence_length) - int(add_cls)
        inside = (columns >= 0) & (columns < lengths)
        rows = np.full(inside.shape, PAD_ID, np.int32)
        rows[inside] = self.tokens[(starts + columns)[inside]]
        if add_eos:
            rows[columns == lengths] = EOS_ID
        if add_cls:
            rows[:, 0] = CLS_ID
        return rows

    def root_operators(self) -> np.ndarray:
        """Returns the id of each example's first token.

        That is its outermost operator; a lone digit is its own.
        """
        return self.tokens[self.row_splits[:-1]]


def read_tsv(
    path: str | os.PathLike, skip_malformed: bool = False, verify: bool = True
) -> Split:
    """Reads one file of the Long Range Arena release.

    The first line is `Source<TAB>Target`; every other line holds an
    expression, with or without parentheses, and its value.

    Args:
        path: the file.
        skip_malformed: leave malformed lines out, and say so in one warning
            that counts them and names the first few, instead of raising.
        verify: also compute every expression, so that broken nesting and
            wrong values are found. Without it only tokens, columns, the range
            of the label and the number of brackets are checked.

    Returns:
        The examples in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is malformed (the message names file, line and
            problem), or the file has no header or no examples.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.lra import read_tsv
    >>> text = "Source\\tTarget\\n( ( ( [MAX 4 ) 3 ) ] )\\t4\\n7\\t7\\n"
    >>> _ = Path("basic_val.tsv").write_text(text)
    >>> read_tsv("basic_val.tsv").labels
    array([4, 7], dtype=uint8)
    """
    rows: list[np.ndarray] = []
    labels: list[int] = []
    problems: list[str] = []
    # Bytes that are not UTF-8 become unknown tokens, reported like others.
    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline().rstrip("\n")
        if header != _HEADER:
            raise ValueError(
                f"{os.fspath(path)}, line 1: expected the header {_HEADER!r}, "
                f"found {header[:80]!r}."
            )
        for number, line in enumerate(file, start=2):
            try:
                ids, label = _parse_line(line.rstrip("\n"), verify)
            except ValueError as error:
                if not skip_malformed:
                    raise ValueError(
                        f"{os.fspath(path)}, line {number}: {error}."
                    ) from None
                problems.append(f"line {number}: {error}")
            else:
                rows.append(ids)
                labels.append(label)
    if problems:
        shown = "; ".join(problems[:_PLACES_SHOWN])
        more = "; ..." if len(problems) > _PLACES_SHOWN else ""
        warnings.warn(
            f"{os.fspath(path)}: skipped {len(problems)} malformed of "
            f"{len(problems) + len(rows)} lines ({shown}{more}).",
            stacklevel=2,
        )
    if not rows:
        raise ValueError(f"{os.fspath(path)} holds no examples.")
    return Split.from_rows(rows, labels)


def _parse_line(line: str, verify: bool) -> tuple[np.ndarray, int]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"expected 2 columns, found {len(columns)}")
    source, target = columns
    if len(target) != 1 or target not in "0123456789":
        raise ValueError(f"label {target[:80]!r} is not one of 0..9")
    ids, label = encode(source), int(target)
    if verify:
        value = evaluate(ids)
        if value != label:
            raise ValueError(f"label is {label} but the value is {value}")
    else:
        num_open = np.count_nonzero(
            (ids >= FIRST_OPERATOR_ID) & (ids < CLOSE_ID)
        )
        num_closed = np.count_nonzero(ids == CLOSE_ID)
        if not ids.size or num_open != num_closed:
            raise ValueError(
                f"{num_open} brackets are opened, {num_closed} are closed"
            )
    return ids, label


def reference_lines(train: Split, test: Split) -> dict[str, float]:
    """Returns what can be scored on `test` without reading the arguments.

    Args:
        train: where the answers come from.
        test: where they are scored.

    Returns:
        `majority`, the accuracy of the most frequent label of `train`, and
        `root_operator`, that of the most frequent label per outermost
        operator. On the standard set the latter is 0.37: a model that scores
        no better need not have computed anything.

    Example:

    >>> from luna_tf.data.lra.listops_expressions import encode
    >>> texts = "[MAX 4 3 ]", "[MIN 4 3 ]", "[MIN 3 ]"
    >>> train = Split.from_rows([encode(text) for text in texts], [4, 3, 3])
    >>> test = Split.from_rows([encode(text) for text in texts[:2]], [4, 3])
    >>> reference_lines(train, test)
    {'majority': 0.5, 'root_operator': 1.0}
    """
    counts = np.zeros((len(VOCABULARY), NUM_CLASSES), np.int64)
    np.add.at(counts, (train.root_operators(), train.labels), 1)
    majority = counts.sum(axis=0).argmax()
    answers = np.where(counts.any(axis=1), counts.argmax(axis=1), majority)
    guesses = answers[test.root_operators()]
    return {
        "majority": float(np.mean(test.labels == majority)),
        "root_operator": float(np.mean(test.labels == guesses)),
    }


def accuracy_per_operator(
    split: Split, predictions: Sequence[int] | np.ndarray
) -> dict[str, tuple[float, int]]:
    """Returns the accuracy for each outermost operator.

    Args:
        split: the examples.
        predictions: one label per example.

    Returns:
        For each first token that occurs its accuracy and number of examples,
        such as `{"[MIN": (0.5, 520), ...}`, in the order of `VOCABULARY`.

    Raises:
        ValueError: the number of predictions is wrong.

    Example:

    >>> from luna_tf.data.lra.listops_expressions import encode
    >>> texts = "[MAX 4 3 ]", "[MIN 4 3 ]", "[MIN 3 5 ]"
    >>> split = Split.from_rows([encode(text) for text in texts], [4, 3, 3])
    >>> accuracy_per_operator(split, [4, 3, 5])
    {'[MIN': (0.5, 2), '[MAX': (1.0, 1)}
    """
    predictions = np.asarray(predictions)
    if predictions.shape != (len(split),):
        raise ValueError(
            f"predictions must have shape ({len(split)},), one label per "
            f"example. Received: predictions.shape={predictions.shape}."
        )
    correct = predictions == split.labels
    roots = split.root_operators()
    return {
        VOCABULARY[root]: (
            float(correct[roots == root].mean()),
            int(np.count_nonzero(roots == root)),
        )
        for root in np.unique(roots)
    }
