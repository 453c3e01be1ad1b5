"""What a run on ListOps leaves behind: its files and its table of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import session, tables

if TYPE_CHECKING:
    import keras

    from luna_tf.data.lra.listops import Split
    from luna_tf.training.records import Evaluation, TrainingResult

# Everything a run writes next to its data, and what it is for.
EVALUATION_FILES = {
    "results.json": "this table for programs",
    "results.md": "this table for readers",
}
EXPORT_FILES = {"saved_model": "for serving; needs TensorFlow alone"}
FILES = {**session.TRAINING_FILES, **EVALUATION_FILES, **EXPORT_FILES}


def results(
    network: keras.Model,
    splits: Mapping[str, Split],
    tested: Evaluation,
    trained: TrainingResult | None,
    precision: str,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        network: the model that was tested.
        splits: the data, with keys `train` and `test`.
        tested: its result on the test split.
        trained: what training gave, or None when weights were read.
        precision: number format of the layers.
        device: what it ran on.
        seconds: wall time so far.

    Returns:
        A dictionary fit for JSON.
    """
    from luna_tf.data.lra import listops
    from luna_tf.training.progress import format_duration
    from luna_tf.training.statistics import wilson_interval

    test = splits["test"]
    lines = listops.reference_lines(splits["train"], test)
    assert tested.predictions is not None
    operators = listops.accuracy_per_operator(test, tested.predictions)
    validated = trained.best_evaluation if trained else None
    rates = trained.rates if trained else None
    correct = round(tested.metrics["accuracy"] * tested.weight)
    examples = round(tested.weight)
    return {
        "title": "Luna on ListOps",
        "test": {
            "accuracy": correct / examples,
            "interval_95": wilson_interval(correct, examples),
            "correct": correct,
            "examples": examples,
            "loss": tested.loss,
        },
        "reference_lines": lines,
        "margin_points": 100 * (correct / examples - lines["root_operator"]),
        "per_operator": {
            name.removeprefix("["): {
                "accuracy": accuracy,
                "interval_95": wilson_interval(round(accuracy * count), count),
                "examples": count,
            }
            for name, (accuracy, count) in operators.items()
        },
        "parameters": network.count_params(),
        "examples_per_second": rates.examples_per_second if rates else None,
        "tokens_per_second": rates.tokens_per_second if rates else None,
        "best_step": trained.best_step if trained else None,
        "steps": trained.step if trained else None,
        "validation_accuracy": (
            validated.metrics["accuracy"] if validated else None
        ),
        "wall_time_seconds": seconds,
        "wall_time": format_duration(seconds),
        "device": device,
        "precision": precision,
    }


def rows(results: Mapping[str, Any]) -> tables.Rows:
    """Lays out results as lines of label, value and remark, under headings.

    Args:
        results: what `results.json` holds.

    Returns:
        Heading to lines.
    """
    test, lines = results["test"], results["reference_lines"]
    table: tables.Rows = {
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
                tables.speed(results["examples_per_second"]),
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


def to_text(results: Mapping[str, Any], folder: str) -> str:
    """The table for a terminal, with the files that exist."""
    table = tables.to_text(results["title"], rows(results))
    return f"{table}\n\n{files_text(folder)}"


def files_text(folder: str) -> str:
    """What a folder holds of a run, a line each."""
    return tables.files_text(folder, FILES)


def write(results: Mapping[str, Any], folder: str) -> None:
    """Writes `results.json` and `results.md`."""
    tables.write(folder, results, rows(results))


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry["interval_95"]
    return f"95 % interval {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:4.1f} %"
