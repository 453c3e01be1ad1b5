"""What the readers of labelled examples share: classes, blocks, complaints."""

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from luna_tf.data.lra.splits import ImageSplit, TextSplit

SplitT = TypeVar("SplitT", bound=TextSplit | ImageSplit)

_PROBLEMS_SHOWN = 5


class LabelledSplits(dict[str, SplitT]):
    """The splits of a data set, by name, with the names of its classes.

    Args:
        splits: `"train"`, `"test"` and, where there is one, `"validation"`.
        class_names: class `i` is `class_names[i]`.

    Raises:
        ValueError: a label is not the number of a class.

    Example:

    >>> from luna_tf.data.lra import Sequences, TextSplit
    >>> texts = TextSplit((Sequences.from_rows([b"good"]),), [1])
    >>> splits = LabelledSplits({"train": texts}, ["neg", "pos"])
    >>> splits.class_names[splits["train"].labels[0]]
    'pos'
    """

    def __init__(
        self, splits: Mapping[str, SplitT], class_names: Iterable[str]
    ) -> None:
        super().__init__(splits)
        self.class_names = tuple(class_names)
        for name, split in splits.items():
            wrong = (split.labels < 0) | (split.labels >= len(self.class_names))
            if wrong.any():
                place = int(wrong.argmax())
                raise ValueError(
                    f"labels of {name!r} must be in 0.."
                    f"{len(self.class_names) - 1}. Received: "
                    f"{split.labels[place]} at example {place}."
                )


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct labels: numbers by value, words by spelling.

    Example:

    >>> sorted_classes(["10", "9", "10"])
    ('9', '10')
    """
    names = set(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def natural_order(name: str) -> list[Any]:
    """Sorts names with numbers in them by value: 9_1.txt before 10_4.txt.

    Example:

    >>> sorted(["10.png", "9.png"], key=natural_order)
    ['9.png', '10.png']
    """
    parts = re.split("([0-9]+)", name)
    # Every other part is a number.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def blocks(
    labels: np.ndarray, validation: float, test: float
) -> dict[str, np.ndarray]:
    """Splits examples by contiguous blocks of each class.

    Neighbours in a file are often about the same thing (in the IMDB reviews,
    the same film), so a random split would put near-duplicates on both sides.
    Of a class with n examples, in their order, the last `floor(n * test)` are
    for test, the `floor(n * validation)` before them for validation, and the
    rest for training. The shares are the decimals that they are written as:
    0.29 of 100 is 29.

    Args:
        labels: integers `(examples,)`.
        validation: its share; 0 makes no such split.
        test: its share; 0 makes no such split.

    Returns:
        Indices (int64, ascending) of `"train"`, `"validation"` and `"test"`.

    Raises:
        ValueError: as `check_fractions`, or there are too few examples for a
            split that was asked for.

    Example:

    >>> import numpy as np
    >>> found = blocks(np.repeat([0, 1], 12_500), 0.1, 0.2)
    >>> {name: len(indices) for name, indices in found.items()}
    {'train': 17500, 'validation': 2500, 'test': 5000}
    """
    check_fractions(validation, test)
    fractions = {"validation": validation, "test": test}
    exact = [Fraction(repr(float(f))) for f in fractions.values()]
    parts = np.zeros(len(labels), np.int8)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        held_out = [int(len(places) * f) for f in exact]
        sizes = [len(places) - sum(held_out), *held_out]
        parts[places] = np.repeat(np.arange(3, dtype=np.int8), sizes)
    indices = {"train": np.flatnonzero(parts == 0)}
    for number, (name, fraction) in enumerate(fractions.items(), start=1):
        if fraction:
            indices[name] = np.flatnonzero(parts == number)
            if not len(indices[name]):
                raise ValueError(
                    f"{name}_fraction={fraction} leaves no example for "
                    f"{name}: no class has enough of the {len(labels)} "
                    "examples."
                )
    return indices


def check_fractions(validation: float, test: float) -> None:
    """Refuses shares of a data set that leave nothing for training.

    Args:
        validation: named `validation_fraction` in messages.
        test: named `test_fraction` in messages.

    Raises:
        ValueError: one is negative or not a number, or the sum is 1 or more.

    Example:

    >>> check_fractions(0.1, 0.2)
    >>> check_fractions(0.5, 0.5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: validation_fraction and test_fraction must be at least 0, ...
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            "validation_fraction and test_fraction must be at least 0, and "
            "below 1 together. Received: "
            f"validation_fraction={validation}, test_fraction={test}."
        )


class Problems:
    """What is wrong in a file: an error, or a warning that counts it all.

    Args:
        path: the file, as messages name it.
        skip_malformed: collect problems instead of raising the first.

    Example:

    >>> import warnings
    >>> problems = Problems("reviews.csv", skip_malformed=True)
    >>> problems.add("line 7", "empty text")
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     problems.warn(num_kept=99)
    >>> print(said[0].message)
    reviews.csv: skipped 1 malformed of 100 examples (line 7: empty text).
    """

    def __init__(
        self, path: str | os.PathLike, skip_malformed: bool = False
    ) -> None:
        self._path = os.fspath(path)
        self._skip_malformed = skip_malformed
        self._problems: list[str] = []

    def add(self, place: str, problem: str) -> None:
        """Raises a ValueError for the example at `place`, or skips it."""
        if not self._skip_malformed:
            raise ValueError(
                f"{self._path}, {place}: {problem}. "
                "skip_malformed=True leaves such examples out."
            )
        self._problems.append(f"{place}: {problem}")

    def warn(self, num_kept: int, stacklevel: int = 2) -> None:
        """Says in one warning what was skipped, if anything.

        Args:
            num_kept: how many examples were good.
            stacklevel: as in `warnings.warn`; 2 is the caller's line.

        Raises:
            ValueError: no example was good.
        """
        shown = "; ".join(self._problems[:_PROBLEMS_SHOWN])
        if len(self._problems) > _PROBLEMS_SHOWN:
            shown += "; ..."
        if not num_kept:
            raise ValueError(
                f"{self._path} holds no examples"
                + (f" that can be used ({shown})." if shown else ".")
            )
        if self._problems:
            warnings.warn(
                f"{self._path}: skipped {len(self._problems)} malformed of "
                f"{len(self._problems) + num_kept} examples ({shown}).",
                stacklevel=stacklevel + 1,
            )
