"""What a run leaves behind: its files and its table of results."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training import files

from . import lra_data, session, tables
from .lra_data import class_names
from .lra_tasks import TASKS, num_classes

if TYPE_CHECKING:
    import keras

    from luna_tf.training.records import Evaluation, TrainingResult

    from .lra_data import Splits
    from .lra_recipe import LRARecipe

# Everything a run writes next to its data, and what it is for.
EVALUATION_FILES = {
    "results.json": "this table for programs",
    "results.md": "this table for readers",
    "evaluation.json": "the same of the last --mode=evaluate",
    "evaluation.md": "the same for readers",
    "predictions.csv": "label and answer of every test example",
    "attention.png": "what packed slots attend to, over pictures",
    "attention.json": "the same over tokens, for luna-lra report",
}
EXPORT_FILES = {"saved_model": "for serving; needs TensorFlow alone"}
FILES = {**session.TRAINING_FILES, **EVALUATION_FILES, **EXPORT_FILES}


def title(recipe: LRARecipe) -> str:
    """Heading of a run: what was trained on what."""
    names = {"luna": "Luna", "softmax": "Softmax attention"}
    attention = names.get(recipe.attention, recipe.attention)
    return f"{attention} on {TASKS[recipe.task].title}"


def reference_lines(
    recipe: LRARecipe, train: Any, test: Any
) -> dict[str, float]:
    """Accuracies of guessing.

    Args:
        recipe: the recipe.
        train: split where answers come from.
        test: split where they are scored.

    Returns:
        Name to accuracy, 0 to 1.
    """
    from luna_tf.data.lra.baselines import baselines

    return baselines(train, test)


def count_words(recipe: LRARecipe, splits: Splits) -> dict[str, float]:
    """The accuracy of counting words in the bytes that the model sees.

    Args:
        recipe: the recipe.
        splits: its data.

    Returns:
        `{"tf_idf": accuracy}`, or nothing for other tasks than text and where
        it cannot be had, which is then told.
    """
    from luna_tf.data.lra.baselines import tf_idf

    if recipe.task != "text":
        return {}
    room = recipe.row_length - recipe.add_cls
    print("Fitting TF-IDF to compare with ...", flush=True)
    try:
        return {"tf_idf": tf_idf(splits["train"], splits["test"], room)}
    except ImportError:
        print("TF-IDF is left out: it needs `pip install scikit-learn`.")
    except (ValueError, MemoryError) as error:
        print(f"TF-IDF is left out: {error}")
    return {}


def with_lines(
    results: dict[str, Any], lines: Mapping[str, float]
) -> dict[str, Any]:
    """Results with further accuracies to compare with.

    Args:
        results: from `results`.
        lines: name to accuracy, 0 to 1.

    Returns:
        Changed results.
    """
    lines = {**results["reference_lines"], **lines}
    margin = results["test"]["accuracy"] - max(lines.values())
    return {
        **results,
        "reference_lines": lines,
        "margin_points": 100 * margin,
    }


def results(
    recipe: LRARecipe,
    network: keras.Model,
    splits: Splits,
    tested: Evaluation,
    trained: TrainingResult | None,
    precision: str,
    device: str,
    seconds: float,
    weights: str = "best",
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        recipe: what was run.
        network: the model that was tested.
        splits: the data, with keys `train` and `test`.
        tested: its result on the test split.
        trained: what training gave, or None when weights were read.
        precision: number format of the layers.
        device: what it ran on.
        seconds: wall time so far.
        weights: which weights were tested, as `--weights` says it.

    Returns:
        A dictionary fit for JSON.
    """
    from luna_tf.training.progress import format_duration
    from luna_tf.training.statistics import wilson_interval

    test = splits["test"]
    lines = reference_lines(recipe, splits["train"], test)
    assert tested.predictions is not None
    validated = trained.best_evaluation if trained else None
    rates = trained.rates if trained else None
    correct = round(tested.metrics["accuracy"] * tested.weight)
    examples = round(tested.weight)
    return {
        "title": title(recipe),
        "task": recipe.task,
        "attention": recipe.attention,
        "seed": recipe.seed,
        "data": lra_data.describe(recipe),
        "weights": weights,
        "test": {
            "accuracy": correct / examples,
            "interval_95": wilson_interval(correct, examples),
            "correct": correct,
            "examples": examples,
            "loss": tested.loss,
        },
        "reference_lines": lines,
        "margin_points": 100 * (correct / examples - max(lines.values())),
        "groups": _groups(recipe, splits, tested.predictions),
        "classes": list(class_names(recipe, splits)),
        "confusion": confusion_matrix(
            test.labels, tested.predictions, num_classes(recipe)
        ).tolist(),
        "parameters": network.count_params(),
        "examples_per_second": rates.examples_per_second if rates else None,
        "tokens_per_second": rates.tokens_per_second if rates else None,
        "steps_per_second": rates.steps_per_second if rates else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "best_step": trained.best_step if trained else None,
        "steps": trained.step if trained else None,
        "training_seconds": trained.seconds if trained else None,
        "validation_accuracy": (
            validated.metrics["accuracy"] if validated else None
        ),
        "wall_time_seconds": seconds,
        "wall_time": format_duration(seconds),
        "device": device,
        "precision": precision,
    }


def peak_memory_bytes() -> int:
    """Most memory that this process has had, data included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def confusion_matrix(
    labels: Any, predictions: Any, num_classes: int
) -> np.ndarray:
    """How often each label (row) was answered by each class (column).

    Args:
        labels: `(examples,)`, from 0.
        predictions: `(examples,)`, the same.
        num_classes: rows and columns.

    Returns:
        int64 `(num_classes, num_classes)`.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predictions)), 1)
    return matrix


def _groups(
    recipe: LRARecipe, splits: Splits, predictions: Any
) -> dict[str, Any]:
    """Accuracy of parts of the test split."""
    from luna_tf.data.lra import listops
    from luna_tf.training.statistics import wilson_interval

    test = splits["test"]
    if recipe.task == "listops":
        by = "root operator"
        found = {
            name.removeprefix("["): entry
            for name, entry in listops.accuracy_per_operator(
                test, predictions
            ).items()
        }
    else:
        by, names = "class", class_names(recipe, splits)
        labels = np.asarray(test.labels)
        hits = labels == np.asarray(predictions)
        found = {
            names[label]: (
                float(hits[labels == label].mean()),
                int((labels == label).sum()),
            )
            for label in np.unique(labels)
        }
    return {
        "by": by,
        "entries": {
            name: {
                "accuracy": accuracy,
                "interval_95": wilson_interval(round(accuracy * count), count),
                "examples": count,
            }
            for name, (accuracy, count) in found.items()
        },
    }


_MOST_CLASSES = 10
_LINES = {
    "root_operator": "answer by root operator",
    "majority": "majority class",
    "tf_idf": "TF-IDF, logistic regression",
}


def rows(results: Mapping[str, Any]) -> tables.Rows:
    """Lays out results as lines of label, value and remark, under headings.

    Args:
        results: what `results.json` holds.

    Returns:
        Heading to lines.
    """
    test, lines = results["test"], results["reference_lines"]
    best = max(lines, key=lambda name: lines[name])
    margin = f"margin {results['margin_points']:+.1f} points"
    groups = results["groups"]
    table: tables.Rows = {
        f"Test split, {test['examples']:,} examples": [
            ("accuracy", _percent(test["accuracy"]), _interval(test)),
            *(
                (
                    _LINES.get(name, name),
                    _percent(value),
                    margin if name == best else "",
                )
                for name, value in sorted(
                    lines.items(), key=lambda line: -line[1]
                )
            ),
        ],
        f"Accuracy by {groups['by']}": [
            (
                name,
                _percent(entry["accuracy"]),
                f"{_interval(entry)}, of {entry['examples']:,}",
            )
            for name, entry in groups["entries"].items()
        ],
    }
    classes = results["classes"]
    if len(classes) <= _MOST_CLASSES:
        width = max(5, *map(len, classes))
        table["Answers (columns) by label (rows)"] = [
            ("", "".join(f"{name:>{width + 1}}" for name in classes), ""),
            *(
                (name, "".join(f"{n:>{width + 1},}" for n in counts), "")
                for name, counts in zip(
                    classes, results["confusion"], strict=True
                )
            ),
        ]
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


def write(
    results: Mapping[str, Any], folder: str, name: str = "results"
) -> None:
    """Writes `results.json` and `results.md`, or files of another name."""
    tables.write(folder, results, rows(results), name)


def write_predictions(path: str, labels: Any, predictions: Any) -> None:
    """Writes a CSV file with a line per example, in the order of the split.

    Args:
        path: the file; any path that `tf.io.gfile` knows.
        labels: `(examples,)`.
        predictions: `(examples,)`.
    """
    lines = ["example,label,prediction"]
    lines += [
        f"{i},{label},{prediction}"
        for i, (label, prediction) in enumerate(
            zip(labels, predictions, strict=True)
        )
    ]
    files.write_text(path, "\n".join(lines) + "\n")


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry["interval_95"]
    return f"95 % interval {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:4.1f} %"
