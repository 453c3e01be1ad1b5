"""Pretrains a Luna encoder on text, and tests and exports it."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

from . import (
    encoder_export,
    flags,
    mlm_blanks,
    mlm_data,
    mlm_report,
    optimization,
    session,
    tables,
    tokenizers,
)
from .mlm_recipe import PROGRAM, MLMRecipe
from .recipe_fields import BackboneFields, backbone_arguments

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure

    from luna_tf.training.loop import Loop
    from luna_tf.training.records import TrainingResult
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-mlm`; ends the process with its status."""
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
    session.schedule(command)
    placement = session.start(command)
    precision = session.precision_of(recipe, placement)
    if will_train:
        session.open_folder(command, mlm_report.FILES, placement.is_chief)
    elif mode in ("evaluate", "export"):
        session.check_trained(folder)
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    if mode not in ("evaluate", "export"):
        corpus = mlm_data.corpus_files(recipe)
    if mode in ("vocab", "export") and not placement.is_chief:
        return 0
    # One worker learns and tokenizes, the others read.
    if not placement.is_chief:
        placement.meeting.wait()
    if mode in ("evaluate", "export"):
        tokenizer = tokenizers.read_of_run(folder)
    else:
        if will_train and placement.is_chief:
            session.clear_folder(command, mlm_report.FILES)
        tokenizer = mlm_data.load_tokenizer(recipe, folder, corpus)
    print(f"Subwords: {tokenizer.vocabulary_size():,}", flush=True)
    if mode == "vocab":
        print(f"They are in {folder}/{tokenizers.TOKENIZER}.")
        return 0
    if mode == "export":
        network = make_model(recipe, tokenizer)
        session.read_weights(network, folder)
        encoder_export.export(
            network, recipe.sequence_length, tokenizer, folder
        )
        print("\n" + _files_text(folder))
        return 0
    if mode == "evaluate":
        test_rows = mlm_data.load_test_rows(recipe, folder, tokenizer)
    else:
        rows = mlm_data.load_rows(recipe, folder, tokenizer)
        test_rows = rows.test
    if placement.is_chief:
        placement.meeting.wait()
    masking = mlm_data.make_masking(recipe, tokenizer)
    mlm_data.check_masks(test_rows, masking, "test")
    if mode != "evaluate":
        print(mlm_data.describe(rows, recipe), flush=True)
        mlm_data.check_masks(rows.validation, masking, "validation")
    trainer = make_trainer(
        recipe, placement, tokenizer, command.machine.data_service
    )
    if recipe.source == "text":
        # Seeds were set, which makes TensorFlow forget SentencePiece models.
        tokenizer = tokenizers.read_of_run(folder)
    trained = None
    if mode == "evaluate":
        session.read_weights(trainer.loop.model, folder)
    else:
        source = mlm_data.train_source(recipe, rows, masking, tokenizer)
        if mode == "input_benchmark":
            print(session.input_benchmark(trainer, source))  # type: ignore
            return 0
        if placement.is_chief:
            session.record(command, placement, precision)
        print("Compiling the training step ...", flush=True)
        with mlm_data.explained(recipe, rows.corpus):
            trained = session.train(
                trainer,
                command,
                placement,
                source,
                mlm_data.indexed_source(rows.validation, masking, recipe.seed),
                _draw,
                mlm_report.metrics,
                recipe.train_minutes,
            )
        if trained.stopped_by is not None:
            print(session.stopped_text(trained, folder))
            return session.stopped_status(trained)
    if mode == "train":
        print("\n" + _files_text(folder))
        return 0
    if mode == "train_and_evaluate" and placement.is_chief:
        plain = make_model(recipe, tokenizer)
        plain.set_weights(trainer.loop.model.get_weights())
        encoder_export.export(plain, recipe.sequence_length, tokenizer, folder)
    about = {
        "title": "Masked language model",
        **mlm_report.without_context(test_rows, tokenizer),
        "device": placement.reason,
        "precision": precision,
        "attention": recipe.attention,
        "sequence_length": recipe.sequence_length,
        "peak_memory_mib": session.peak_memory_mib(),
    }
    _test(
        command,
        trainer,
        placement,
        test_rows,
        masking,
        tokenizer,
        trained,
        about,
        started,
    )
    return 0


def _files_text(folder: str) -> str:
    return tables.files_text(folder, mlm_report.SHOWN_FILES)


def make_model(
    recipe: MLMRecipe, tokenizer: Any, precision: str = "float32"
) -> keras.Model:
    """The model of a recipe, with initial weights.

    Args:
        recipe: the recipe.
        tokenizer: whose ids it reads.
        precision: number format of the layers.

    Returns:
        `LunaMaskedLM` without preprocessor.

    Raises:
        RecipeError: when the model refuses its sizes.
    """
    from luna_tf.interop import fairseq
    from luna_tf.models import LunaMaskedLM

    try:
        network = LunaMaskedLM(
            make_backbone(recipe, tokenizer.vocabulary_size(), precision),
            share_embeddings=recipe.share_embeddings,
        )
        if recipe.initialization != "keras":
            fairseq.initialize(
                network, scheme=recipe.initialization, seed=recipe.seed
            )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return network


def make_backbone(
    recipe: Any, vocabulary_size: int, precision: str = "float32"
) -> Any:
    """The encoder of a recipe.

    Args:
        recipe: has `BackboneFields`, `sequence_length` and `seed`.
        vocabulary_size: number of token ids.
        precision: number format of the layers.

    Returns:
        `LunaBackbone`.
    """
    from luna_tf.models import LunaBackbone

    names = [field.name for field in dataclasses.fields(BackboneFields)]
    sinusoidal = recipe.position_embedding == "sinusoidal"
    return LunaBackbone(
        vocabulary_size=vocabulary_size,
        max_sequence_length=recipe.sequence_length,
        # As the official encoder.
        embedding_scale=recipe.hidden_dim**0.5 if sinusoidal else 1.0,
        seed=recipe.seed,
        dtype=precision,
        **backbone_arguments(recipe, names),
    )


def make_trainer(
    recipe: MLMRecipe,
    placement: Placement,
    tokenizer: Any,
    data_service: str | None = None,
) -> Trainer:
    """Model, optimizer and loop of a recipe on the devices of a placement.

    Args:
        recipe: the recipe.
        placement: where to train.
        tokenizer: of the rows.
        data_service: see `Trainer`.

    Returns:
        A trainer with initial weights.

    Raises:
        RecipeError: sizes that do not fit each other or the devices.
    """
    from luna_tf.training.trainer import Trainer

    precision = session.precision_of(recipe, placement)
    try:
        return Trainer(
            make_loop(recipe, placement.strategy, precision, tokenizer),
            recipe.batch_size,
            recipe.seed,
            rank=lambda evaluation: -evaluation.loss,
            data_service=data_service,
            num_workers=placement.num_workers,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error


def make_loop(
    recipe: MLMRecipe,
    strategy: tf.distribute.Strategy,
    precision: str,
    tokenizer: Any,
) -> Loop:
    """The steps of a recipe.

    Args:
        recipe: the recipe.
        strategy: where the replicas are.
        precision: number format of the layers.
        tokenizer: of the rows.

    Returns:
        A loop whose model has its initial weights.
    """
    from luna_tf.training.tasks import MaskedTokens

    return optimization.make_loop(
        recipe,
        strategy,
        precision,
        lambda recipe, precision: make_model(recipe, tokenizer, precision),
        lambda network: MaskedTokens(
            network, tokenizer.pad_token_id, tokenizer.token_bytes()
        ),
    )


def _draw(history: dict[str, list[float]]) -> Figure:
    from luna_tf.visualize import training_curves

    return training_curves(history, title="Masked language model")


def _test(
    command: flags.Command,
    trainer: Trainer,
    placement: Placement,
    rows: np.ndarray,
    masking: Any,
    tokenizer: Any,
    trained: TrainingResult | None,
    about: dict[str, Any],
    started: float,
) -> None:
    recipe, folder = command.recipe, command.model_dir
    print(f"Testing on {len(rows):,} rows ...", flush=True)
    test = trainer.evaluate(mlm_data.indexed_source(rows, masking, recipe.seed))
    about["wall_time_seconds"] = time.monotonic() - started
    results = mlm_report.results(trainer.loop.model, test, trained, about)
    table = mlm_report.rows(results)
    if placement.is_chief and trained:
        tables.write(folder, results, table)
    print("\n" + tables.to_text(results["title"], table))
    plain = make_model(recipe, tokenizer)
    plain.set_weights(trainer.loop.model.get_weights())
    blanks = mlm_blanks.fill(plain, tokenizer, rows)
    print("\n" + mlm_report.blanks_text(blanks))
    print("\n" + _files_text(folder))


if __name__ == "__main__":
    main()
