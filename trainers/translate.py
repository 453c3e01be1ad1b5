"""Trains Luna to translate, and tests and exports it."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import (
    flags,
    optimization,
    session,
    tables,
    translate_export,
    translate_report,
    translate_weights,
)
from . import translate_data as data
from .recipe_fields import backbone_arguments
from .translate_recipe import PROGRAM, TranslateRecipe

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from matplotlib.figure import Figure

    from luna_tf.data.parallel import Shape, Vocabulary
    from luna_tf.training.loop import Loop
    from luna_tf.training.records import Evaluation, TrainingResult
    from luna_tf.training.sources import BucketedSource
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer

    from .translate_decoding import Translator
    from .translate_weights import Weights


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-translate`; ends the process with its status."""
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
    positions = None  # as many as the recipe needs
    will_train = mode in ("train", "train_and_evaluate")
    session.schedule(command)
    placement = session.start(command)
    precision = session.precision_of(recipe, placement)
    if will_train:
        session.open_folder(command, translate_report.FILES, placement.is_chief)
    elif mode != "input_benchmark":
        session.check_trained(folder)
        positions = translate_weights.num_positions(recipe, folder)
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    if mode == "export":
        vocabulary = data.read_vocabulary(recipe, folder)
        network = make_model(recipe, num_positions=positions)
        translate_weights.read(network, folder)
        translate_export.export(network, recipe, vocabulary, folder)
        print("\n" + _files_text(folder))
        return 0
    pairs = data.load_pairs(recipe)
    trainer = make_trainer(
        recipe, placement, command.machine.data_service, positions
    )
    trained = None
    if mode == "evaluate":
        vocabulary = data.read_vocabulary(recipe, folder)
        weights = translate_weights.read(trainer.loop.model, folder)
    else:
        # One worker learns the vocabulary, the others read it.
        if not placement.is_chief:
            placement.meeting.wait()
        if will_train and placement.is_chief:
            session.clear_folder(command, translate_report.FILES)
        vocabulary = data.load_vocabulary(recipe, folder, pairs["train"])
        if placement.is_chief:
            placement.meeting.wait()
        tokens = {
            name: data.encode(pairs[name], vocabulary)
            for name in ("train", "validation")
        }
        shapes = data.choose_shapes(
            recipe, tokens["train"], placement.num_replicas
        )
        if mode == "input_benchmark":
            _benchmark_input(trainer, tokens["train"], shapes)
            return 0
        if placement.is_chief:
            session.record(command, placement, precision)
            files.remove(files.join(folder, translate_report.MEAN_WEIGHTS))
        validation, filled = data.make_source(
            tokens["validation"],
            data.validation_shapes(
                recipe, shapes, tokens["validation"], placement.num_replicas
            ),
            "cut",
        )
        print(data.describe(filled, "validate on"))
        trained = _train(
            trainer,
            command,
            placement,
            tokens,
            shapes,
            validation,
            vocabulary,
        )
        if trained.stopped_by is not None:
            print(session.stopped_text(trained, folder))
            return session.stopped_status(trained)
        weights = translate_weights.choose(
            trainer, command, placement.is_chief, validation, trained
        )
    if mode == "train":
        print("\n" + _files_text(folder))
        return 0
    if mode == "train_and_evaluate" and placement.is_chief:
        plain = make_model(recipe)
        plain.set_weights(trainer.loop.model.get_weights())
        translate_export.export(plain, recipe, vocabulary, folder)
    _test(
        command,
        trainer,
        placement,
        data.encode(pairs["test"], vocabulary),
        vocabulary,
        trained,
        weights,
        {
            "title": translate_report.title(recipe),
            "wall_time_seconds": time.monotonic() - started,
            "device": placement.reason,
            "precision": precision,
        },
    )
    return 0


def _benchmark_input(
    trainer: Trainer, tokens: data.Tokens, shapes: tuple[Shape, ...]
) -> None:
    source, filled = data.make_source(tokens, shapes, "drop")
    print(data.describe(filled, "train on"))
    for bucket, rows in zip(source.sources, source.batch_sizes, strict=True):
        print(session.input_benchmark(trainer, bucket, rows))


def _files_text(folder: str) -> str:
    return tables.files_text(folder, translate_report.SHOWN_FILES)


def make_model(
    recipe: TranslateRecipe,
    precision: str = "float32",
    num_positions: int | None = None,
) -> keras.Model:
    """The translator of a recipe, with initial weights.

    Args:
        recipe: the recipe.
        precision: number format of the layers.
        num_positions: longest sequence that learned positions cover; what the
            recipe needs when None.

    Returns:
        `LunaSeq2SeqLM`.

    Raises:
        RecipeError: when the model refuses its sizes.
    """
    from luna_tf.interop import fairseq
    from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM

    same = [
        field.name
        for field in recipes.grouped(TranslateRecipe)["Model"]
        if field.name != "initialization"
    ]
    try:
        backbone = LunaSeq2SeqBackbone(
            vocabulary_size=recipe.vocabulary_size,
            max_sequence_length=num_positions or recipe.num_positions(),
            seed=recipe.seed,
            dtype=precision,
            **backbone_arguments(recipe, same),
        )
        network = LunaSeq2SeqLM(backbone)
        if recipe.initialization != "keras":
            fairseq.initialize(
                network, scheme=recipe.initialization, seed=recipe.seed
            )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return network


def make_trainer(
    recipe: TranslateRecipe,
    placement: Placement,
    data_service: str | None = None,
    num_positions: int | None = None,
) -> Trainer:
    """Model, optimizer and loop of a recipe on the devices of a placement.

    Args:
        recipe: the recipe.
        placement: where to train.
        data_service: see `Trainer`.
        num_positions: see `make_model`.

    Returns:
        A trainer with initial weights.

    Raises:
        RecipeError: sizes that do not fit each other or the devices.
    """
    from luna_tf.training.trainer import Trainer

    precision = session.precision_of(recipe, placement)
    return Trainer(
        make_loop(recipe, placement.strategy, precision, num_positions),
        # Buckets bring their own.
        placement.num_replicas * recipe.accumulation_steps,
        recipe.seed,
        rank=lambda evaluation: -evaluation.loss,
        data_service=data_service,
        num_workers=placement.num_workers,
    )


def make_loop(
    recipe: TranslateRecipe,
    strategy: tf.distribute.Strategy,
    precision: str,
    num_positions: int | None = None,
) -> Loop:
    """The steps of a recipe.

    Args:
        recipe: the recipe.
        strategy: where the replicas are.
        precision: number format of the layers.
        num_positions: see `make_model`.

    Returns:
        A loop whose model has its initial weights.
    """
    from luna_tf.data.parallel.vocabulary import PAD_ID
    from luna_tf.training.tasks import Translation

    return optimization.make_loop(
        recipe,
        strategy,
        precision,
        functools.partial(make_model, num_positions=num_positions),
        lambda network: Translation(network, recipe.label_smoothing, PAD_ID),
    )


def batch_spec(shape: Shape, num_replicas: int = 1) -> dict[str, Any]:
    """Shapes of one replica's batch, `tf.TensorSpec` by name.

    Args:
        shape: of the global batch.
        num_replicas: among which its rows are divided.
    """
    import tensorflow as tf

    rows = shape.rows // num_replicas
    source, target = shape.source_length, shape.target_length
    return {
        "encoder_token_ids": tf.TensorSpec((rows, source), tf.int32),
        "decoder_token_ids": tf.TensorSpec((rows, target), tf.int32),
        "labels": tf.TensorSpec((rows, target), tf.int32),
        "example_weights": tf.TensorSpec((rows,), tf.float32),
    }


def _train(
    trainer: Trainer,
    command: flags.Command,
    placement: Placement,
    tokens: dict[str, data.Tokens],
    shapes: tuple[Shape, ...],
    validation: BucketedSource,
    vocabulary: Vocabulary,
) -> TrainingResult:
    recipe = command.recipe
    train, filled = data.make_source(tokens["train"], shapes, "drop")
    print(data.describe(filled, "train on"), flush=True)
    print("Compiling the training step ...", flush=True)
    return session.train(
        trainer,
        command,
        placement,
        train,
        validation,
        _draw,
        _bleu_measure(trainer, recipe, placement, tokens, vocabulary),
        recipe.train_minutes,
        recipe.average_checkpoints,
    )


def _bleu_measure(
    trainer: Trainer,
    recipe: TranslateRecipe,
    placement: Placement,
    tokens: dict[str, data.Tokens],
    vocabulary: Vocabulary,
) -> Any:
    """What is measured at validations besides the loss, or None."""
    if not recipe.validation_bleu_pairs:
        return None
    from .translate_scores import corpus_scores

    part = tokens["validation"].first(recipe.validation_bleu_pairs)
    translator = _translator(trainer, recipe, placement, vocabulary, 1)

    def measure(_: Evaluation) -> dict[str, float]:
        found = translator(part.source)
        hypotheses = [t.texts[0] for t in found]
        return {"bleu": corpus_scores(hypotheses, part.pairs.targets)["bleu"]}

    return measure


def _translator(
    trainer: Trainer,
    recipe: TranslateRecipe,
    placement: Placement,
    vocabulary: Vocabulary,
    beam_size: int,
) -> Translator:
    from .translate_decoding import Translator

    return Translator(
        trainer.loop.model,
        vocabulary,
        placement.strategy,
        recipe.max_length,
        beam_size,
        recipe.length_penalty,
        recipe.max_length_ratio,
        recipe.jit_compile,
    )


def _draw(history: dict[str, list[float]]) -> Figure:
    from luna_tf.visualize import training_curves

    return training_curves(history, title="Translation")


def _test(
    command: flags.Command,
    trainer: Trainer,
    placement: Placement,
    tokens: data.Tokens,
    vocabulary: Vocabulary,
    trained: TrainingResult | None,
    weights: Weights,
    about: dict[str, Any],
) -> None:
    recipe, folder = command.recipe, command.model_dir
    print(f"Translating {len(tokens.pairs):,} test sentences ...", flush=True)
    started = time.monotonic()
    translator = _translator(
        trainer, recipe, placement, vocabulary, recipe.beam_size
    )
    found = translator(tokens.source)
    about["wall_time_seconds"] += time.monotonic() - started
    about["search"] = (
        f"beam {recipe.beam_size}, length penalty {recipe.length_penalty:g}"
    )
    sources, references = tokens.pairs.sources, tokens.pairs.targets
    results = translate_report.results(
        trainer.loop.model, sources, references, found, trained, weights, about
    )
    rows = translate_report.rows(results)
    if placement.is_chief and (
        trained or not files.exists(files.join(folder, "results.json"))
    ):
        tables.write(folder, results, rows)
        translate_report.write_translations(folder, sources, references, found)
    shown = translate_report.examples_text(
        sources, references, found, recipe.num_shown
    )
    print(f"{shown}\n\n{tables.to_text(results['title'], rows)}")
    print("\n" + _files_text(folder))


if __name__ == "__main__":
    main()
