"""Byte-level document matching: pairs of documents, as AAN was released.

Long Range Arena's Retrieval task (Tay et al., 2021, section 2.2.3) asks whether
one of two papers of the ACL Anthology Network (Radev et al., 2013) cites the
other. The papers are their authors' or publishers': use them for research, do
not pass them on. `man_pages` makes free data of the same kind and layout.
"""

import os
from pathlib import Path

import numpy as np

from luna_tf.data.lra.labelled import LabelledSplits, Problems
from luna_tf.data.lra.splits import Sequences, TextSplit

FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
CLASSES = ("unrelated", "cited")

_LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}
_NUM_COLUMNS = 5


def load_retrieval(
    path: str | os.PathLike,
    max_bytes: int = 10_000,
    skip_malformed: bool = False,
) -> LabelledSplits[TextSplit]:
    """Reads pairs of documents, as bytes.

    Args:
        path: the folder of the three files of `FILES`, in the release
            `lra_release/lra_release/tsv_data`. They have no header, and lines
            of five columns separated by tabs, where quotes mean nothing:
            label (0.0 or 1.0), two names, two texts.
        max_bytes: longer documents are cut to their first so many bytes, by
            default as in the official code.
        skip_malformed: leave malformed lines out, and say so in one warning
            per file, instead of raising.

    Returns:
        The splits `"train"`, `"validation"` and `"test"` of two documents per
        example. Class 1 is that one cites the other.

    Raises:
        FileNotFoundError: data are missing; the message says what was looked
            for, where to get it and how it should lie on disk.
        ValueError: a line is malformed (the message names file, line and
            problem), or `max_bytes` is below 1.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.lra import load_retrieval
    >>> for part in ("train", "eval", "test"):
    ...     row = "1.0\\tpaper1\\tpaper2\\tOne text.\\tAnother text.\\n"
    ...     _ = Path(f"new_aan_pairs.{part}.tsv").write_text(row)
    >>> splits = load_retrieval(".")
    >>> first, second = splits["test"].documents
    >>> second.example(0).tobytes(), splits.class_names
    (b'Another text.', ('unrelated', 'cited'))
    """
    if max_bytes < 1:
        raise ValueError(
            f"max_bytes must be at least 1. Received: max_bytes={max_bytes}."
        )
    folder = Path(path).expanduser()
    files = {name: folder / file for name, file in FILES.items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file.name} in {folder.absolute()}. The folder "
                f"must hold {', '.join(FILES.values())}, as does "
                "lra_release/lra_release/tsv_data of the unpacked Long Range "
                "Arena release (github.com/google-research/long-range-arena). "
                "python -m luna_tf.data.lra.man_pages makes such files of "
                "manual pages."
            )
    return LabelledSplits(
        {
            name: read_pairs(file, max_bytes, skip_malformed)
            for name, file in files.items()
        },
        CLASSES,
    )


def read_pairs(
    path: str | os.PathLike,
    max_bytes: int = 10_000,
    skip_malformed: bool = False,
) -> TextSplit:
    """Reads one file of pairs, as described in `load_retrieval`.

    Args:
        path: the file.
        max_bytes, skip_malformed: see `load_retrieval`.

    Returns:
        The examples in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is malformed (the message names file, line and
            problem), or there are no examples.

    Example:

    >>> from pathlib import Path
    >>> rows = ["1.0\\ta\\tb\\tOne text.\\tTwo.", "0.0\\ta\\tc\\tOne.\\tNo."]
    >>> _ = Path("new_aan_pairs.test.tsv").write_text("\\n".join(rows))
    >>> read_pairs("new_aan_pairs.test.tsv").labels
    array([1, 0], dtype=int32)
    """
    problems = Problems(path, skip_malformed)
    labels: list[int] = []
    # A training set has gigabytes: it is laid end to end as it comes.
    tokens = bytearray(), bytearray()
    ends: tuple[list[int], list[int]] = [0], [0]
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                label, *texts = _parse_line(line.rstrip(b"\r\n"))
            except ValueError as error:
                problems.add(f"line {number}", str(error))
                continue
            labels.append(label)
            for text, document, document_ends in zip(
                texts, tokens, ends, strict=True
            ):
                document += text[:max_bytes]
                document_ends.append(len(document))
    problems.warn(len(labels))
    documents = tuple(
        Sequences(np.frombuffer(document, np.uint8), np.array(document_ends))
        for document, document_ends in zip(tokens, ends, strict=True)
    )
    return TextSplit(documents, np.array(labels))


def _parse_line(line: bytes) -> tuple[int, bytes, bytes]:
    columns = line.split(b"\t")
    if len(columns) != _NUM_COLUMNS:
        raise ValueError(f"{len(columns)} columns, not {_NUM_COLUMNS}")
    label, _, _, first, second = columns
    if label not in _LABELS:
        shown = label[:80].decode(errors="replace")
        raise ValueError(f"label {shown!r} is not 0.0 or 1.0")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} of the line is not UTF-8 ({error.reason})"
        ) from None
    for name, text in (("first", first), ("second", second)):
        if not text.strip():
            raise ValueError(f"the {name} text is empty")
    return _LABELS[label], first, second
