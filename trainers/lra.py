"""Trains and evaluates Luna on the tasks of the Long Range Arena."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import (
    flags,
    lra_attention,
    lra_data,
    lra_generate,
    lra_pages,
    lra_report,
    lra_tasks,
    lra_weights,
    optimization,
    session,
)
from .lra_data import Splits, batch_spec, make_source
from .lra_recipe import PROGRAM, LRARecipe

__all__ = [
    "batch_spec",
    "main",
    "make_loop",
    "make_model",
    "make_source",
    "run",
]

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from matplotlib.figure import Figure

    from luna_tf.training.loop import Loop
    from luna_tf.training.records import TrainingResult
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-lra`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    words = sys.argv if argv is None else argv
    for name, command in (
        ("report", lra_pages.main),
        ("generate", lra_generate.main),
    ):
        if words[1:2] == [name]:
            sys.exit(command(words[2:]))
    session.launch(PROGRAM, run, argv)


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
    machine: Any = command.machine
    weights = machine.weights if mode == "evaluate" else "best"
    will_train = mode in ("train", "train_and_evaluate")
    lra_data.check(recipe, command.given)
    session.schedule(command)
    placement = session.start(command)
    if machine.predictions is not None:
        lra_weights.check_predictions(machine.predictions, mode)
    if will_train:
        session.open_folder(command, lra_report.FILES, placement.is_chief)
    elif mode != "input_benchmark":
        lra_weights.check(weights, folder)
    trainer = make_trainer(recipe, placement, command.machine.data_service)
    network = trainer.loop.model
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    if mode in ("evaluate", "export"):
        lra_weights.load(network, weights, folder)
    trained = splits = None
    if mode != "export":
        # One worker fills the cache, the others read it.
        if not placement.is_chief:
            placement.meeting.wait()
        splits = lra_data.load(recipe, folder)
        if placement.is_chief:
            if will_train:
                session.clear_folder(command, lra_report.FILES)
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
    if mode in ("train_and_evaluate", "export") and placement.is_chief:
        _export(network, recipe, folder, splits)
    if mode in ("train_and_evaluate", "evaluate") and splits:
        _evaluate(command, placement, trainer, splits, trained, started)
    else:
        print("\n" + lra_report.files_text(folder))
    return 0


def _evaluate(
    command: flags.Command,
    placement: Placement,
    trainer: Trainer,
    splits: Splits,
    trained: TrainingResult | None,
    started: float,
) -> None:
    """Scores the test split, writes what was found and prints it."""
    recipe, folder = command.recipe, command.model_dir
    machine: Any = command.machine
    weights = "best" if trained else machine.weights
    source = make_source(splits["test"], recipe)
    if lra_weights.is_saved_model(weights):
        tested = lra_weights.evaluate_saved_model(
            weights, source, recipe.batch_size, lra_tasks.num_classes(recipe)
        )
    else:
        tested = trainer.evaluate(source)
    if not placement.is_chief:
        return
    assert tested.predictions is not None
    network = trainer.loop.model
    results = lra_report.results(
        recipe,
        network,
        splits,
        tested,
        trained,
        session.precision_of(recipe, placement),
        placement.reason,
        time.monotonic() - started,
        weights,
    )
    if not trained:
        lra_report.write(results, folder, "evaluation")
    path = files.join(folder, "results.json")
    if trained or (weights == "best" and not files.exists(path)):
        lra_report.write(results, folder)
        answers = files.join(folder, "predictions.csv")
        lra_report.write_predictions(
            answers, splits["test"].labels, tested.predictions
        )
    if machine.predictions is not None:
        lra_report.write_predictions(
            machine.predictions, splits["test"].labels, tested.predictions
        )
    if trained:
        lra_attention.write(
            make_plain_model(network, recipe),
            recipe,
            splits["test"],
            tested.predictions,
            folder,
        )
        # Last: it may take minutes, and all else is kept by now.
        lines = lra_report.count_words(recipe, splits)
        if lines:
            results = lra_report.with_lines(results, lines)
            lra_report.write(results, folder)
    print("\n" + lra_report.to_text(results, folder))


def make_model(recipe: LRARecipe, precision: str = "float32") -> keras.Model:
    """The classifier of a recipe, with initial weights.

    Args:
        recipe: the recipe.
        precision: number format of the layers.

    Returns:
        A model from rows `(batch, length)` to logits `(batch, classes)`.

    Raises:
        RecipeError: when the model refuses its sizes.
    """
    from luna_tf.interop import fairseq
    from luna_tf.models import LRAClassifier

    same = [
        field.name
        for field in recipes.grouped(LRARecipe)["Model"]
        if field.name != "initialization"
    ]
    try:
        network = LRAClassifier(
            num_classes=lra_tasks.num_classes(recipe),
            max_sequence_length=recipe.row_length,
            num_documents=lra_tasks.TASKS[recipe.task].documents,
            seed=recipe.seed,
            dtype=precision,
            **_input_arguments(recipe),
            **{name: getattr(recipe, name) for name in same},
        )
        if recipe.initialization != "keras":
            fairseq.initialize(
                network, scheme=recipe.initialization, seed=recipe.seed
            )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return network


def make_plain_model(network: keras.Model, recipe: LRARecipe) -> keras.Model:
    """A copy in float32 whose variables are on no strategy's devices.

    Args:
        network: a model of the recipe.
        recipe: the recipe.

    Returns:
        A model with the same weights.
    """
    weights = network.get_weights()
    plain = make_model(recipe)
    plain.set_weights(weights)
    return plain


def _input_arguments(recipe: LRARecipe) -> dict[str, Any]:
    if recipe.pixels == "values":
        return {
            "vocabulary_size": None,
            "padding_id": None,
            "input_type": "values",
        }
    ids = lra_data.token_ids(recipe)
    return {
        "vocabulary_size": ids.size,
        "padding_id": ids.padding_id,
        # Or a pixel's position would depend on which others are black.
        "positions_skip_padding": not recipe.black_is_padding,
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
    from luna_tf.training.tasks import Classification

    padding_id = _input_arguments(recipe)["padding_id"]
    return optimization.make_loop(
        recipe,
        strategy,
        precision,
        make_model,
        lambda network: Classification(
            network, padding_id, lra_data.input_name(recipe)
        ),
    )


def _train(
    trainer: Trainer,
    command: flags.Command,
    placement: Placement,
    splits: Splits,
) -> TrainingResult:
    print("Compiling the training step ...", flush=True)
    recipe = command.recipe
    return session.train(
        trainer,
        command,
        placement,
        make_source(splits["train"], recipe),
        make_source(splits["validation"], recipe),
        functools.partial(_draw, recipe, splits),
        minutes=recipe.train_minutes,
    )


def _draw(
    recipe: LRARecipe, splits: Splits, history: dict[str, list[float]]
) -> Figure:
    from luna_tf.visualize import training_curves

    lines = lra_report.reference_lines(
        recipe, splits["train"], splits["validation"]
    )
    return training_curves(
        history,
        {name.replace("_", " "): value for name, value in lines.items()},
        title=lra_report.title(recipe),
    )


def _export(
    network: keras.Model,
    recipe: LRARecipe,
    folder: str,
    splits: Splits | None,
) -> None:
    from luna_tf.interop.saved_model import export_saved_model

    path = files.join(folder, "saved_model")
    files.remove(path)  # of a run that goes on
    export_saved_model(make_plain_model(network, recipe), path)
    vocabulary = {
        **lra_data.describe_input(recipe),
        "classes": _classes(recipe, folder, splits),
    }
    text = json.dumps(vocabulary, indent=2) + "\n"
    files.write_text(files.join(path, "vocabulary.json"), text)


def _classes(
    recipe: LRARecipe, folder: str, splits: Splits | None
) -> list[str]:
    """Names of the classes, from the data or else from the run's results."""
    path = files.join(folder, "results.json")
    if splits is None and files.exists(path):
        return json.loads(files.read_text(path))["classes"]
    return list(lra_data.class_names(recipe, splits or {}))


if __name__ == "__main__":
    main()
