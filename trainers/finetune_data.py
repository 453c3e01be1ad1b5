"""Labelled texts of a fine-tuning: tables, classes, token rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training.recipes import RecipeError

if TYPE_CHECKING:
    from luna_tf.data.tables import Table
    from luna_tf.training.sources import IndexedSource

    from .finetune_recipe import FinetuneRecipe

KINDS = ("train", "validation", "test")
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Texts:
    """One split.

    Args:
        texts: UTF-8.
        pairs: the second text of each, or nothing.
        labels: int32 classes, or float32 numbers.
    """

    texts: list[bytes]
    pairs: list[bytes]
    labels: np.ndarray

    def part(self, indices: np.ndarray) -> Texts:
        """The examples of some indices."""
        return Texts(
            [self.texts[i] for i in indices],
            [self.pairs[i] for i in indices] if self.pairs else [],
            self.labels[indices],
        )


@dataclasses.dataclass(frozen=True)
class Examples:
    """All splits, and the names of the classes, none in a regression."""

    splits: dict[str, Texts]
    class_names: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Classes, or 1."""
        return len(self.class_names) or 1


def load(recipe: FinetuneRecipe) -> Examples:
    """Reads the tables of a recipe and divides them.

    Args:
        recipe: the recipe.

    Returns:
        Examples to train, validate and test on; the last two may be the same.

    Raises:
        RecipeError: a table is missing or malformed, or has labels that
            train_data has not.
    """
    from luna_tf.data.lra.labelled import blocks, sorted_classes

    train = _read(recipe, "train")
    classes: tuple[str, ...] = ()
    if recipe.objective == "classification":
        classes = sorted_classes(train.labels)
        if len(classes) < 2:
            raise RecipeError(
                f"train_data={recipe.train_data} has the one label "
                f"{classes[0]!r}: a classifier needs two."
            )
    splits = {"train": _texts(recipe, "train", train, classes)}
    for kind in ("validation", "test"):
        if getattr(recipe, f"{kind}_data") is not None:
            table = _read(recipe, kind)
            splits[kind] = _texts(recipe, kind, table, classes)
    fractions = {
        kind: 0.0
        if getattr(recipe, f"{kind}_data")
        else getattr(recipe, f"{kind}_fraction")
        for kind in ("validation", "test")
    }
    if any(fractions.values()):
        whole = splits["train"]
        groups = whole.labels if classes else np.zeros(len(whole.labels), int)
        try:
            indices = blocks(groups, **fractions)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        splits |= {kind: whole.part(i) for kind, i in indices.items()}
    splits.setdefault("test", splits["validation"])
    return Examples({kind: splits[kind] for kind in KINDS}, classes)


def _read(recipe: FinetuneRecipe, kind: str) -> Table:
    from luna_tf.data.tables import read_table

    path = getattr(recipe, f"{kind}_data")
    try:
        table = read_table(
            path,
            recipe.text_column,
            recipe.label_column,
            recipe.rows,
            None,
            recipe.skip_malformed,
            recipe.pair_column,
            recipe.has_header,
        )
    except (ValueError, OSError) as error:
        raise RecipeError(f"{kind}_data: {error}") from error
    if not table.texts:
        raise RecipeError(f"{kind}_data={path} has no examples.")
    return table


def _texts(
    recipe: FinetuneRecipe, kind: str, table: Table, classes: tuple[str, ...]
) -> Texts:
    path = getattr(recipe, f"{kind}_data")
    labels: Any
    if classes:
        numbers = {name: i for i, name in enumerate(classes)}
        unknown = sorted(set(table.labels) - set(classes))
        if unknown:
            raise RecipeError(
                f"{kind}_data={path} has the label {unknown[0]!r}, which "
                f"train_data has not: allowed are {', '.join(classes)}."
            )
        labels = np.array([numbers[name] for name in table.labels], np.int32)
    else:
        try:
            labels = np.array([float(x) for x in table.labels], np.float32)
        except ValueError as error:
            raise RecipeError(
                f"{kind}_data={path} has a label that is no number, as "
                f"objective=regression wants: {error}."
            ) from error
        if not np.isfinite(labels).all():
            raise RecipeError(
                f"{kind}_data={path} has a label that is not finite."
            )
    return Texts(table.texts, table.pairs, labels)


def make_source(rows: np.ndarray, labels: np.ndarray) -> IndexedSource:
    """Batches of token rows with labels.

    Args:
        rows: from `token_rows`.
        labels: of the same examples.
    """
    import tensorflow as tf

    from luna_tf.training.sources import IndexedSource

    table, answers = tf.constant(rows), tf.constant(labels)

    def gather(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "token_ids": tf.cast(tf.gather(table, indices), tf.int32),
            "labels": tf.gather(answers, indices),
        }

    return IndexedSource(len(rows), gather)


def token_rows(texts: Texts, preprocessor: Any) -> np.ndarray:
    """Tokenizes a split.

    Args:
        texts: the split.
        preprocessor: `LunaTextClassifierPreprocessor`, which decides the rows
            here as it does when the model is used.

    Returns:
        uint16 or int32 `(examples, length)`, padded.
    """
    import tensorflow as tf

    columns: Any = (texts.texts,)
    if texts.pairs:
        columns = (texts.texts, texts.pairs)

    def tokenize(*parts: tf.Tensor) -> tf.Tensor:
        x = parts if len(parts) > 1 else parts[0]
        # Or KerasHub would take the second text for the label.
        return preprocessor(x, y=None)["token_ids"]

    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(_BATCH)
    rows = dataset.map(
        tokenize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    small = preprocessor.tokenizer.vocabulary_size() <= 2**16
    kind = np.uint16 if small else np.int32
    return np.concatenate(
        [batch.astype(kind) for batch in rows.as_numpy_iterator()]
    )


def describe(examples: Examples, preprocessor: Any, rows: np.ndarray) -> str:
    """A line on how many examples there are, and how long.

    Args:
        examples: from `load`.
        preprocessor: of the rows.
        rows: those of the training split.
    """
    pad = preprocessor.tokenizer.pad_token_id
    full = np.count_nonzero(rows[:, -1] != pad)
    counts = " + ".join(f"{len(t.texts):,}" for t in examples.splits.values())
    text = f"Data: {counts} examples to train, validate and test on"
    if examples.class_names:
        text += f", {len(examples.class_names)} classes"
    return (
        f"{text}; {100 * full / len(rows):.0f} % of the rows are full, the "
        "texts of some of them cut"
    )
