"""Sentences of held-out text with a hidden word, for a model to fill in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

# Tokens that are shown on each side of the blank.
_SHOWN = 14


@dataclasses.dataclass(frozen=True)
class Blank:
    """One hidden word.

    Args:
        before, after: the text around it.
        hidden: the word that was there.
        guesses: likeliest first, each with its probability.
    """

    before: str
    after: str
    hidden: str
    guesses: list[tuple[str, float]]


def fill(
    network: keras.Model,
    tokenizer: Any,
    table: np.ndarray,
    count: int = 3,
    top: int = 3,
    seed: int = 0,
) -> list[Blank]:
    """Hides one token in each of some rows and lets the model guess.

    Args:
        network: `LunaMaskedLM`.
        tokenizer: of the rows.
        table: integers `(rows, length)`.
        count: rows to take, evenly.
        top: guesses of each.
        seed: of the places.

    Returns:
        `count` blanks, or fewer where there are not so many rows.
    """
    special = tokenizer.unguessable_token_ids
    rng = np.random.default_rng(seed)
    blanks = []
    for row, places in _rows(tokenizer, table, count):
        place = int(rng.choice(places))
        hidden = row.copy()
        hidden[place] = tokenizer.mask_token_id
        logits = network(
            {
                "token_ids": hidden[None],
                "padding_mask": (row != tokenizer.pad_token_id)[None].astype(
                    "int32"
                ),
                "mask_positions": np.array([[place]], "int32"),
            },
            training=False,
        )
        values = np.asarray(logits)[0, 0].astype("float64")
        values[special] = -np.inf
        shares = np.exp(values - values.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[:top]
        before = row[max(0, place - _SHOWN) : place]
        after = row[place + 1 : place + 1 + _SHOWN]
        blanks.append(
            Blank(
                _text(tokenizer, before) + " ",
                " " + _text(tokenizer, after),
                _text(tokenizer, row[place : place + 1]),
                [
                    (_text(tokenizer, np.array([i])), float(shares[i]))
                    for i in best
                ],
            )
        )
    return blanks


def _rows(
    tokenizer: Any, table: np.ndarray, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows from all over a table, and the places that may be hidden."""
    starts = tokenizer.word_starts()
    sizes = tokenizer.token_bytes()
    order = np.argsort(np.arange(len(table)) * count % max(len(table), 1))
    words: list[tuple[np.ndarray, np.ndarray]] = []
    others: list[tuple[np.ndarray, np.ndarray]] = []
    for row in table[order].astype("int32"):
        # Whole words of some length: a comma says little of a model.
        next_starts = np.append(starts[row[1:]], True)
        places = np.flatnonzero(starts[row] & next_starts & (sizes[row] >= 4))
        if len(places):
            words.append((row, places))
        elif len(others) < count and sizes[row].any():
            # Bytes, say, are no words.
            others.append((row, np.flatnonzero(sizes[row])))
        if len(words) == count:
            break
    return (words + others)[:count]


def _text(tokenizer: Any, ids: np.ndarray) -> str:
    real = [int(i) for i in ids if i not in tokenizer.special_token_ids]
    if not real:
        return ""
    text = tokenizer.detokenize([real])
    text = text[0] if not isinstance(text, (str, bytes)) else text
    if hasattr(text, "numpy"):
        text = text.numpy()
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return " ".join(str(text).split())
