"""Trains and evaluates Luna on the ListOps task of the Long Range Arena."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

from . import flags, lra_report
from .lra_recipe import GENERATOR_FIELDS, PROGRAM, LRARecipe

if TYPE_CHECKING:
    import keras

    from luna_tf.data.lra.listops import Split
    from luna_tf.training.loop import Evaluation, Loop, TrainingResult


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-lra`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    app.run(
        _main, argv=argv, flags_parser=functools.partial(flags.parse, PROGRAM)
    )


def _main(command: flags.Command) -> int:
    try:
        return run(command)
    except RecipeError as error:
        flags.fail(PROGRAM.name, str(error))
    except ArithmeticError as error:
        print(f"{PROGRAM.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM.name}: interrupted.", file=sys.stderr)
        return 130


def run(command: flags.Command) -> int:
    """Does what a command line asks for.

    Args:
        command: from `flags.parse`.

    Returns:
        Exit status of the process: 0, or 130 after an interrupt.

    Raises:
        RecipeError: for whatever the user can put right.
        ArithmeticError: when training diverges.
    """
    started = time.monotonic()
    recipe, folder, mode = command.recipe, command.model_dir, command.mode
    will_train = mode in ("train", "train_and_evaluate")
    lra_report.check_folder(folder, will_train, command.overwrite)
    _check_data(recipe, command.given)
    keras = _import_keras()
    keras.utils.set_random_seed(recipe.seed)
    network = make_model(recipe)
    print(f"# Recipe ({command.config})\n{recipes.to_yaml(recipe)}", flush=True)
    trained = splits = None
    if mode != "export":
        splits = load_splits(recipe, folder)
    loop = _make_loop(network, recipe)
    if will_train and splits:
        lra_report.clear(folder)
        trained = _train(loop, recipe, folder, splits)
        if trained.interrupted:
            print(
                f"Interrupted at step {trained.step:,}. The curves so far and "
                f"the best weights, if there was a validation, are in {folder}."
            )
            return 130
    else:
        _load_weights(network, folder / "best.weights.h5")
    if mode in ("train_and_evaluate", "export"):
        _export(network, recipe, folder)
    if mode in ("train_and_evaluate", "evaluate") and splits:
        tested = loop.evaluate(
            _examples(splits["test"], recipe), recipe.batch_size
        )
        results = lra_report.results(
            network,
            splits,
            tested,
            trained,
            recipe.precision,
            time.monotonic() - started,
        )
        if will_train or not (folder / "results.json").exists():
            lra_report.write(results, folder)
        print("\n" + lra_report.to_text(results, folder))
    elif mode != "evaluate":
        print("\n" + lra_report.files(folder))
    return 0


def _import_keras() -> Any:
    flags.import_tensorflow()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RecipeError(
            f"KERAS_BACKEND={keras.backend.backend()} is not possible: "
            "allowed is tensorflow."
        )
    return keras


def _load_weights(network: keras.Model, path: Path) -> None:
    try:
        network.load_weights(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} does not fit the recipe: {error}") from error


def make_model(recipe: LRARecipe, precision: str | None = None) -> keras.Model:
    """The classifier of a recipe, with initial weights.

    Args:
        recipe: the recipe.
        precision: number format, the recipe's when None.

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
            dtype=precision or recipe.precision,
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


def load_splits(recipe: LRARecipe, folder: Path) -> dict[str, Split]:
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
                cache_dir=recipe.cache_dir or folder / "data",
            )
        else:
            source = recipe.cache_dir or str(folder / "data")
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


def _examples(split: Split, recipe: LRARecipe) -> Any:
    from luna_tf.training.loop import Examples

    return Examples(
        len(split),
        lambda indices: (
            split.padded(indices, recipe.sequence_length),
            split.labels[indices],
        ),
    )


def _make_loop(network: keras.Model, recipe: LRARecipe) -> Loop:
    import keras

    from luna_tf.training import schedules
    from luna_tf.training.loop import Loop

    if recipe.schedule == "cosine":
        schedule = schedules.CosineWithWarmup(
            recipe.learning_rate, recipe.train_steps, recipe.warmup_steps
        )
    else:
        schedule = schedules.InverseSquareRoot(
            recipe.learning_rate,
            recipe.warmup_steps,
            recipe.initial_learning_rate,
        )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=recipe.weight_decay,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        global_clipnorm=recipe.clip_norm or None,
    )
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return Loop(network, optimizer, jit_compile=recipe.jit_compile)


def _train(
    loop: Loop, recipe: LRARecipe, folder: Path, splits: dict[str, Split]
) -> TrainingResult:
    from luna_tf.training.progress import ProgressBar, RunLog

    (folder / "recipe.yaml").write_text(
        f"# What this run did; --config={folder / 'recipe.yaml'} repeats it.\n"
        + recipes.to_yaml(recipe),
        encoding="utf-8",
    )
    log = RunLog(folder)
    bar = ProgressBar(recipe.train_steps, "train")

    def on_log(entry: Any) -> None:
        values = dataclasses.asdict(entry)
        step = values.pop("step")
        known = {k: v for k, v in values.items() if v is not None}
        log.add("train", step, known)
        rate = entry.examples_per_second
        bar.update(
            step,
            f"loss {entry.loss:.3f}  accuracy {100 * entry.accuracy:.1f} %"
            + (f"  {lra_report.speed(rate)}" if rate else ""),
        )

    def on_evaluation(step: int, result: Evaluation, is_best: bool) -> None:
        values = {"loss": result.loss, "accuracy": result.accuracy}
        log.add("validation", step, values)
        log.save()
        if is_best:
            # Under another name first: a kill must not cost the last best.
            unfinished = folder / "unfinished.weights.h5"
            loop.model.save_weights(unfinished)
            unfinished.replace(folder / "best.weights.h5")
        bar.note(
            f"step {step:,}: validation loss {result.loss:.3f}, accuracy "
            f"{100 * result.accuracy:.1f} %{' (best)' if is_best else ''}"
        )

    print("Compiling the training step ...", flush=True)
    try:
        result = loop.train(
            _examples(splits["train"], recipe),
            batch_size=recipe.batch_size,
            train_steps=recipe.train_steps,
            validation=_examples(splits["validation"], recipe),
            eval_every=recipe.eval_every,
            seed=recipe.seed,
            steps_per_loop=recipe.steps_per_loop,
            on_log=on_log,
            on_evaluation=on_evaluation,
        )
    finally:
        bar.close()
        log.close()
        _draw(log.history(), splits, folder)
    if result.best_weights is not None:
        loop.model.set_weights(result.best_weights)
        loop.model.save(folder / "model.keras")
    return result


def _draw(
    history: dict[str, list[float]], splits: dict[str, Split], folder: Path
) -> None:
    from luna_tf.data.lra import listops
    from luna_tf.visualize import training_curves

    lines = listops.reference_lines(splits["train"], splits["validation"])
    figure = training_curves(
        history,
        {name.replace("_", " "): value for name, value in lines.items()},
        title="Luna on ListOps",
    )
    figure.savefig(folder / "curves.png")


def _export(network: keras.Model, recipe: LRARecipe, folder: Path) -> None:
    from luna_tf.data.lra import listops
    from luna_tf.interop.saved_model import export_saved_model

    if recipe.precision != "float32":
        weights = network.get_weights()
        network = make_model(recipe, precision="float32")
        network.set_weights(weights)
    path = folder / "saved_model"
    export_saved_model(network, path)
    vocabulary = {
        "tokens": list(listops.VOCABULARY),
        "padding_id": listops.PAD_ID,
        "first_id": listops.CLS_ID,
        "last_id": listops.EOS_ID,
        "max_sequence_length": recipe.sequence_length,
    }
    text = json.dumps(vocabulary, indent=2) + "\n"
    (path / "vocabulary.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
