"""What a fine-tuning leaves behind: its files and its results."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training import files

from . import session, tables

if TYPE_CHECKING:
    from luna_tf.training.records import Evaluation, TrainingResult

    from .finetune_data import Examples, Texts

PREDICTIONS = "predictions.csv"
FILES = {
    **session.TRAINING_FILES,
    "results.json": "scores, for programs",
    "results.md": "the same for readers",
    PREDICTIONS: "every test example with what the model says",
    "labels.txt": "the names of the classes, in the order of the outputs",
    "preset": "for keras_hub: LunaTextClassifier with its tokenizer",
    "saved_model": "for serving: strings to classes",
}


def scores(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> dict[str, float]:
    """The measures that GLUE and others report, by scikit-learn and SciPy.

    Args:
        labels: true classes or numbers.
        predictions: of the model.
        num_classes: 0 in a regression.

    Returns:
        For classes `accuracy`, `f1` (of class 1 where there are two, else the
        mean over classes) and `matthews`; for numbers `pearson`, `spearman`
        and `mean_squared_error`. A correlation with something constant is 0.
    """
    if num_classes:
        from sklearn import metrics

        average = "binary" if num_classes == 2 else "macro"
        return {
            "accuracy": float(metrics.accuracy_score(labels, predictions)),
            "f1": float(
                metrics.f1_score(
                    labels, predictions, average=average, zero_division=0.0
                )
            ),
            "matthews": float(metrics.matthews_corrcoef(labels, predictions)),
        }
    from scipy import stats

    error = float(np.mean((predictions - labels) ** 2))
    found = {"pearson": 0.0, "spearman": 0.0, "mean_squared_error": error}
    if np.ptp(labels) > 0 and np.ptp(predictions) > 0:
        found["pearson"] = float(stats.pearsonr(labels, predictions)[0])
        found["spearman"] = float(stats.spearmanr(labels, predictions)[0])
    return found


def baseline(train: np.ndarray, test: np.ndarray, classes: int) -> dict:
    """What the majority class, or the mean, of the training labels gives.

    Args:
        train: labels.
        test: labels.
        classes: 0 in a regression.
    """
    if classes:
        guess = np.bincount(train).argmax()
    else:
        guess = train.mean()
    return scores(test, np.full(len(test), guess), classes)


def results(
    test: Evaluation,
    examples: Examples,
    parameters: int,
    trained: TrainingResult | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        test: result on the test split, with predictions.
        examples: from `finetune_data.load`.
        parameters: of the model.
        trained: what training gave, or None when weights were read.
        about: further entries.

    Returns:
        A dictionary fit for JSON.
    """
    splits, classes = examples.splits, len(examples.class_names)
    labels = splits["test"].labels
    assert test.predictions is not None
    rates = trained.rates if trained else None
    found = {
        "test": {
            "examples": len(labels),
            "loss": test.loss,
            **scores(labels, test.predictions, classes),
        },
        "baseline": baseline(splits["train"].labels, labels, classes),
        "parameters": parameters,
        "examples_per_second": rates.examples_per_second if rates else None,
        "steps": trained.step if trained else None,
        "best_step": trained.best_step if trained else None,
        "training_seconds": trained.seconds if trained else None,
        **about,
    }
    if classes:
        table = np.zeros((classes, classes), int)
        np.add.at(table, (labels, test.predictions), 1)
        found["confusion"] = table.tolist()
        found["class_names"] = list(examples.class_names)
    return found


_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mean_squared_error": "mean squared error",
}
_REMARKS = {"accuracy": "majority class", "mean_squared_error": "mean label"}


def rows(results: Mapping[str, Any]) -> tables.Rows:
    """Lays out results as lines of label, value and remark, under headings."""
    from luna_tf.training.progress import format_duration

    test, guess = results["test"], results["baseline"]
    lines = []
    for name, label in _NAMES.items():
        if name not in test:
            continue
        percent = name == "accuracy"
        shown = [
            f"{100 * x[name]:6.2f} %" if percent else f"{x[name]:6.3f}"
            for x in (test, guess)
        ]
        remark = _REMARKS.get(name)
        lines.append(
            (label, shown[0], f"{remark} {shown[1].strip()}" if remark else "")
        )
    table: tables.Rows = {f"Test set, {test['examples']:,} examples": lines}
    if "confusion" in results:
        names = results["class_names"]
        table["Confusion: true class, what the model says"] = [
            (
                names[i],
                " ".join(f"{n:>7,}" for n in line),
                "" if i else f"columns: {', '.join(names)}",
            )
            for i, line in enumerate(results["confusion"])
        ]
    run = [("parameters", f"{results['parameters']:,}", results["start"])]
    if results["steps"] is not None:
        run.append(
            (
                "steps",
                f"{results['steps']:,}",
                f"best validation at {results['best_step']:,}",
            )
        )
        spent = format_duration(results["training_seconds"])
        run.append(("time of steps", spent, results["device"]))
    if results["examples_per_second"] is not None:
        run.append(("speed", tables.speed(results["examples_per_second"]), ""))
    table["Run"] = run
    return table


def write_predictions(
    folder: str, texts: Texts, predictions: np.ndarray, names: tuple[str, ...]
) -> None:
    """Writes what the model says of every test example.

    Args:
        folder: the model_dir.
        texts: the test split.
        predictions: classes or numbers.
        names: of the classes, none in a regression.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    pair = ["text_pair"] if texts.pairs else []
    writer.writerow(["text", *pair, "label", "prediction"])
    for i, text in enumerate(texts.texts):
        second = [texts.pairs[i].decode()] if texts.pairs else []
        said = [texts.labels[i], predictions[i]]
        if names:
            said = [names[int(k)] for k in said]
        writer.writerow([text.decode(), *second, *said])
    files.write_text(files.join(folder, PREDICTIONS), out.getvalue())
