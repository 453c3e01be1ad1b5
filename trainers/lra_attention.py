"""Pictures of what a trained Luna model attends to, for a run's report."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training import files

from . import lra_data, lra_tasks

if TYPE_CHECKING:
    import keras

    from .lra_recipe import LRARecipe

PICTURE = "attention.png"
TOKENS = "attention.json"
_EXAMPLES = 4
_SLOTS = 4
_MOST_TOKENS = 400
_WORD = re.compile(rb"\s*\S+\s*")


def write(
    network: keras.Model,
    recipe: LRARecipe,
    test: Any,
    predictions: np.ndarray,
    folder: str,
) -> None:
    """Writes the attention of the last block on a few test examples.

    Args:
        network: the trained model.
        recipe: its recipe; without Luna's attention nothing is written.
        test: the test split.
        predictions: its answers to it.
        folder: the model_dir.
    """
    if recipe.attention != "luna":
        return
    chosen = _choose(test.labels, predictions)
    source = lra_data.make_source(test, recipe)
    batch = source.gather(chosen)
    inputs = batch[lra_data.input_name(recipe)]
    pack, unpack = (
        np.asarray(scores, np.float64).mean(axis=1)  # over heads
        for scores in network.attention_scores(inputs)[-1]
    )
    if lra_tasks.TASKS[recipe.task].picture is not None:
        _write_picture(recipe, test, predictions, chosen, pack, folder)
    else:
        _write_tokens(recipe, test, predictions, chosen, pack, unpack, folder)


def _choose(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Right answers first, of as many classes as there are."""
    right = np.flatnonzero(np.asarray(labels) == predictions)
    _, firsts = np.unique(np.asarray(labels)[right], return_index=True)
    ordered = [*right[firsts], *right, *range(len(labels))]
    return np.array(list(dict.fromkeys(ordered))[:_EXAMPLES], np.int64)


def _write_picture(
    recipe: LRARecipe,
    test: Any,
    predictions: np.ndarray,
    chosen: np.ndarray,
    pack: np.ndarray,
    folder: str,
) -> None:
    from luna_tf.visualize import attention_over_images

    images = test.pixels[chosen]
    size = images[0].size
    marks = 0 if recipe.pixels == "values" else int(recipe.add_cls)
    seen = pack[:, :, marks : marks + size]
    # Rows may be cut before the last pixel.
    missing = size - seen.shape[-1]
    weights = np.pad(seen, ((0, 0), (0, 0), (0, missing)))
    titles = [f"label {test.labels[i]}, says {predictions[i]}" for i in chosen]
    figure = attention_over_images(images, weights, titles)
    files.write_by(files.join(folder, PICTURE), figure.savefig)


def _write_tokens(
    recipe: LRARecipe,
    test: Any,
    predictions: np.ndarray,
    chosen: np.ndarray,
    pack: np.ndarray,
    unpack: np.ndarray,
    folder: str,
) -> None:
    from luna_tf.visualize.attention import perplexity

    examples = []
    documents = lra_data.documents(test)
    for document, sequences in enumerate(documents):
        for row, i in enumerate(chosen):
            # Both documents of a pair went through the encoder as one batch.
            at = document * len(chosen) + row
            content = sequences.example(i)
            slots = pack[at][:, int(recipe.add_cls) :][:, : len(content)]
            tokens, ends = _tokens(recipe, content[: slots.shape[1]])
            starts = [0, *ends[:-1]]
            share = np.diff([0, *ends]) / ends[-1]
            slots = np.add.reduceat(slots, starts, axis=1) / share
            reading = _reading(recipe, unpack[at], len(content))
            spread = perplexity(slots * share)
            order = np.argsort(spread, kind="stable")[:_SLOTS]
            examples.append(
                {
                    "document": document,
                    "label": int(test.labels[i]),
                    "prediction": int(predictions[i]),
                    "tokens": tokens[:_MOST_TOKENS],
                    "lifts": _rounded(reading @ slots),
                    "slots": {int(s): _rounded(slots[s]) for s in order},
                }
            )
    text = json.dumps({"examples": examples}, ensure_ascii=False)
    files.write_text(files.join(folder, TOKENS), text + "\n")


def _reading(recipe: LRARecipe, unpack: np.ndarray, tokens: int) -> np.ndarray:
    """How much of each slot is in the vector that is classified."""
    if recipe.pooling == "packed":
        return np.full(unpack.shape[-1], 1 / unpack.shape[-1])
    if recipe.pooling == "cls":
        return unpack[0]
    real = tokens + recipe.add_cls + recipe.add_eos
    return unpack[:real].mean(axis=0)  # padding reads nothing of meaning


def _rounded(lifts: np.ndarray) -> list[float]:
    return [float(f"{lift:.3g}") for lift in lifts[:_MOST_TOKENS]]


def _tokens(
    recipe: LRARecipe, content: np.ndarray
) -> tuple[list[str], list[int]]:
    """Readable pieces of a sequence, and where in it each ends."""
    if recipe.task == "listops":
        from luna_tf.data.lra import listops

        words = [f"{listops.VOCABULARY[i]} " for i in content]
        return words, list(range(1, len(words) + 1))
    raw = content.tobytes()
    pieces = [match.group() for match in _WORD.finditer(raw)] or [raw]
    ends = np.cumsum([len(piece) for piece in pieces])
    texts = [piece.decode("utf-8", errors="replace") for piece in pieces]
    return texts, ends.tolist()
