"""What a run on ListOps leaves behind: its files and its table of results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_tf.training.recipes import RecipeError

if TYPE_CHECKING:
    import keras

    from luna_tf.data.lra.listops import Split
    from luna_tf.training.loop import Evaluation, TrainingResult

# Everything a run writes next to its data, and what it is for.
TRAINING_FILES = {
    "recipe.yaml": "the effective recipe",
    "history.csv": "loss, accuracy, learning rate and speed by step",
    "curves.png": "the same as a figure",
    "tensorboard": "the same for `tensorboard --logdir`",
    "best.weights.h5": "weights of the best validation",
    "model.keras": "the model with them, for keras.models.load_model",
}
EVALUATION_FILES = {
    "results.json": "this table for programs",
    "results.md": "this table for readers",
}
EXPORT_FILES = {"saved_model": "for serving; needs TensorFlow alone"}
FILES = {**TRAINING_FILES, **EVALUATION_FILES, **EXPORT_FILES}

# Heading to lines of label, value and remark.
Rows = dict[str, list[tuple[str, str, str]]]


def check_folder(folder: Path, will_train: bool, overwrite: bool) -> None:
    """Refuses a folder that cannot take a run, before anything is computed.

    Args:
        folder: the model_dir.
        will_train: whether the run trains, or only reads what is there.
        overwrite: whether an earlier run may be replaced.

    Raises:
        RecipeError: when the folder holds a run and may not be overwritten,
            lacks the run that is to be read, or cannot be written to.
    """
    present = [name for name in FILES if (folder / name).exists()]
    if will_train and present and not overwrite:
        raise RecipeError(
            f"--model_dir={folder} already holds a run "
            f"({', '.join(present)}). Give another folder, or --overwrite to "
            "replace it (its data are kept)."
        )
    if not will_train and "best.weights.h5" not in present:
        raise RecipeError(
            f"--model_dir={folder} holds no best.weights.h5 to read."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"--model_dir={folder} cannot be made: {error.strerror}."
        ) from None
    if not os.access(folder, os.W_OK):
        raise RecipeError(f"--model_dir={folder} cannot be written to.")


def clear(folder: Path) -> None:
    """Removes what an earlier run wrote, but never its data."""
    for name in FILES:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def results(
    network: keras.Model,
    splits: Mapping[str, Split],
    tested: Evaluation,
    trained: TrainingResult | None,
    precision: str,
    seconds: float,
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        network: the model that was tested.
        splits: the data, with keys `train` and `test`.
        tested: its result on the test split.
        trained: what training gave, or None when weights were read.
        precision: number format of the layers.
        seconds: wall time so far.

    Returns:
        A dictionary fit for JSON.
    """
    import tensorflow as tf

    from luna_tf.data.lra import listops
    from luna_tf.training.progress import format_duration
    from luna_tf.training.statistics import wilson_interval

    test = splits["test"]
    lines = listops.reference_lines(splits["train"], test)
    operators = listops.accuracy_per_operator(test, tested.predictions)
    validated = trained.best_evaluation if trained else None
    device = "CPU"
    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        details = tf.config.experimental.get_device_details(gpu)
        device = details.get("device_name", "GPU")
    return {
        "title": "Luna on ListOps",
        "test": {
            "accuracy": tested.accuracy,
            "interval_95": wilson_interval(
                tested.num_correct, tested.num_examples
            ),
            "correct": tested.num_correct,
            "examples": tested.num_examples,
            "loss": tested.loss,
        },
        "reference_lines": lines,
        "margin_points": 100 * (tested.accuracy - lines["root_operator"]),
        "per_operator": {
            name.removeprefix("["): {
                "accuracy": accuracy,
                "interval_95": wilson_interval(round(accuracy * count), count),
                "examples": count,
            }
            for name, (accuracy, count) in operators.items()
        },
        "parameters": network.count_params(),
        "examples_per_second": trained.examples_per_second if trained else None,
        "best_step": trained.best_step if trained else None,
        "steps": trained.step if trained else None,
        "validation_accuracy": validated.accuracy if validated else None,
        "wall_time_seconds": seconds,
        "wall_time": format_duration(seconds),
        "device": device,
        "precision": precision,
    }


def rows(results: Mapping[str, Any]) -> Rows:
    """Lays out results as lines of label, value and remark, under headings.

    Args:
        results: what `results.json` holds.

    Returns:
        Heading to lines.
    """
    test, lines = results["test"], results["reference_lines"]
    table: Rows = {
        f"Test split, {test['examples']:,} expressions": [
            ("accuracy", _percent(test["accuracy"]), _interval(test)),
            (
                "answer by root operator",
                _percent(lines["root_operator"]),
                f"margin {results['margin_points']:+.1f} points",
            ),
            ("majority class", _percent(lines["majority"]), ""),
        ],
        "Accuracy by root operator": [
            (
                name,
                _percent(entry["accuracy"]),
                f"{_interval(entry)}, of {entry['examples']:,}",
            )
            for name, entry in results["per_operator"].items()
        ],
    }
    run = [("parameters", f"{results['parameters']:,}", "")]
    if results["examples_per_second"] is not None:
        run.append(
            (
                "training speed",
                speed(results["examples_per_second"]),
                "without compiling",
            )
        )
    if results["best_step"] is not None:
        run.append(
            (
                "best weights",
                f"step {results['best_step']:,} of {results['steps']:,}",
                f"validation {_percent(results['validation_accuracy'])}",
            )
        )
    run.append(("wall time", results["wall_time"], ""))
    run.append(("device", results["device"], results["precision"]))
    table["Run"] = run
    return table


def to_text(results: Mapping[str, Any], folder: Path) -> str:
    """The table for a terminal, with the files that exist."""
    table = rows(results)
    width = max(len(line[0]) for lines in table.values() for line in lines)
    text = [results["title"], "=" * len(results["title"])]
    for heading, lines in table.items():
        text += ["", heading]
        for label, value, remark in lines:
            text.append(f"  {label:<{width}}  {value}   {remark}".rstrip())
    return "\n".join([*text, "", files(folder)])


def files(folder: Path) -> str:
    """What a folder holds of a run, a line each."""
    width = max(map(len, FILES))
    return "\n".join(
        [
            f"Files in {folder}",
            *(
                f"  {name:<{width}}  {meaning}"
                for name, meaning in FILES.items()
                if (folder / name).exists()
            ),
        ]
    )


def to_markdown(results: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    text = [f"# {results['title']}"]
    for heading, lines in rows(results).items():
        text += ["", f"## {heading}", "", "| | | |", "|---|--:|---|"]
        text += [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(text) + "\n"


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Writes `results.json` and `results.md`."""
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(to_markdown(results), encoding="utf-8")


def speed(rate: float) -> str:
    """Writes a rate as `1,234 examples/s`, a small one as `1.2 examples/s`."""
    return f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.1f} examples/s"


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry["interval_95"]
    return f"95 % interval {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:4.1f} %"
