"""Where the examples of a Long Range Arena recipe come from."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luna_tf.training.recipes import RecipeError

from . import flags, lra_tasks

if TYPE_CHECKING:
    from luna_tf.data.lra.batches import TokenIds
    from luna_tf.data.lra.pathfinder_generator import PathfinderConfig
    from luna_tf.training.sources import IndexedSource

    from .lra_recipe import LRARecipe

# "train", "validation" and "test" to a split of `luna_tf.data.lra`.
Splits = Mapping[str, Any]
SPLITS = ("train", "validation", "test")


def check(recipe: LRARecipe, given: Collection[str]) -> None:
    """Finds what is wrong with the data before anything long starts.

    Args:
        recipe: the recipe.
        given: names of its fields that were given as flags.

    Raises:
        RecipeError: a flag that the data do not obey, or no data.
    """
    task = lra_tasks.TASKS[recipe.task]
    if recipe.data_dir is not None:
        unused = sorted(set(given) & set(task.generated))
        if unused:
            raise RecipeError(
                f"{', '.join(f'--{name}' for name in unused)} is not possible "
                "with data_dir: released files are read as they are."
            )
        if not os.path.exists(os.path.expanduser(recipe.data_dir)):
            raise RecipeError(
                f"data_dir={recipe.data_dir!r} is not possible. "
                + _what_is_missing(recipe)
            )
        return
    if recipe.task == "listops":
        try:
            _listops_config(recipe)
        except ValueError as error:
            raise RecipeError(str(error)) from error


def _what_is_missing(recipe: LRARecipe) -> str:
    """What the reader of a task says of a folder that is not there."""
    flags.import_tensorflow()
    try:
        _LOADERS[recipe.task](recipe, "")
    except FileNotFoundError as error:
        return str(error)
    raise AssertionError(f"{recipe.data_dir} appeared")


def load(recipe: LRARecipe, folder: str) -> Splits:
    """The data of a recipe: read, cached or generated.

    Args:
        recipe: the recipe.
        folder: the model_dir, for the cache.

    Returns:
        The splits `train`, `validation` and `test`.

    Raises:
        RecipeError: when files are missing or malformed, or the cache cannot
            be written.
    """
    from luna_tf.data.lra.labelled import LabelledSplits
    from luna_tf.training.progress import format_duration

    started = time.monotonic()
    cache = cache_dir(recipe, folder)
    if recipe.data_dir is not None:
        print(f"Reading {recipe.data_dir} ...", flush=True)
    try:
        splits = _LOADERS[recipe.task](recipe, cache)
        names = class_names(recipe, splits)
        if recipe.validation == "test":
            splits = {**splits, "validation": splits["test"]}
        splits = LabelledSplits({name: splits[name] for name in SPLITS}, names)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(str(error)) from error
    sizes = " + ".join(f"{len(split):,}" for split in splits.values())
    elapsed = format_duration(time.monotonic() - started)
    source = recipe.data_dir or cache
    print(f"Data: {sizes} examples, from {source} ({elapsed})", flush=True)
    _tell_what_is_cut(recipe, splits)
    _check_real_tokens(recipe, splits)
    return splits


def _check_real_tokens(recipe: LRARecipe, splits: Splits) -> None:
    """Refuses `max_real_tokens` that some example exceeds."""
    if recipe.max_real_tokens is None:
        return
    marks = recipe.add_cls + recipe.add_eos
    longest = 0
    for split in splits.values():
        for sequences in documents(split):
            longest = max(longest, int(sequences.lengths.max()) + marks)
        if lra_tasks.TASKS[recipe.task].picture is not None:
            pixels = split.pixels.reshape(len(split), -1)
            real = (pixels > 0).sum(axis=1).max()
            longest = max(longest, int(real) + marks)
    longest = min(longest, recipe.row_length)
    if longest > recipe.max_real_tokens:
        raise RecipeError(
            f"max_real_tokens={recipe.max_real_tokens} is not possible: "
            f"allowed is at least {longest}, as the longest example has."
        )


def _tell_what_is_cut(recipe: LRARecipe, splits: Splits) -> None:
    room = recipe.row_length - recipe.add_cls
    cut = total = 0
    for split in splits.values():
        for sequences in documents(split):
            cut += int((sequences.lengths > room).sum())
            total += len(sequences)
    if cut:
        print(
            f"Data: {cut:,} of {total:,} sequences are cut to {room:,} tokens"
        )


def describe(recipe: LRARecipe) -> str:
    """What a result was measured on, in a few words.

    Args:
        recipe: the recipe.
    """
    parts = []
    if recipe.data_dir is not None:
        parts.append(os.path.basename(recipe.data_dir.rstrip("/")))
    elif recipe.task == "image":
        parts.append("CIFAR-10")
    else:
        parts.append(f"generated, seed {recipe.data_seed}")
    if recipe.task == "listops" and recipe.data_dir is None:
        assert recipe.min_length is not None and recipe.max_length is not None
        shortest, longest = recipe.min_length + 1, recipe.max_length - 1
        parts.append(f"{shortest:,} to {longest:,} tokens")
    if recipe.task in ("pathfinder", "pathx"):
        kind = recipe.difficulty
        if recipe.contour_length is not None:
            kind = f"contours of {recipe.contour_length}"
        parts.append(kind + ("" if recipe.distractors else ", no distractors"))
    if lra_tasks.TASKS[recipe.task].picture is not None:
        size = lra_tasks.image_size(recipe)
        parts.append(f"{size} x {size} pixels as {recipe.pixels}")
    else:
        parts.append(f"rows of {recipe.row_length:,}")
    return ", ".join(parts)


def class_names(recipe: LRARecipe, splits: Splits) -> tuple[str, ...]:
    """What the classes are called, by default by their numbers.

    Args:
        recipe: the recipe.
        splits: what a reader or a generator gave.
    """
    numbers = tuple(map(str, range(lra_tasks.num_classes(recipe))))
    return getattr(splits, "class_names", numbers)


def documents(split: Any) -> tuple:
    """The byte sequences of a split, one set for every document.

    Args:
        split: any split of `luna_tf.data.lra`; pictures have none.
    """
    from luna_tf.data.lra.splits import ImageSplit, Sequences

    if isinstance(split, ImageSplit):
        return ()
    return (split,) if isinstance(split, Sequences) else split.documents


def cache_dir(recipe: LRARecipe, folder: str) -> str:
    """Where generated and parsed data are kept: always on a local disk."""
    if recipe.cache_dir is not None:
        return recipe.cache_dir
    if "://" not in folder:
        return f"{folder}/data"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "luna_tf", recipe.task)


def token_ids(recipe: LRARecipe) -> TokenIds:
    """The token ids of a recipe's rows.

    Args:
        recipe: of a task whose rows are tokens.
    """
    from luna_tf.data.lra import batches

    if recipe.task == "listops":
        return batches.LISTOPS
    if lra_tasks.TASKS[recipe.task].picture is None:
        return batches.BYTES
    if recipe.black_is_padding:
        return dataclasses.replace(batches.PIXELS, padding_id=0)
    return batches.PIXELS


def make_source(split: Any, recipe: LRARecipe) -> IndexedSource:
    """The batches of a split, made inside of TensorFlow.

    Args:
        split: examples.
        recipe: the recipe.

    Returns:
        A source of the tensors of `batch_spec`, without weights.

    Raises:
        RecipeError: the recipe's rows cannot be made from these examples.
    """
    from luna_tf.data.lra import batches
    from luna_tf.training.sources import IndexedSource

    marks = recipe.add_cls, recipe.add_eos
    try:
        if recipe.pixels == "values":
            gather = batches.gather_pixel_values(
                split, recipe.pixel_mean, recipe.pixel_std
            )
        elif lra_tasks.TASKS[recipe.task].picture is not None:
            gather = batches.gather_pixel_ids(split, recipe.row_length, *marks)
        else:
            gather = batches.gather_sequences(
                documents(split),
                split.labels,
                recipe.row_length,
                token_ids(recipe),
                *marks,
            )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return IndexedSource(len(split), gather)


def input_name(recipe: LRARecipe) -> str:
    """What the tensor is called that the model sees."""
    return "pixel_values" if recipe.pixels == "values" else "token_ids"


def batch_spec(recipe: LRARecipe, batch_size: int) -> dict[str, Any]:
    """Shapes of one batch, `tf.TensorSpec` by name.

    Args:
        recipe: the recipe.
        batch_size: rows.
    """
    import tensorflow as tf

    shape: tuple[int, ...] = (batch_size, recipe.row_length)
    num_documents = lra_tasks.TASKS[recipe.task].documents
    if num_documents > 1:
        shape = (batch_size, num_documents, recipe.row_length)
    dtype = tf.float32 if recipe.pixels == "values" else tf.int32
    return {
        input_name(recipe): tf.TensorSpec(shape, dtype),
        "labels": tf.TensorSpec((batch_size,), tf.int32),
        "example_weights": tf.TensorSpec((batch_size,), tf.float32),
    }


def describe_input(recipe: LRARecipe) -> dict[str, Any]:
    """What someone who serves the model must know of its input.

    Args:
        recipe: the recipe.

    Returns:
        A dictionary fit for JSON.
    """
    if recipe.pixels == "values":
        return {
            "pixel_mean": recipe.pixel_mean,
            "pixel_std": recipe.pixel_std,
            "max_sequence_length": recipe.row_length,
        }
    ids = token_ids(recipe)
    described: dict[str, Any] = {
        "padding_id": ids.padding_id,
        "first_id": ids.first_id if recipe.add_cls else None,
        "last_id": ids.last_id if recipe.add_eos else None,
        "max_sequence_length": recipe.row_length,
    }
    if recipe.task == "listops":
        from luna_tf.data.lra import listops

        return {"tokens": list(listops.VOCABULARY), **described}
    return {"id_of_byte_0": ids.offset, **described}


def _listops_config(recipe: LRARecipe) -> Any:
    from luna_tf.data.lra.listops_generator import ListOpsConfig

    numbers: Any = recipe  # the task's check has left no None
    return ListOpsConfig(
        num_train=numbers.train_examples,
        num_validation=numbers.validation_examples,
        num_test=numbers.test_examples,
        max_depth=numbers.max_depth,
        max_args=numbers.max_args,
        min_length=numbers.min_length,
        max_length=numbers.max_length,
        seed=numbers.data_seed,
    )


def _listops(recipe: LRARecipe, cache: str) -> Splits:
    from luna_tf.data.lra import listops_cache
    from luna_tf.training.progress import ProgressBar

    if recipe.data_dir is not None:
        return listops_cache.load_tsv_folder(
            recipe.data_dir,
            skip_malformed=recipe.skip_malformed,
            cache_dir=cache,
        )
    config = _listops_config(recipe)
    with ProgressBar(config.num_examples, "generate") as bar:
        return listops_cache.load_or_generate(
            cache, config, progress=lambda done, _: bar.update(done)
        )


def _text(recipe: LRARecipe, cache: str) -> Splits:
    from luna_tf.data.lra.text import load_text

    assert recipe.data_dir is not None
    tests_on_it = recipe.validation == "test"
    splits = load_text(
        recipe.data_dir,
        validation_fraction=0.0 if tests_on_it else recipe.validation_fraction,
        test_fraction=recipe.test_fraction,
        text_column=recipe.text_column,
        label_column=recipe.label_column,
        where=recipe.rows,
        skip_malformed=recipe.skip_malformed,
    )
    _check_classes(recipe, splits.class_names)
    return splits


def _retrieval(recipe: LRARecipe, cache: str) -> Splits:
    from luna_tf.data.lra.retrieval import load_retrieval

    assert recipe.data_dir is not None
    return load_retrieval(recipe.data_dir, skip_malformed=recipe.skip_malformed)


def _images(recipe: LRARecipe, cache: str) -> Splits:
    from luna_tf.data.lra.images import load_images

    splits = load_images(
        recipe.data_dir,
        validation_fraction=recipe.validation_fraction,
        test_fraction=recipe.test_fraction,
        image_size=lra_tasks.image_size(recipe),
        skip_malformed=recipe.skip_malformed,
        cache_dir=cache,
    )
    _check_classes(recipe, splits.class_names)
    return splits


def _pathfinder(recipe: LRARecipe, cache: str) -> Splits:
    from luna_tf.data.lra.pathfinder_files import load_pathfinder_folder
    from luna_tf.data.lra.pathfinder_generator import PathfinderConfig
    from luna_tf.data.lra.pathfinder_records import (
        load_or_generate_pathfinder,
        read_pathfinder_records,
        records_config,
    )
    from luna_tf.training.progress import ProgressBar

    size = lra_tasks.image_size(recipe)
    if recipe.data_dir is not None:
        found = records_config(recipe.data_dir)
        if found is not None:
            _check_pictures(recipe, found)
            return read_pathfinder_records(recipe.data_dir)
        return load_pathfinder_folder(
            recipe.data_dir,
            size,
            recipe.difficulty,
            skip_malformed=recipe.skip_malformed,
            cache_dir=cache,
        )
    config = PathfinderConfig(
        size,
        recipe.difficulty,
        recipe.pictures,
        recipe.data_seed,
        recipe.contour_length,
        recipe.distractors,
    )
    with ProgressBar(recipe.pictures, "generate") as bar:
        return load_or_generate_pathfinder(
            cache, config, progress=lambda done, _: bar.update(done)
        )


def _check_pictures(recipe: LRARecipe, found: PathfinderConfig) -> None:
    size = lra_tasks.image_size(recipe)
    given = {"image_size": size, "difficulty": recipe.difficulty}
    for name, value in given.items():
        there = getattr(found, name)
        if there != value:
            raise RecipeError(
                f"{name}={value} is not possible with data_dir="
                f"{recipe.data_dir}: allowed is {there}, as its pictures are."
            )


def _check_classes(recipe: LRARecipe, names: Sequence[str]) -> None:
    expected = lra_tasks.num_classes(recipe)
    if len(names) != expected:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise RecipeError(
            f"{recipe.data_dir} has {len(names)} classes ({shown}), where the "
            f"recipe has {expected}. Allowed is --num_classes={len(names)}."
        )


_LOADERS: dict[str, Callable[[LRARecipe, str], Splits]] = {
    "listops": _listops,
    "text": _text,
    "retrieval": _retrieval,
    "image": _images,
    "pathfinder": _pathfinder,
    "pathx": _pathfinder,
}
