"""Lists of token ids of different lengths, as two arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenLists:
    """Token ids of many sentences, one after the other.

    Args:
        values: int32 `(tokens,)`, ids of all sentences.
        row_splits: int64 `(sentences + 1,)`; sentence `i` has the values from
            `row_splits[i]` to before `row_splits[i + 1]`.

    Raises:
        ValueError: `row_splits` does not divide `values`.

    Example:

    >>> tokens = TokenLists.of([[5, 6], [], [7]])
    >>> len(tokens), tokens.lengths.tolist(), tokens[0].tolist()
    (3, [2, 0, 1], [5, 6])
    """

    values: np.ndarray
    row_splits: np.ndarray

    def __post_init__(self) -> None:
        splits = self.row_splits
        if (
            splits.ndim != 1
            or not splits.size
            or splits[0] != 0
            or splits[-1] != len(self.values)
            or np.any(np.diff(splits) < 0)
        ):
            raise ValueError(
                "row_splits must rise from 0 to the number of values "
                f"({len(self.values)}). Received: {splits}"
            )

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> TokenLists:
        """Puts lists one after the other."""
        arrays = [np.asarray(ids, np.int32) for ids in lists]
        lengths = [len(array) for array in arrays]
        values = np.concatenate([np.empty(0, np.int32), *arrays])
        return cls(values, np.cumsum([0, *lengths], dtype=np.int64))

    @classmethod
    def join(cls, parts: Sequence[TokenLists]) -> TokenLists:
        """Puts the sentences of several together."""
        lengths = np.concatenate([[0], *(part.lengths for part in parts)])
        values = [np.empty(0, np.int32), *(part.values for part in parts)]
        return cls(np.concatenate(values), np.cumsum(lengths, dtype=np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """int64 `(sentences,)`: tokens of each sentence."""
        return np.diff(self.row_splits)

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        start, end = self.row_splits[index], self.row_splits[index + 1]
        return self.values[start:end]
