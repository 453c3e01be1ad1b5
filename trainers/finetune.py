"""Fine-tunes a pretrained encoder on labelled texts, tests and exports it."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import (
    encoder_export,
    finetune_data,
    finetune_report,
    flags,
    optimization,
    presets,
    session,
    tables,
)
from .finetune_recipe import PROGRAM, FinetuneRecipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from luna_tf.training.records import Evaluation
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer

LABELS = "labels.txt"


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-finetune`; ends the process with its status."""
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
    will_train = mode in ("train", "train_and_evaluate")
    recipe.check_given()
    presets.check(recipe.preset)
    session.schedule(command)
    placement = session.start(command)
    precision = session.precision_of(recipe, placement)
    if will_train:
        session.open_folder(command, finetune_report.FILES, placement.is_chief)
    elif mode != "input_benchmark":
        session.check_trained(folder)
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    if mode == "export":
        if placement.is_chief:
            _export(recipe, folder)
        return 0
    examples = finetune_data.load(recipe)
    make_model = functools.partial(
        _make_model, num_classes=examples.num_outputs
    )
    trainer, preprocessor = make_trainer(
        recipe, placement, make_model, command.machine.data_service
    )
    if recipe.best_by != "auto":
        trainer.rank = functools.partial(_rank, recipe, examples)
    network = trainer.loop.model
    splits = examples.splits
    trained = None
    labels = files.join(folder, LABELS)
    names = "".join(f"{name}\n" for name in examples.class_names)
    if mode == "evaluate":
        if files.exists(labels) and files.read_text(labels) != names:
            raise RecipeError(
                f"train_data={recipe.train_data} has the classes "
                f"{', '.join(examples.class_names)}, but {labels} has others: "
                "give the table that the model learned from."
            )
        session.read_weights(network, folder)
    else:
        rows = {
            kind: finetune_data.token_rows(splits[kind], preprocessor)
            for kind in ("train", "validation")
        }
        print(
            finetune_data.describe(examples, preprocessor, rows["train"]),
            flush=True,
        )
        sources = {
            kind: finetune_data.make_source(table, splits[kind].labels)
            for kind, table in rows.items()
        }
        if mode == "input_benchmark":
            print(session.input_benchmark(trainer, sources["train"]))
            return 0
        if placement.is_chief:
            session.clear_folder(command, finetune_report.FILES)
            session.record(command, placement, precision)
            files.write_text(labels, names)
        # No worker may look for checkpoints that another one is removing.
        placement.meeting.wait()
        print("Compiling the training step ...", flush=True)
        trained = session.train(
            trainer,
            command,
            placement,
            sources["train"],
            sources["validation"],
            _draw,
            functools.partial(_measure, examples),
            recipe.train_minutes,
        )
        if trained.stopped_by is not None:
            print(session.stopped_text(trained, folder))
            return session.stopped_status(trained)
    if mode == "train_and_evaluate" and placement.is_chief:
        plain, _ = make_model(recipe)
        plain.set_weights(network.get_weights())
        length, tokenizer = preprocessor.sequence_length, preprocessor.tokenizer
        encoder_export.export(plain, length, tokenizer, folder)
    if mode in ("train_and_evaluate", "evaluate"):
        test = trainer.evaluate(
            finetune_data.make_source(
                finetune_data.token_rows(splits["test"], preprocessor),
                splits["test"].labels,
            )
        )
        start = "pretrained" if recipe.load_weights else "from scratch"
        about = {
            "title": "Fine-tuning",
            "start": f"{start}, {recipe.preset}",
            "device": placement.reason,
            "precision": precision,
            "wall_time_seconds": time.monotonic() - started,
        }
        results = finetune_report.results(
            test, examples, network.count_params(), trained, about
        )
        table = finetune_report.rows(results)
        if placement.is_chief and trained:
            tables.write(folder, results, table)
        if placement.is_chief and test.predictions is not None:
            finetune_report.write_predictions(
                folder, splits["test"], test.predictions, examples.class_names
            )
        print("\n" + tables.to_text(results["title"], table))
    print("\n" + tables.files_text(folder, finetune_report.FILES))
    return 0


def _export(recipe: FinetuneRecipe, folder: str) -> None:
    """Writes preset and SavedModel once more; no table is read."""
    labels = files.read_text(files.join(folder, LABELS)).splitlines()
    # A regression has no labels and one output.
    network, preprocessor = _make_model(recipe, num_classes=len(labels) or 1)
    session.read_weights(network, folder)
    length, tokenizer = preprocessor.sequence_length, preprocessor.tokenizer
    encoder_export.export(network, length, tokenizer, folder)
    print("\n" + tables.files_text(folder, finetune_report.FILES))


def _measure(
    examples: finetune_data.Examples, result: Evaluation
) -> dict[str, float]:
    """Correlations and the like, besides the loss."""
    if result.predictions is None:
        return {}
    found = finetune_report.scores(
        examples.splits["validation"].labels,
        result.predictions,
        len(examples.class_names),
    )
    return {k: v for k, v in found.items() if k not in result.metrics}


def _make_model(
    recipe: FinetuneRecipe, precision: str = "float32", *, num_classes: int
) -> tuple[Any, Any]:
    """The classifier of a recipe, and what prepares its texts.

    Args:
        recipe: the recipe.
        precision: number format of the layers.
        num_classes: classes, or 1 in a regression.

    Returns:
        `LunaTextClassifier` without preprocessor, and the preprocessor.

    Raises:
        RecipeError: the preset cannot be used like this.
    """
    from luna_tf.models import (
        LunaTextClassifier,
        LunaTextClassifierPreprocessor,
    )

    assert recipe.preset is not None
    given = presets.load_task(recipe.preset)
    if given.preprocessor is None:
        raise RecipeError(
            f"preset={recipe.preset} has no tokenizer: make it with "
            "luna-convert and its --dict."
        )
    if given.backbone.num_segments:
        raise RecipeError(
            f"preset={recipe.preset} is not possible: its encoder wants the "
            "segment of each token; allowed is one without segments."
        )
    config = given.backbone.get_config()
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        rate = getattr(recipe, name)
        if rate is not None:
            config[name] = rate
    config |= {"dtype": precision, "seed": recipe.seed}
    config.pop("name")
    length = recipe.sequence_length or given.preprocessor.sequence_length
    try:
        backbone = type(given.backbone).from_config(config)
        if recipe.load_weights:
            backbone.set_weights(given.backbone.get_weights())
        preprocessor = LunaTextClassifierPreprocessor(
            given.preprocessor.tokenizer,
            sequence_length=length,
            num_separators=getattr(given.preprocessor, "num_separators", None),
        )
        network = LunaTextClassifier(
            backbone,
            num_classes,
            pooling=recipe.pooling,
            hidden_dim=recipe.head_hidden_dim,
            dropout=recipe.head_dropout,
        )
        limit = backbone.max_sequence_length
        if backbone.position_embedding == "learned" and length > limit:
            raise RecipeError(
                f"sequence_length={length} is not possible: allowed is at "
                f"most the preset's {limit} learned positions."
            )
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(str(error)) from error
    return network, preprocessor


def make_trainer(
    recipe: FinetuneRecipe,
    placement: Placement,
    make_model: Any,
    data_service: str | None = None,
) -> tuple[Trainer, Any]:
    """Model, optimizer and loop of a recipe on the devices of a placement.

    Args:
        recipe: the recipe.
        placement: where to train.
        make_model: returns model and preprocessor.
        data_service: see `Trainer`.

    Returns:
        A trainer, and the preprocessor of its texts.

    Raises:
        RecipeError: sizes that do not fit each other or the devices.
    """
    from luna_tf.training.tasks import TextClassification, TextRegression
    from luna_tf.training.trainer import Trainer

    precision = session.precision_of(recipe, placement)
    made = []

    def make(recipe: FinetuneRecipe, precision: str) -> Any:
        network, preprocessor = make_model(recipe, precision)
        made.append(preprocessor)
        return network

    def make_task(network: Any) -> Any:
        pad_id = made[0].tokenizer.pad_token_id
        if recipe.objective == "classification":
            return TextClassification(network, pad_id)
        return TextRegression(network, pad_id)

    loop = optimization.make_loop(
        recipe, placement.strategy, precision, make, make_task
    )
    rank = None
    if recipe.objective == "regression":
        rank = lambda evaluation: -evaluation.loss  # noqa: E731
    try:
        trainer = Trainer(
            loop,
            recipe.batch_size,
            recipe.seed,
            rank=rank,
            data_service=data_service,
            num_workers=placement.num_workers,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return trainer, made[0]


def _rank(recipe: FinetuneRecipe, examples: Any, found: Evaluation) -> Any:
    """What makes one validation better than another."""
    assert found.predictions is not None
    labels = examples.splits["validation"].labels
    scores = finetune_report.scores(
        labels, found.predictions, len(examples.class_names)
    )
    return scores[recipe.best_by], -found.loss


def _draw(history: dict[str, list[float]]) -> Figure:
    from luna_tf.visualize import training_curves

    return training_curves(history, title="Fine-tuning")


if __name__ == "__main__":
    main()
