"""Trains and evaluates Luna on the ListOps task of the Long Range Arena."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import flags, lra_report, optimization, session
from .lra_recipe import GENERATOR_FIELDS, PROGRAM, LRARecipe

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from matplotlib.figure import Figure

    from luna_tf.data.lra.listops import Split
    from luna_tf.training.loop import Loop
    from luna_tf.training.records import TrainingResult
    from luna_tf.training.sources import IndexedSource
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-lra`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    app.run(
        functools.partial(session.run_program, PROGRAM.name, run),
        argv=argv,
        flags_parser=functools.partial(flags.parse, PROGRAM),
    )


def run(command: flags.Command) -> int:
    """Does what a command line asks for.

    Args:
        command: from `flags.parse`.

    Returns:
        Exit status of the process: 0, 75 after SIGTERM, 130 after an
        interrupt.

    Raises:
        RecipeError: for whatever the user can put right.
        ArithmeticError: when training diverges.
    """
    started = time.monotonic()
    recipe, folder, mode = command.recipe, command.model_dir, command.mode
    will_train = mode in ("train", "train_and_evaluate")
    _check_data(recipe, command.given)
    session.schedule(command)
    placement = session.start(command)
    if will_train:
        session.open_folder(command, lra_report.FILES, placement.is_chief)
    elif mode != "input_benchmark":
        session.check_trained(folder)
    trainer = make_trainer(recipe, placement, command.machine.data_service)
    network = trainer.loop.model
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    trained = splits = None
    if mode != "export":
        # One worker fills the cache, the others read it.
        if not placement.is_chief:
            placement.meeting.wait()
        splits = load_splits(recipe, folder)
        if placement.is_chief:
            placement.meeting.wait()
    if mode == "input_benchmark" and splits:
        source = make_source(splits["train"], recipe)
        print(session.input_benchmark(trainer, source))
        return 0
    if will_train and splits:
        if placement.is_chief:
            session.record(
                command, placement, session.precision_of(recipe, placement)
            )
        trained = _train(trainer, command, placement, splits)
        if trained.stopped_by is not None:
            print(session.stopped_text(trained, folder))
            return session.stopped_status(trained)
    else:
        _load_weights(network, files.join(folder, session.BEST_WEIGHTS))
    if mode in ("train_and_evaluate", "export") and placement.is_chief:
        _export(network, recipe, folder)
    if mode in ("train_and_evaluate", "evaluate") and splits:
        tested = trainer.evaluate(make_source(splits["test"], recipe))
        results = lra_report.results(
            network,
            splits,
            tested,
            trained,
            session.precision_of(recipe, placement),
            placement.reason,
            time.monotonic() - started,
        )
        if placement.is_chief and (
            will_train or not files.exists(files.join(folder, "results.json"))
        ):
            lra_report.write(results, folder)
        print("\n" + lra_report.to_text(results, folder))
    elif mode != "evaluate":
        print("\n" + lra_report.files_text(folder))
    return 0


def _load_weights(network: keras.Model, path: str) -> None:
    try:
        files.read_by(path, network.load_weights)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} does not fit the recipe: {error}") from error


def make_model(recipe: LRARecipe, precision: str = "float32") -> keras.Model:
    """The classifier of a recipe, with initial weights.

    Args:
        recipe: the recipe.
        precision: number format of the layers.

    Returns:
        A model from token ids `(batch, length)` to logits `(batch, 10)`.

    Raises:
        RecipeError: when the model refuses its sizes.
    """
    from luna_tf.data.lra import listops
    from luna_tf.interop import fairseq
    from luna_tf.models import LRAClassifier

    same = [
        field.name
        for field in recipes.grouped(LRARecipe)["Model"]
        if field.name != "initialization"
    ]
    try:
        network = LRAClassifier(
            vocabulary_size=len(listops.VOCABULARY),
            num_classes=listops.NUM_CLASSES,
            max_sequence_length=recipe.sequence_length,
            padding_id=listops.PAD_ID,
            seed=recipe.seed,
            dtype=precision,
            **{name: getattr(recipe, name) for name in same},
        )
        if recipe.initialization != "keras":
            fairseq.initialize(
                network, scheme=recipe.initialization, seed=recipe.seed
            )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return network


def _generator_config(recipe: LRARecipe) -> Any:
    from luna_tf.data.lra.listops_generator import ListOpsConfig

    return ListOpsConfig(
        num_train=recipe.train_examples,
        num_validation=recipe.validation_examples,
        num_test=recipe.test_examples,
        max_depth=recipe.max_depth,
        max_args=recipe.max_args,
        min_length=recipe.min_length,
        max_length=recipe.max_length,
        seed=recipe.data_seed,
    )


def _check_data(recipe: LRARecipe, given: Collection[str]) -> None:
    if recipe.data_dir is not None:
        unused = sorted(set(given) & set(GENERATOR_FIELDS))
        if unused:
            raise RecipeError(
                f"{', '.join(f'--{name}' for name in unused)} is not possible "
                "with data_dir: released files are read as they are."
            )
        if not Path(recipe.data_dir).expanduser().is_dir():
            raise RecipeError(
                f"data_dir={recipe.data_dir!r} is not possible: allowed is a "
                "folder with the released TSV files."
            )
        return
    try:
        _generator_config(recipe)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def load_splits(recipe: LRARecipe, folder: str) -> dict[str, Split]:
    """The data of a recipe: released files, cached or generated.

    Args:
        recipe: the recipe.
        folder: the model_dir, for the cache.

    Returns:
        The splits `train`, `validation` and `test`.

    Raises:
        RecipeError: when released files are missing or malformed, or the
            cache cannot be written.
    """
    from luna_tf.data.lra import listops_cache
    from luna_tf.training.progress import ProgressBar, format_duration

    started = time.monotonic()
    try:
        if recipe.data_dir is not None:
            source = recipe.data_dir
            print(f"Reading {source} ...", flush=True)
            splits = listops_cache.load_tsv_folder(
                source,
                skip_malformed=recipe.skip_malformed,
                cache_dir=_cache_dir(recipe, folder),
            )
        else:
            source = _cache_dir(recipe, folder)
            config = _generator_config(recipe)
            with ProgressBar(config.num_examples, "generate") as bar:
                splits = listops_cache.load_or_generate(
                    source, config, progress=lambda done, _: bar.update(done)
                )
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(str(error)) from error
    sizes = " + ".join(f"{len(split):,}" for split in splits.values())
    elapsed = format_duration(time.monotonic() - started)
    print(f"Data: {sizes} expressions, in {source} ({elapsed})", flush=True)
    room = recipe.sequence_length - 1  # after the mark of the start
    cut = sum(int((split.lengths > room).sum()) for split in splits.values())
    if cut:
        print(f"Data: {cut:,} expressions are cut to {room:,} tokens")
    return splits


def _cache_dir(recipe: LRARecipe, folder: str) -> str:
    """Where generated data are kept: always on a local disk."""
    if recipe.cache_dir is not None:
        return recipe.cache_dir
    if "://" not in folder:
        return f"{folder}/data"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "luna_tf", "listops")


def make_source(split: Split, recipe: LRARecipe) -> IndexedSource:
    """The batches of a split, made inside of TensorFlow.

    Args:
        split: expressions.
        recipe: the recipe.

    Returns:
        A source of `token_ids`, int32 `(rows, sequence_length)`, and
        `labels`, int32 `(rows,)`.
    """
    from luna_tf.data.lra.listops_batches import gather
    from luna_tf.training.sources import IndexedSource

    return IndexedSource(len(split), gather(split, recipe.sequence_length))


def batch_spec(recipe: LRARecipe, batch_size: int) -> dict[str, Any]:
    """Shapes of one batch, `tf.TensorSpec` by name.

    Args:
        recipe: the recipe.
        batch_size: rows.
    """
    import tensorflow as tf

    return {
        "token_ids": tf.TensorSpec(
            (batch_size, recipe.sequence_length), tf.int32
        ),
        "labels": tf.TensorSpec((batch_size,), tf.int32),
        "example_weights": tf.TensorSpec((batch_size,), tf.float32),
    }


def make_trainer(
    recipe: LRARecipe, placement: Placement, data_service: str | None = None
) -> Trainer:
    """Model, optimizer and loop of a recipe on the devices of a placement.

    Args:
        recipe: the recipe.
        placement: where to train.
        data_service: see `Trainer`.

    Returns:
        A trainer with initial weights.

    Raises:
        RecipeError: sizes that do not fit each other or the devices.
    """
    from luna_tf.training.trainer import Trainer, check_batch_size

    try:
        check_batch_size(
            recipe.batch_size,
            placement.num_replicas,
            recipe.accumulation_steps,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return Trainer(
        make_loop(
            recipe, placement.strategy, session.precision_of(recipe, placement)
        ),
        recipe.batch_size,
        recipe.seed,
        data_service=data_service,
        num_workers=placement.num_workers,
    )


def make_loop(
    recipe: LRARecipe, strategy: tf.distribute.Strategy, precision: str
) -> Loop:
    """The steps of a recipe.

    Args:
        recipe: the recipe.
        strategy: where the replicas are.
        precision: number format of the layers.

    Returns:
        A loop whose model has its initial weights.
    """
    from luna_tf.data.lra import listops
    from luna_tf.training.tasks import Classification

    return optimization.make_loop(
        recipe,
        strategy,
        precision,
        make_model,
        lambda network: Classification(network, listops.PAD_ID),
    )


def _train(
    trainer: Trainer,
    command: flags.Command,
    placement: Placement,
    splits: dict[str, Split],
) -> TrainingResult:
    print("Compiling the training step ...", flush=True)
    recipe = command.recipe
    return session.train(
        trainer,
        command,
        placement,
        make_source(splits["train"], recipe),
        make_source(splits["validation"], recipe),
        functools.partial(_draw, splits),
    )


def _draw(splits: dict[str, Split], history: dict[str, list[float]]) -> Figure:
    from luna_tf.data.lra import listops
    from luna_tf.visualize import training_curves

    lines = listops.reference_lines(splits["train"], splits["validation"])
    return training_curves(
        history,
        {name.replace("_", " "): value for name, value in lines.items()},
        title="Luna on ListOps",
    )


def _export(network: keras.Model, recipe: LRARecipe, folder: str) -> None:
    from luna_tf.data.lra import listops
    from luna_tf.interop.saved_model import export_saved_model

    # A fresh model: in float32, and its variables on no strategy's devices.
    weights = network.get_weights()
    network = make_model(recipe)
    network.set_weights(weights)
    path = files.join(folder, "saved_model")
    files.remove(path)  # of a run that goes on
    export_saved_model(network, path)
    vocabulary = {
        "tokens": list(listops.VOCABULARY),
        "padding_id": listops.PAD_ID,
        "first_id": listops.CLS_ID,
        "last_id": listops.EOS_ID,
        "max_sequence_length": recipe.sequence_length,
    }
    text = json.dumps(vocabulary, indent=2) + "\n"
    files.write_text(files.join(path, "vocabulary.json"), text)


if __name__ == "__main__":
    main()
