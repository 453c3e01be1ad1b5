"""What every trainer does around its training: devices, folder, reporting."""

from __future__ import annotations

import functools
import json
import math
import os
import resource
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import app
from absl import flags as absl_flags
from absl import logging as absl_logging

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import flags

if TYPE_CHECKING:
    from luna_tf.training.checkpoints import Restored
    from luna_tf.training.records import (
        Evaluation,
        Schedule,
        TrainingLog,
        TrainingResult,
    )
    from luna_tf.training.sources import (
        IndexableSource,
        IndexedSource,
        Source,
        StreamSource,
    )
    from luna_tf.training.strategy import Placement
    from luna_tf.training.trainer import Trainer

CHECKPOINTS = "checkpoints"
BEST_WEIGHTS = "best.weights.h5"
# Everything that training writes, and what it is for.
TRAINING_FILES = {
    "recipe.yaml": "the effective recipe",
    "environment.json": "command, versions, devices, git revision",
    "history.csv": "loss, accuracy, learning rate and speed by step",
    "curves.png": "the same as a figure",
    "tensorboard": "the same for `tensorboard --logdir`",
    CHECKPOINTS: "from which the same command goes on",
    BEST_WEIGHTS: "weights of the best validation",
    "model.keras": "the model with them, for keras.models.load_model",
}
# What of a recipe may change when a run goes on: more of the same. None is
# without a limit.
_MAY_GROW = ("train_steps", "train_minutes")
# Metrics that others are computed from.
_NOT_SHOWN = ("bytes",)
INPUT_BENCHMARK_SECONDS = 10.0


def launch(
    program: flags.Program,
    run: Callable[[flags.Command], int],
    argv: list[str] | None,
) -> None:
    """Runs a trainer's command line; ends the process with its status.

    Args:
        program: the trainer.
        run: see `run_program`.
        argv: command and arguments, `sys.argv` when None.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    app.run(
        functools.partial(run_program, program.name, run),
        argv=argv,
        flags_parser=functools.partial(flags.parse, program),
    )


def run_program(
    name: str, run: Callable[[flags.Command], int], command: flags.Command
) -> int:
    """Runs a trainer and turns what goes wrong into a line and a status.

    Args:
        name: of the program.
        run: does what the command asks for and returns the exit status.
        command: from `flags.parse`.

    Returns:
        Exit status of the process: that of `run`; 1 when training diverged or
        files could not be written; 2 for what the user can put right; 76 when
        another worker was lost; 130 after an interrupt.
    """
    try:
        return run(command)
    except RecipeError as error:
        flags.fail(name, str(error))
    except KeyboardInterrupt:
        print(
            f"\n{name}: interrupted. The same command goes on.",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        from luna_tf.training.checkpoints import CheckpointError
        from luna_tf.training.records import NonFiniteLossError, WorkerLostError
        from luna_tf.training.stopping import EXIT_WORKER_LOST

        if isinstance(error, WorkerLostError):
            print(f"{name}: {error}", file=sys.stderr)
            return EXIT_WORKER_LOST
        expected = NonFiniteLossError | CheckpointError
        if isinstance(error, expected) or is_about_files(error):
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        raise


def is_about_files(error: Exception) -> bool:
    """Whether an error tells of files that cannot be read or written.

    Args:
        error: of Python's or of TensorFlow's file functions.
    """
    import tensorflow as tf

    return isinstance(
        error,
        OSError
        | tf.errors.PermissionDeniedError
        | tf.errors.ResourceExhaustedError
        | tf.errors.FailedPreconditionError
        | tf.errors.NotFoundError,
    )


def start(command: flags.Command) -> Placement:
    """Imports TensorFlow and sets up the devices, before anything else.

    Args:
        command: from `flags.parse`.

    Returns:
        Where the run takes place.

    Raises:
        RecipeError: the devices cannot be had.
    """
    flags.import_tensorflow()
    if absl_flags.FLAGS["verbosity"].using_default_value:
        # TensorFlow tells of every reduction between workers.
        absl_logging.set_verbosity(absl_logging.WARNING)
    import keras

    from luna_tf.training.strategy import StrategyError, choose_strategy

    if keras.backend.backend() != "tensorflow":
        raise RecipeError(
            f"KERAS_BACKEND={keras.backend.backend()} is not possible: "
            "allowed is tensorflow."
        )
    machine = command.machine
    try:
        placement = choose_strategy(
            machine.distribution_strategy, machine.tpu, machine.logical_cpus
        )
    except StrategyError as error:
        raise RecipeError(str(error)) from error
    if not placement.is_chief:
        # One process speaks; the others only tell what goes wrong.
        sys.stdout = _Silence()
    print(f"Devices: {placement.reason}", flush=True)
    return placement


class _Silence:
    """A stream that forgets."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def open_folder(
    command: flags.Command, names: Mapping[str, str], is_chief: bool = True
) -> None:
    """Checks and prepares the folder of a run that trains.

    A folder that holds a run of the same recipe is gone on with. More
    training steps or minutes are allowed, nothing else. With --overwrite it
    may hold any run: `clear_folder` removes that.

    Args:
        command: from `flags.parse`.
        names: files and folders that a run writes, besides its data.
        is_chief: whether this process writes.

    Raises:
        RecipeError: the folder holds another run, or cannot be written to.
    """
    folder = command.model_dir
    try:
        if is_chief:
            files.prepare_folder(folder)
    except OSError as error:
        raise RecipeError(
            f"--model_dir={folder} cannot be written to: {error}."
        ) from error
    if command.overwrite:
        return
    present = [n for n in names if files.exists(files.join(folder, n))]
    if not present:
        return
    recipe = files.join(folder, "recipe.yaml")
    choice = "Give another folder, or --overwrite to start anew in this one."
    # A run that was killed before its first checkpoint has the first two.
    is_ours = present == ["recipe.yaml"] or "environment.json" in present
    if not is_ours or "recipe.yaml" not in present:
        raise RecipeError(
            f"--model_dir={folder} holds {', '.join(present)}, but nothing to "
            f"go on from. {choice}"
        )
    changed = recipes.differences(
        recipes.read_yaml(recipe, _NoFolder()), command.recipe
    )
    may_grow = [name for name in _MAY_GROW if hasattr(command.recipe, name)]
    for name in may_grow:
        limits = changed.get(name, (0, 0))
        before, now = (math.inf if n is None else n for n in limits)
        if before < now:
            del changed[name]
    if changed:
        listed = ", ".join(
            f"{name} was {_yaml(old)}, now {_yaml(new)}"
            for name, (old, new) in changed.items()
        )
        raise RecipeError(
            f"--model_dir={folder} holds a run with another recipe: {listed}. "
            f"Only {' and '.join(may_grow)} may grow when a run goes on. "
            f"{choice}"
        )


def clear_folder(command: flags.Command, names: Mapping[str, str]) -> None:
    """Removes the run that --overwrite gives up, once another can begin.

    Args:
        command: from `flags.parse`.
        names: files and folders that a run writes, besides its data.
    """
    if command.overwrite:
        for name in names:
            files.remove(files.join(command.model_dir, name))


class _NoFolder:
    """Stands for the named recipes where only a path is read."""

    def iterdir(self) -> tuple:
        return ()


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def check_trained(folder: str) -> None:
    """Refuses a folder without trained weights.

    Args:
        folder: the model_dir.

    Raises:
        RecipeError: it has none.
    """
    if not files.exists(files.join(folder, BEST_WEIGHTS)):
        raise RecipeError(
            f"--model_dir={folder} holds no {BEST_WEIGHTS} to read."
        )


def read_weights(network: Any, folder: str, name: str = BEST_WEIGHTS) -> str:
    """Reads weights that a run left.

    Args:
        network: made by the same recipe; it gets them.
        folder: the model_dir.
        name: of the file.

    Returns:
        Path of the file.

    Raises:
        RecipeError: the weights are those of another model.
    """
    path = files.join(folder, name)
    try:
        with warnings.catch_warnings():
            # Keras only warns of some weights that it does not find.
            warnings.simplefilter("error", UserWarning)
            files.read_by(path, network.load_weights)
    except (OSError, ValueError, UserWarning) as error:
        first = str(error).strip().partition("\n")[0]
        raise RecipeError(f"{path} does not fit the recipe: {first}") from error
    return path


def peak_memory_mib() -> float:
    """Largest memory of this process so far, in MiB."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def precision_of(recipe: Any, placement: Placement) -> str:
    """The number format of the layers, "auto" resolved.

    Args:
        recipe: has `precision`.
        placement: where the run takes place.
    """
    if recipe.precision != "auto":
        return recipe.precision
    return placement.default_precision


def record(
    command: flags.Command, placement: Placement, precision: str
) -> None:
    """Writes recipe and environment beside the run.

    Args:
        command: from `flags.parse`.
        placement: where the run takes place.
        precision: number format of the layers.
    """
    from luna_tf.training import environment

    folder = command.model_dir
    path = files.join(folder, "recipe.yaml")
    files.write_text(
        path,
        f"# What this run did; --config={path} repeats it.\n"
        + recipes.to_yaml(command.recipe),
    )
    path = files.join(folder, "environment.json")
    starts = json.loads(files.read_text(path)) if files.exists(path) else []
    starts.append(
        {
            **environment.describe(sys.argv),
            "devices_used": placement.reason,
            "replicas": placement.num_replicas,
            "precision": precision,
        }
    )
    files.write_text(path, json.dumps(starts, indent=2) + "\n")


def train(
    trainer: Trainer,
    command: flags.Command,
    placement: Placement,
    source: Source,
    validation: IndexableSource,
    draw: Callable[[dict[str, list[float]]], Any],
    measure: Callable[[Evaluation], dict[str, float]] | None = None,
    minutes: float | None = None,
    keep_validated: int = 0,
) -> TrainingResult:
    """Trains with a progress bar, tables, TensorBoard and checkpoints.

    Args:
        trainer: what to train.
        command: from `flags.parse`; its recipe has `train_steps`,
            `eval_every` and `steps_per_loop`.
        placement: where the run takes place.
        source: what to train on.
        validation: what to choose the best weights by.
        draw: given the history, returns a figure of the curves.
        measure: of the result of a validation, gives further metrics by name.
        minutes: of training steps after which to stop, or None.
        keep_validated: of the checkpoints at multiples of `eval_every`, keep
            so many of the newest, however few the command keeps.

    Returns:
        What `Trainer.train` returns. The model holds the best weights unless
        the run was stopped.

    Raises:
        NonFiniteLossError: with the batch written to the folder.
    """
    from luna_tf.training.progress import ProgressBar, RunLog
    from luna_tf.training.records import NonFiniteLossError

    folder, recipe = command.model_dir, command.recipe
    chief = placement.is_chief
    stream = None if chief else _Silence()
    bar = ProgressBar(recipe.train_steps, "train", stream)  # type: ignore
    log = RunLog(folder)
    best_weights = files.join(folder, BEST_WEIGHTS)
    if chief:
        for name in ("recipe.yaml", "environment.json"):
            text = files.read_text(files.join(folder, name))
            log.note(name, textwrap.indent(text, "    "))

    def on_resume(restored: Restored) -> None:
        for line in restored.skipped:
            bar.note(f"not usable: {line}")
        bar.note(f"going on from step {restored.step:,}")
        log.resume(restored.step)

    def on_log(entry: TrainingLog) -> None:
        if chief:
            log.add("train", entry.step, entry.scalars())
        bar.update(
            entry.step,
            progress_text(entry),
            math.inf if minutes is None else 60 * minutes - entry.seconds,
        )

    def on_evaluation(step: int, result: Evaluation, is_best: bool) -> None:
        values = {**result.metrics, **(measure(result) if measure else {})}
        if chief:
            log.add("validation", step, {"loss": result.loss, **values})
            if is_best:
                files.write_by(best_weights, trainer.loop.model.save_weights)
        metrics = "".join(f", {text}" for text in _metric_texts(values))
        bar.note(
            f"step {step:,}: validation loss {result.loss:.3f}{metrics}"
            f"{' (best)' if is_best else ''}"
        )

    checkpoints = trainer.make_checkpoints(
        files.join(folder, CHECKPOINTS),
        command.machine.keep_checkpoints,
        placement.worker,
        recipe.eval_every,
        keep_validated,
    )
    try:
        result = trainer.train(
            source,
            schedule(command),
            validation,
            checkpoints,
            on_resume=on_resume,
            on_log=on_log,
            on_evaluation=on_evaluation,
            on_save=(lambda _: log.save()) if chief else None,
            profile_dir=files.join(folder, "tensorboard", "profile"),
            max_seconds=None if minutes is None else 60 * minutes,
        )
    except NonFiniteLossError as error:
        if chief:
            _keep_batch(trainer, source, error, folder)
        raise
    finally:
        bar.close()
        if chief:
            log.close()
            figure = draw(log.history())
            files.write_by(files.join(folder, "curves.png"), figure.savefig)
    if result.stopped_by is None:
        files.read_by(best_weights, trainer.loop.model.load_weights)
        if chief:
            files.write_by(
                files.join(folder, "model.keras"), trainer.loop.model.save
            )
    return result


def schedule(command: flags.Command) -> Schedule:
    """When the training of a command does what.

    Raises:
        RecipeError: intervals that do not fit each other.
    """
    flags.import_tensorflow()
    from luna_tf.training.records import Schedule

    recipe, machine = command.recipe, command.machine
    try:
        return Schedule(
            recipe.train_steps,
            recipe.eval_every,
            recipe.steps_per_loop,
            machine.checkpoint_every,
            machine.profile_range(),
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error


def progress_text(entry: TrainingLog) -> str:
    """The measurements of a progress line."""
    parts = [f"loss {entry.loss:.3f}", *_metric_texts(entry.metrics)]
    parts.append(f"lr {entry.learning_rate:.2g}")
    if entry.rates:
        rates = entry.rates
        parts.append(
            f"{rates.steps_per_second:.3g} steps/s  "
            f"{rates.examples_per_second:,.0f} examples/s  "
            f"{rates.tokens_per_second:,.0f} tokens/s"
        )
    return "  ".join(parts)


def _metric_texts(metrics: Mapping[str, float]) -> list[str]:
    return [
        f"accuracy {100 * value:.1f} %"
        if name == "accuracy"
        else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in metrics.items()
        if name not in _NOT_SHOWN
    ]


def _keep_batch(trainer: Trainer, source: Any, error: Any, folder: str) -> None:
    """Writes the inputs of the step that failed, to be looked at."""
    import numpy as np

    if error.indices is None:
        return
    positions = error.step * len(error.indices) + np.arange(len(error.indices))
    batch = (
        source.gather(error.indices)
        if hasattr(source, "sources")
        else source.batch(error.indices, positions)
    )
    arrays: dict[str, Any] = {
        name: np.asarray(tensor) for name, tensor in batch.items()
    }
    arrays["indices"] = error.indices
    name = f"not_finite_step_{error.step + 1}.npz"
    path = files.join(folder, name)
    files.write_by(path, lambda p: np.savez(p, **arrays))
    print(f"The batch of that step is in {path}.", file=sys.stderr)


def stopped_text(result: TrainingResult, folder: str) -> str:
    """What to tell when a run was stopped."""
    assert result.stopped_by is not None
    return (
        f"{result.stopped_by.name} at step {result.step:,}. The same command "
        f"goes on from there; checkpoints, curves and the best weights so far "
        f"are in {folder}."
    )


def stopped_status(result: TrainingResult) -> int:
    """Exit status of a run that was stopped."""
    from luna_tf.training.stopping import EXIT_PREEMPTED

    return 130 if result.stopped_by == signal.SIGINT else EXIT_PREEMPTED


def input_benchmark(
    trainer: Trainer,
    source: IndexedSource | StreamSource,
    batch_size: int | None = None,
) -> str:
    """Measures how fast batches come when nothing uses them.

    Args:
        trainer: whose batches.
        source: where from.
        batch_size: rows of the global batch; the trainer's when None.

    Returns:
        A line for the user.
    """
    import time

    import tensorflow as tf

    steps = 10**6
    rows = batch_size or trainer.batch_size
    iterator = trainer.training_iterator(source, 0, steps, rows)
    strategy: Any = trainer.loop.strategy
    batch = next(iterator)  # opens files, fills buffers
    size = sum(
        int(tf.size(t)) * t.dtype.size
        for local in tf.nest.map_structure(
            strategy.experimental_local_results, batch
        ).values()
        for t in local
    )
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < INPUT_BENCHMARK_SECONDS:
        next(iterator)
        count += 1
    rate = count / (time.perf_counter() - started)
    return (
        f"Input pipeline alone: {rate:,.1f} steps/s, "
        f"{rate * rows:,.0f} examples/s, "
        f"{rate * size / 2**20:,.1f} MiB/s on this worker. Training is "
        "starved where it could go faster than that."
    )
