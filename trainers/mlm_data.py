"""The text of a pretraining: subwords, rows, masks, sources."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError

from . import tokenizers

if TYPE_CHECKING:
    import tensorflow as tf

    from luna_tf.data.corpus import CorpusFiles, Masking, PreparedCorpus
    from luna_tf.training.sources import IndexedSource, Share, Source

    from .mlm_recipe import MLMRecipe


@dataclasses.dataclass(frozen=True)
class Rows:
    """Tokenized text.

    Args:
        train: rows in files, or None with source=text.
        validation, test: integers `(rows, length)`.
        corpus: the files to train on.
    """

    train: PreparedCorpus | None
    validation: np.ndarray
    test: np.ndarray
    corpus: CorpusFiles


def corpus_files(recipe: MLMRecipe, kind: str = "train") -> CorpusFiles:
    """The files of one of the three texts.

    Args:
        recipe: the recipe.
        kind: "train", "validation" or "test".

    Raises:
        RecipeError: they are not there, or are no text.
    """
    from luna_tf.data.corpus import CorpusError, find_files, sample_path

    given = getattr(recipe, f"{kind}_data")
    try:
        return find_files(
            sample_path() if given is None else given, recipe.skip_malformed
        )
    except CorpusError as error:
        raise RecipeError(f"{kind}_data: {error}") from error


def _reading(recipe: MLMRecipe) -> dict[str, Any]:
    return {
        "separator": recipe.document_separator,
        "text_field": recipe.text_field,
        "skip_malformed": recipe.skip_malformed,
    }


def _fractions(recipe: MLMRecipe) -> dict[str, float]:
    """What of the training text is held out."""
    return {
        kind: getattr(recipe, f"{kind}_fraction")
        for kind in ("validation", "test")
        if getattr(recipe, f"{kind}_data") is None
    }


def load_tokenizer(recipe: MLMRecipe, folder: str, corpus: CorpusFiles) -> Any:
    """The tokenizer of a run, learned if need be.

    Args:
        recipe: the recipe.
        folder: the model_dir, which keeps it.
        corpus: the files to train on; of them, only documents to train on
            teach it.

    Raises:
        RecipeError: it cannot be read or learned.
    """
    from luna_tf.data.corpus import (
        CorpusError,
        divide,
        learn_vocabulary,
        read_documents,
    )
    from luna_tf.data.parallel.vocabulary import VocabularyError

    made_from: dict[str, Any]
    if recipe.vocabulary is not None:
        tokenizer = tokenizers.read(recipe.vocabulary, recipe.lowercase)
        made_from = {"digest": tokenizers.digest(tokenizer)}
        return tokenizers.load_or_learn(folder, made_from, lambda: tokenizer)
    made_from = {
        "files": list(corpus.paths),
        "bytes": corpus.bytes,
        "reading": _reading(recipe),
        "fractions": _fractions(recipe),
        "vocabulary_bytes": recipe.vocabulary_bytes,
        "type": recipe.vocabulary_type,
        "size": recipe.vocabulary_size,
        "lowercase": recipe.lowercase,
    }

    def learn() -> Any:
        if recipe.vocabulary_type == "bytes":
            return tokenizers.make_bytes(recipe.lowercase)
        print("Learning subwords ...", flush=True)
        documents = read_documents(corpus, **_reading(recipe))
        documents = divide(documents, _fractions(recipe))["train"]
        try:
            learned = learn_vocabulary(
                documents,
                recipe.vocabulary_type,
                recipe.vocabulary_size,
                recipe.lowercase,
                recipe.vocabulary_bytes,
            )
        except (VocabularyError, CorpusError) as error:
            raise RecipeError(
                f"vocabulary_type={recipe.vocabulary_type} with "
                f"vocabulary_size={recipe.vocabulary_size}: {error}"
            ) from error
        return tokenizers.make(learned, recipe.lowercase)

    return tokenizers.load_or_learn(folder, made_from, learn)


def row_format(recipe: MLMRecipe, tokenizer: Any) -> Any:
    """How documents become rows, `RowFormat`."""
    from luna_tf.data.corpus import RowFormat

    return RowFormat(
        recipe.sequence_length,
        tokenizer.start_token_id,
        tokenizer.end_token_id,
        tokenizer.pad_token_id,
        recipe.packing,
    )


def load_rows(recipe: MLMRecipe, folder: str, tokenizer: Any) -> Rows:
    """Tokenizes the texts of a recipe, or finds them tokenized.

    Args:
        recipe: the recipe.
        folder: the model_dir.
        tokenizer: from `load_tokenizer`.

    Returns:
        The rows.

    Raises:
        RecipeError: a text is malformed or has nothing to train on, validate
            on or test on.
    """
    cache = _cache(recipe, folder)
    corpus = corpus_files(recipe)
    fractions = _fractions(recipe)
    # While training, text is tokenized from the files themselves.
    streams_text = recipe.source == "text"
    if streams_text:
        _check_training_text(recipe, corpus)
    train = None
    if fractions or not streams_text:
        train = _prepare(
            recipe,
            corpus,
            cache,
            tokenizer,
            fractions,
            "train",
            with_train=not streams_text,
        )
    held_out: dict[str, np.ndarray] = {}
    for kind in ("validation", "test"):
        if train is not None and kind in fractions:
            held_out[kind] = _evaluation_rows(recipe, train, kind, kind)
        else:
            held_out[kind] = _given_rows(recipe, cache, tokenizer, kind)
    return Rows(
        None if streams_text else train,
        held_out["validation"],
        held_out["test"],
        corpus,
    )


def load_test_rows(
    recipe: MLMRecipe, folder: str, tokenizer: Any
) -> np.ndarray:
    """The rows to test on alone; a text of their own is all that is read.

    The arguments and errors are those of `load_rows`.
    """
    if recipe.test_data is None:
        return load_rows(recipe, folder, tokenizer).test
    return _given_rows(recipe, _cache(recipe, folder), tokenizer, "test")


def _cache(recipe: MLMRecipe, folder: str) -> str:
    return recipe.cache_dir or files.join(folder, "data")


def _given_rows(
    recipe: MLMRecipe, cache: str, tokenizer: Any, kind: str
) -> np.ndarray:
    """Rows of a text that is given beside the one to train on."""
    corpus = corpus_files(recipe, kind)
    prepared = _prepare(recipe, corpus, cache, tokenizer, {}, kind)
    return _evaluation_rows(recipe, prepared, "train", kind)


def _evaluation_rows(
    recipe: MLMRecipe, prepared: PreparedCorpus, split: str, kind: str
) -> np.ndarray:
    if not prepared.counts[split]["rows"]:
        raise RecipeError(
            f"{kind}_fraction={getattr(recipe, f'{kind}_fraction')} is "
            f"not possible: of the documents of train_data none is held "
            "out. Raise it, or divide the text into more documents "
            "(document_separator)."
        )
    return prepared.rows(split, recipe.max_evaluation_rows)


def _check_training_text(recipe: MLMRecipe, corpus: CorpusFiles) -> None:
    """Refuses text of which nothing is left to train on."""
    from luna_tf.data.corpus import (
        CorpusError,
        check_whole,
        divide,
        explained,
        read_documents,
    )

    documents = read_documents(corpus, **_reading(recipe))
    documents = divide(documents, _fractions(recipe))["train"]
    try:
        for path in corpus.paths:
            check_whole(path)
        with explained(corpus):
            found = any(True for _ in documents.take(1))
    except CorpusError as error:
        raise RecipeError(f"train_data: {error}") from error
    if not found:
        raise RecipeError(
            f"train_data={recipe.train_data} has no document to train on "
            "besides those that validation_fraction and test_fraction hold out."
        )


def _prepare(
    recipe: MLMRecipe,
    corpus: CorpusFiles,
    cache: str,
    tokenizer: Any,
    fractions: dict[str, float],
    kind: str,
    with_train: bool = True,
) -> PreparedCorpus:
    from luna_tf.data.corpus import CorpusError, prepare
    from luna_tf.training.progress import ProgressBar

    bar = ProgressBar(max(sum(corpus.bytes), 1), f"tokenize to {kind}")
    shown = False

    def on_progress(done: int, total: int, rows: int) -> None:
        nonlocal shown
        if done < total or shown:
            shown = True
            bar.update(done, f"{rows:,} rows")

    try:
        return prepare(
            corpus,
            cache,
            tokenizer,
            row_format(recipe, tokenizer),
            tokenizer.vocabulary_size(),
            {"tokenizer": tokenizers.digest(tokenizer)},
            fractions,
            with_train,
            on_progress,
            **_reading(recipe),
        )
    except CorpusError as error:
        raise RecipeError(f"{kind}_data: {error}") from error
    finally:
        bar.close()


def describe(rows: Rows, recipe: MLMRecipe) -> str:
    """A line on how much text there is."""
    train = f"{sum(rows.corpus.bytes):,} bytes of files to train on"
    if rows.train is not None:
        counts = rows.train.counts["train"]
        filled = counts["tokens"] / (counts["rows"] * recipe.sequence_length)
        train = (
            f"{counts['rows']:,} rows to train on, {counts['tokens']:,} tokens "
            f"({100 * filled:.0f} % of the rows are filled)"
        )
    return (
        f"Data: {train}; {len(rows.validation):,} rows to validate on, "
        f"{len(rows.test):,} to test on"
    )


@contextlib.contextmanager
def explained(recipe: MLMRecipe, corpus: CorpusFiles) -> Iterator[None]:
    """Tells where text that is read while training is malformed.

    Args:
        recipe: the recipe; only with source=text it is read then.
        corpus: the files that are read.

    Raises:
        RecipeError: in place of what TensorFlow raises.
    """
    from luna_tf.data.corpus import CorpusError
    from luna_tf.data.corpus import explained as explained_text

    if recipe.source != "text":
        yield
        return
    try:
        with explained_text(corpus):
            yield
    except CorpusError as error:
        raise RecipeError(f"train_data: {error}") from error


def make_masking(recipe: MLMRecipe, tokenizer: Any) -> Masking:
    """How a recipe hides tokens."""
    from luna_tf.data.corpus import Masking
    from luna_tf.models.luna_masked_lm_preprocessor import selection_length

    selectable = np.ones(tokenizer.vocabulary_size(), bool)
    selectable[tokenizer.unguessable_token_ids] = False
    return Masking(
        tokenizer.mask_token_id,
        selectable,
        selection_length(recipe.sequence_length, recipe.mask_fraction),
        recipe.mask_fraction,
        recipe.mask_token_fraction,
        recipe.random_token_fraction,
        tokenizer.word_starts() if recipe.whole_words else None,
    )


def train_source(
    recipe: MLMRecipe, rows: Rows, masking: Masking, tokenizer: Any
) -> Source:
    """What to train on.

    Args:
        recipe: the recipe.
        rows: from `load_rows`.
        masking: from `make_masking`.
        tokenizer: of the rows.
    """
    if rows.train is not None and recipe.source == "memory":
        table = rows.train.rows("train")
        return indexed_source(table, masking, recipe.seed)
    from luna_tf.data.corpus import (
        divide,
        masked_stream,
        read_documents,
        token_rows,
    )
    from luna_tf.training.sources import StreamSource

    def make_dataset(share: Share) -> tf.data.Dataset:
        import tensorflow as tf

        worker = share.first_replica // share.local_replicas
        workers = share.num_replicas // share.local_replicas
        if rows.train is not None:
            found = rows.train.dataset("train", recipe.seed, worker, workers)
        else:
            paths = list(rows.corpus.paths)
            mine = paths[worker::workers] if len(paths) >= workers else paths
            corpus = dataclasses.replace(rows.corpus, paths=tuple(mine))
            documents = divide(
                read_documents(corpus, **_reading(recipe)), _fractions(recipe)
            )["train"]
            if len(paths) < workers:
                documents = documents.shard(workers, worker)
            form = row_format(recipe, tokenizer)
            found = token_rows(documents, tokenizer, form)
        batches = masked_stream(
            found,
            masking,
            share.rows,
            recipe.seed,
            recipe.shuffled_rows,
            worker,
            workers,
        )
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )
        return batches.with_options(options)

    return StreamSource(make_dataset)


def indexed_source(
    table: np.ndarray, masking: Masking, seed: int
) -> IndexedSource:
    """Rows in memory, masked anew whenever they are seen.

    Args:
        table: integers `(rows, length)`.
        masking: how.
        seed: of the masks.
    """
    from luna_tf.data.corpus import gather_rows, mask_rows
    from luna_tf.training.sources import IndexedSource

    return IndexedSource(
        len(table), gather_rows(table), mask_rows(masking, seed)
    )


def check_masks(table: np.ndarray, masking: Masking, kind: str) -> None:
    """Refuses rows of which no token can be hidden.

    Args:
        table: integers `(rows, length)`.
        masking: how tokens are hidden.
        kind: what the rows are for, for the message.

    Raises:
        RecipeError: there is nothing to predict.
    """
    if not np.take(masking.selectable, table).any():
        raise RecipeError(
            f"{kind}: no token of {len(table):,} rows can be hidden, so that "
            "there is nothing to predict."
        )
