"""Examples in memory: byte sequences end to end, or pictures."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Byte sequences of any lengths, indexed from 0.

    Args:
        tokens: uint8, all sequences end to end.
        row_splits: int64, one more than there are sequences; sequence `i` is
            `tokens[row_splits[i]:row_splits[i + 1]]`.

    Raises:
        ValueError: the two arrays do not fit each other, or a sequence is
            empty.

    Example:

    >>> texts = Sequences.from_rows([b"packed", b"unpacked"])
    >>> len(texts), texts.example(1).tobytes()
    (2, b'unpacked')
    """

    tokens: np.ndarray
    row_splits: np.ndarray

    def __post_init__(self) -> None:
        _convert(self, tokens=np.uint8, row_splits=np.int64)
        ends = self.row_splits
        if (
            ends.ndim != 1
            or len(ends) == 0
            or ends[0] != 0
            or ends[-1] != len(self.tokens)
            or np.any(np.diff(ends) < 1)
        ):
            raise ValueError(
                "row_splits must rise from 0 to the number of tokens. "
                f"Received: {len(self.tokens)} tokens, row_splits={ends}."
            )

    @classmethod
    def from_rows(cls, rows: Sequence[bytes | np.ndarray]) -> "Sequences":
        """Returns the sequences whose i-th is `rows[i]`."""
        return cls(*join_rows(rows))

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per sequence (int64)."""
        return np.diff(self.row_splits)

    def example(self, i: int) -> np.ndarray:
        """Returns sequence `i` (uint8); IndexError beyond the end."""
        i = range(len(self))[i]
        return self.tokens[self.row_splits[i] : self.row_splits[i + 1]]


@dataclasses.dataclass(frozen=True, eq=False)
class TextSplit:
    """Labelled examples of one or more documents each.

    Args:
        documents: one `Sequences` for every document of an example: one for
            Text, two for Retrieval.
        labels: int32 `(examples,)`.

    Raises:
        ValueError: the parts have different numbers of examples.

    Example:

    >>> split = TextSplit((Sequences.from_rows([b"good", b"bad"]),), [1, 0])
    >>> len(split), split.labels
    (2, array([1, 0], dtype=int32))
    """

    documents: tuple[Sequences, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        _convert(self, labels=np.int32)
        counts = [len(part) for part in self.documents]
        if set(counts) != {len(self.labels)}:
            raise ValueError(
                "every document needs as many sequences as there are labels. "
                f"Received: {counts} sequences, {len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSplit:
    """Labelled grey pictures of one size.

    Args:
        pixels: uint8 `(examples, height, width)`.
        labels: int32 `(examples,)`.

    Raises:
        ValueError: the arrays do not fit each other.

    Example:

    >>> import numpy as np
    >>> split = ImageSplit(np.zeros((2, 32, 32)), [0, 1])
    >>> len(split), split.pixels.dtype
    (2, dtype('uint8'))
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        _convert(self, pixels=np.uint8, labels=np.int32)
        if self.pixels.ndim != 3 or len(self.pixels) != len(self.labels):
            raise ValueError(
                "pixels must have shape (examples, height, width), with a "
                f"label per example. Received: {self.pixels.shape}, "
                f"{len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.labels)


def join_rows(
    rows: Sequence[bytes | np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Lays sequences end to end.

    Args:
        rows: bytes or uint8 arrays.

    Returns:
        `tokens`, uint8, and `row_splits`, int64, of `Sequences`.
    """
    row_splits = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=row_splits[1:])
    joined = b"".join(bytes(row) for row in rows)
    return np.frombuffer(joined, np.uint8), row_splits


def _convert(instance: object, **dtypes: type) -> None:
    for name, dtype in dtypes.items():
        array: np.ndarray = np.asarray(getattr(instance, name), dtype)
        object.__setattr__(instance, name, array)
