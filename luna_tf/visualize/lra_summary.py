"""Runs on the Long Range Arena side by side: groups, tables, curves."""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from luna_tf.visualize.comparison import comparison_curves

# Of Student's t, 97.5 %, by degrees of freedom; beyond, 1.96 is near enough.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_MOST_CURVES = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """What a folder of a finished run holds.

    Args:
        name: how to call it.
        results: `results.json`.
        recipe: fields of `recipe.yaml`.
        environment: `environment.json`, one entry per start.
        history: columns of `history.csv`, NaN where there is no value.
        pictures: heading to PNG.
        attention: examples of `attention.json`.
    """

    name: str
    results: Mapping[str, Any]
    recipe: Mapping[str, Any]
    environment: Sequence[Mapping[str, Any]] = ()
    history: Mapping[str, Sequence[float]] = dataclasses.field(
        default_factory=dict
    )
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    attention: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in their seed alone.

    Args:
        task: of the Long Range Arena.
        label: what distinguishes the group from others of its task.
        runs: at least one.
    """

    task: str
    label: str
    runs: tuple[Run, ...]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of every run, 0 to 1."""
        return [run.results["test"]["accuracy"] for run in self.runs]

    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy.

        Of one run it is that of its test examples (Wilson); of several it is
        that of their mean over seeds (Student's t).

        Returns:
            Lower and upper end, 0 to 1.
        """
        if len(self.runs) == 1:
            low, high = self.runs[0].results["test"]["interval_95"]
            return low, high
        values = np.array(self.accuracies)
        freedom = len(values) - 1
        factor = _T[freedom - 1] if freedom <= len(_T) else 1.96
        half = factor * values.std(ddof=1) / math.sqrt(len(values))
        return float(values.mean() - half), float(values.mean() + half)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts runs together that differ in their seed alone.

    A group is called after its attention and after the fields in which it
    differs from other groups of its task. A run that repeats recipe and seed
    of another one makes a group of its own.

    Args:
        runs: runs of any tasks.

    Returns:
        Groups by task, in the order in which they were given.

    Example:

    >>> results = {"task": "text", "title": "Luna on text"}
    >>> runs = [
    ...     Run(name, results | {"test": {"accuracy": share}}, {"seed": seed})
    ...     for name, share, seed in [("a", 0.64, 0), ("b", 0.66, 1)]
    ... ]
    >>> [group] = group_runs(runs)
    >>> low, high = group.interval()
    >>> group.label, round(low, 3), round(high, 3)
    ('Luna', 0.523, 0.777)
    """
    found: dict[tuple, list[Run]] = {}
    copies: collections.Counter = collections.Counter()
    for run in runs:
        fields = {k: v for k, v in run.recipe.items() if k not in _NOT_THE_SAME}
        key = tuple(sorted((k, repr(v)) for k, v in fields.items()))
        # The same seed once more is no further seed.
        again = (key, run.recipe.get("seed"))
        found.setdefault((copies[again], key), []).append(run)
        copies[again] += 1
    parts = list(found.values())
    groups = []
    for part in parts:
        task = part[0].results["task"]
        rivals = [p[0] for p in parts if p[0].results["task"] == task]
        groups.append(Group(task, _label(part[0], rivals), tuple(part)))
    tasks = list(dict.fromkeys(group.task for group in groups))
    return sorted(groups, key=lambda group: tasks.index(group.task))


_NOT_THE_SAME = ("seed", "cache_dir")


def _label(run: Run, rivals: Sequence[Run]) -> str:
    title = run.results["title"].partition(" on ")[0]
    differing = [
        f"{name}={run.recipe[name]}"
        for name in run.recipe
        if name not in (*_NOT_THE_SAME, "attention")
        and len({repr(r.recipe.get(name)) for r in rivals}) > 1
    ]
    return ", ".join([title, *differing])


def accuracy_curves(groups: Sequence[Group]) -> Figure | None:
    """Draws validation accuracy against minutes of training.

    Args:
        groups: of one task; the first run of each is drawn, and at most five
            groups.

    Returns:
        A figure, or None when no run has validations.
    """
    curves = {}
    for group in groups[:_MOST_CURVES]:
        history = group.runs[0].history
        seconds = np.asarray(history.get("train_seconds", ()), np.float64)
        accuracy = np.asarray(
            history.get("validation_accuracy", ()), np.float64
        )
        if len(seconds) == len(accuracy) and np.isfinite(accuracy).any():
            minutes = (seconds / 60).tolist()
            curves[group.label] = (minutes, (100 * accuracy).tolist())
    if not curves:
        return None
    return comparison_curves(
        curves, "minutes of training steps", "validation accuracy, %"
    )


def as_png(figure: Figure) -> bytes:
    """Draws a figure.

    Args:
        figure: of matplotlib.

    Returns:
        The content of a PNG file.

    Example:

    >>> as_png(Figure())[:4]
    b'\\x89PNG'
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def data_url(png: bytes) -> str:
    """Puts a picture into a page itself.

    Args:
        png: content of a PNG file.

    Returns:
        What goes into `src` of an HTML `img`.

    Example:

    >>> data_url(b"abc")
    'data:image/png;base64,YWJj'
    """
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
