"""Sentence pairs of a translation recipe, their subwords and their batches."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError

from . import session
from .translate_recipe import ALIGNED
from .translate_report import VOCABULARY

if TYPE_CHECKING:
    from luna_tf.data.parallel import Filled, Pairs, Shape, TokenLists
    from luna_tf.data.parallel import Vocabulary as SubwordVocabulary
    from luna_tf.training.sources import BucketedSource

    from .translate_recipe import TranslateRecipe

# The same batches on 1, 2, 4 and 8 replicas, so that a run may go on elsewhere.
_ROWS_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Pairs of sentences and their subwords, without special tokens."""

    pairs: Pairs
    source: TokenLists
    target: TokenLists

    def first(self, count: int) -> Tokens:
        """The first so many pairs."""
        from luna_tf.data.parallel import Pairs, TokenLists

        def cut(tokens: TokenLists) -> TokenLists:
            splits = tokens.row_splits[: count + 1]
            return TokenLists(tokens.values[: splits[-1]], splits)

        pairs = Pairs(self.pairs.sources[:count], self.pairs.targets[:count])
        return Tokens(pairs, cut(self.source), cut(self.target))


def load_pairs(recipe: TranslateRecipe) -> dict[str, Pairs]:
    """Reads the sentences of a recipe.

    Args:
        recipe: the recipe.

    Returns:
        Pairs with the keys `train`, `validation` and `test`.

    Raises:
        RecipeError: files that are missing or hold something else.
    """
    from luna_tf.data import parallel

    groups = {}
    for name in ("validation", "test"):
        if getattr(recipe, f"{name}_data") is None:
            words = getattr(recipe, f"{name}_groups").split(",")
            groups[name] = [word.strip() for word in words]
    try:
        read = {"train": _read(recipe, recipe.train_data, bool(groups))}
        for name in ("validation", "test"):
            if name not in groups:
                data = getattr(recipe, f"{name}_data")
                read[name] = _read(recipe, data, False)
        skipped = sum(pairs.skipped for pairs in read.values())
        if groups:
            parts = parallel.split(
                read["train"],
                groups.get("validation", []),
                groups.get("test", []),
            )
            for name, part in zip(
                ("train", "validation", "test"), parts, strict=True
            ):
                if name == "train" or name in groups:
                    read[name] = part
    except (OSError, ValueError) as error:
        # The reader's argument is our flag.
        message = str(error).replace("on_empty='skip'", "--skip_malformed")
        raise RecipeError(message) from error
    train, count = read["train"], recipe.max_train_pairs
    read["train"] = parallel.Pairs(train.sources[:count], train.targets[:count])
    sizes = [f"{len(read[n]):,}" for n in ("train", "validation", "test")]
    print(
        f"Data: {' + '.join(sizes)} pairs to train, validate and test on"
        + (f"; {skipped:,} malformed ones left out" if skipped else ""),
        flush=True,
    )
    return read


def _read(
    recipe: TranslateRecipe, data: str | None, with_groups: bool
) -> Pairs:
    from luna_tf.data import parallel

    on_empty = "skip" if recipe.skip_malformed else "error"
    if data is not None and ALIGNED in data:
        source, target = data.split(ALIGNED, 1)
        return parallel.read_aligned(_paths(source), _paths(target), on_empty)
    return parallel.read_tsv(
        parallel.sample_path() if data is None else _paths(data),
        recipe.source_column,
        recipe.target_column,
        recipe.group_column if with_groups else None,
        on_empty,
    )


def _paths(text: str) -> list[str]:
    return [path.strip() for path in text.split(",")]


def load_vocabulary(
    recipe: TranslateRecipe, folder: str, train: Pairs
) -> SubwordVocabulary:
    """The subwords of a run: learned from its training sentences, then kept.

    Args:
        recipe: the recipe.
        folder: the model_dir.
        train: training sentences.

    Returns:
        The vocabulary.

    Raises:
        RecipeError: it cannot be learned, or the run in the folder has
            another one.
    """
    from luna_tf.data import parallel

    path = files.join(folder, VOCABULARY)
    trained = [session.CHECKPOINTS, session.BEST_WEIGHTS]
    has_run = any(files.exists(files.join(folder, name)) for name in trained)
    try:
        proto = parallel.load_or_train(
            path,
            train.sources + train.targets,
            recipe.vocabulary_size,
            may_train=not has_run,
            model_type=recipe.vocabulary_type,
            character_coverage=recipe.character_coverage,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(str(error)) from error
    return parallel.Vocabulary(proto)


def read_vocabulary(recipe: TranslateRecipe, folder: str) -> Any:
    """The subwords of a finished run.

    Args:
        recipe: the recipe.
        folder: the model_dir.

    Raises:
        RecipeError: they are missing, damaged, those of another run or of
            another number than the recipe's.
    """
    from luna_tf.data import parallel

    path = files.join(folder, VOCABULARY)
    if not files.exists(path):
        raise RecipeError(f"--model_dir={folder} holds no {VOCABULARY}.")
    try:
        vocabulary = parallel.load(path)
    except ValueError as error:
        raise RecipeError(f"{path} cannot be used: {error}") from error
    if vocabulary.size != recipe.vocabulary_size:
        raise RecipeError(
            f"{path} has {vocabulary.size:,} subwords, but the weights were "
            f"trained with vocabulary_size={recipe.vocabulary_size:,}."
        )
    return vocabulary


def encode(pairs: Pairs, vocabulary: SubwordVocabulary) -> Tokens:
    """Divides both sides of pairs into subwords."""
    return Tokens(
        pairs,
        vocabulary.encode(pairs.sources),
        vocabulary.encode(pairs.targets),
    )


def choose_shapes(
    recipe: TranslateRecipe, train: Tokens, num_replicas: int
) -> tuple[Shape, ...]:
    """Shapes of all batches of a run.

    Args:
        recipe: the recipe.
        train: training pairs.
        num_replicas: must divide the rows of every batch.

    Raises:
        RecipeError: sizes that do not fit each other.
    """
    from luna_tf.data import parallel

    try:
        return parallel.choose_shapes(
            train.source.lengths,
            train.target.lengths,
            recipe.tokens_per_batch,
            recipe.max_length,
            recipe.max_length,
            recipe.num_buckets,
            _rows_multiple(recipe, num_replicas),
            recipe.steps_per_loop,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error


def validation_shapes(
    recipe: TranslateRecipe,
    shapes: tuple[Shape, ...],
    validation: Tokens,
    num_replicas: int,
) -> tuple[Shape, ...]:
    """Shapes that also hold validation pairs longer than all training pairs.

    A shape more instead of a longer one, so that training is not changed.

    Args:
        recipe: the recipe.
        shapes: from `choose_shapes`.
        validation: the pairs, which are cut at `max_length` only.
        num_replicas: must divide the rows of every batch.
    """
    from luna_tf.data import parallel

    return parallel.lengthen(
        shapes,
        validation.source.lengths,
        validation.target.lengths,
        recipe.tokens_per_batch,
        recipe.max_length,
        recipe.max_length,
        _rows_multiple(recipe, num_replicas),
    )


def _rows_multiple(recipe: TranslateRecipe, num_replicas: int) -> int:
    return math.lcm(_ROWS_MULTIPLE, num_replicas * recipe.accumulation_steps)


def make_source(
    tokens: Tokens, shapes: tuple[Shape, ...], too_long: str
) -> tuple[BucketedSource, Filled]:
    """The batches of some pairs.

    Args:
        tokens: the pairs.
        shapes: of their batches.
        too_long: "drop" or "cut", what becomes of pairs that do not fit.

    Returns:
        The batches, and what is in which of them.

    Raises:
        RecipeError: no pair fits.
    """
    from luna_tf.data import parallel
    from luna_tf.data.parallel.batches import gather
    from luna_tf.training.sources import BucketedSource, IndexedSource

    try:
        filled = parallel.fill(
            shapes, tokens.source.lengths, tokens.target.lengths, too_long
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    source = BucketedSource(
        [
            IndexedSource(
                len(bucket.indices),
                gather(tokens.source, tokens.target, bucket),
            )
            for bucket in filled.buckets
        ],
        [bucket.shape.rows for bucket in filled.buckets],
    )
    return source, filled


def describe(filled: Filled, what: str) -> str:
    """A line on the batches of a set."""
    shapes = ", ".join(
        f"{b.shape.rows}×{b.shape.source_length}/{b.shape.target_length}"
        for b in filled.buckets
    )
    text = (
        f"Batches to {what} (pairs×source/target): {shapes}; "
        f"{100 * filled.padding:.0f} % padding"
    )
    if filled.num_too_long:
        text += f"; {filled.num_too_long:,} pairs are too long"
    return text
