"""Accuracies on the Long Range Arena that others published.

In percent, as printed by their sources; nothing here was measured by this
package. Papers differ in budget and preprocessing: the models of later years
read normalised pixels and train for much longer. The rows of Luna and of the
rerun Transformer share one budget.
"""

from __future__ import annotations

import dataclasses

_TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
_ARENA = "Tay et al., 2021, table 1"
_MEGA = "Ma et al., 2023 (Mega), table 2"


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of a published table.

    Args:
        model: as its source calls it.
        source: where it was printed.
        accuracies: task to accuracy in percent; None where the source says
            that the model did not learn the task. Tasks that the source does
            not report are not there.

    Example:

    >>> row = Published("Luna-256", "a table", {"text": 65.78})
    >>> row.accuracies["text"]
    65.78
    """

    model: str
    source: str
    accuracies: dict[str, float | None]


def _row(model: str, source: str, *values: float | None) -> Published:
    return Published(model, source, dict(zip(_TASKS, values, strict=False)))


PUBLISHED = (
    _row("Transformer", _ARENA, 36.37, 64.27, 57.46, 42.44, 71.40, None),
    _row("Local attention", _ARENA, 15.82, 52.98, 53.39, 41.46, 66.63, None),
    _row("Sparse Transformer", _ARENA, 17.07, 63.58, 59.59, 44.24, 71.71, None),
    _row("Longformer", _ARENA, 35.63, 62.85, 56.89, 42.22, 69.71, None),
    _row("Linformer", _ARENA, 35.70, 53.94, 52.27, 38.56, 76.34, None),
    _row("Reformer", _ARENA, 37.27, 56.10, 53.40, 38.07, 68.50, None),
    _row("Sinkhorn", _ARENA, 33.67, 61.20, 53.83, 41.23, 67.45, None),
    _row("Synthesizer", _ARENA, 36.99, 61.68, 54.67, 41.61, 69.45, None),
    _row("BigBird", _ARENA, 36.05, 64.02, 59.29, 40.83, 74.87, None),
    _row("Linear Transformer", _ARENA, 16.13, 65.90, 53.09, 42.34, 75.30, None),
    _row("Performer", _ARENA, 18.01, 65.40, 53.82, 42.77, 77.05, None),
    _row("Transformer, rerun", _MEGA, 37.11, 65.21, 79.14, 42.94, 71.83, None),
    _row("Luna-256", _MEGA, 37.98, 65.78, 79.56, 47.86, 78.55, None),
    _row(
        "Nystromformer",
        "Xiong et al., 2021",
        *(37.15, 65.52, 79.56, 41.58, 70.94, None),
    ),
    _row("S4-v2", _MEGA, 59.60, 86.82, 90.90, 88.65, 94.20, 96.35),
    _row("Mega", _MEGA, 63.14, 90.43, 91.25, 90.44, 96.01, 97.98),
    _row("Mega-chunk", _MEGA, 58.76, 90.19, 90.97, 85.80, 94.41, 93.81),
)
# Means over ListOps, Text, Image and Pathfinder: the paper's figures have them
# for models whose single accuracies are not to be found.
MEANS_WITHOUT_RETRIEVAL = {
    "Luna-16": 56.95,
    "Luna-128": 57.42,
    "Luna-256": 57.49,
}


def published(task: str) -> list[Published]:
    """The published rows that report a task.

    Args:
        task: one of `listops`, `text`, `retrieval`, `image`, `pathfinder` and
            `pathx`.

    Returns:
        Rows in the order of publication.

    Raises:
        ValueError: there is no such task.

    Example:

    >>> row = published("text")[0]
    >>> row.model, row.accuracies["text"]
    ('Transformer', 64.27)
    """
    if task not in _TASKS:
        raise ValueError(f"task must be one of {_TASKS}. Received: {task!r}")
    return [row for row in PUBLISHED if task in row.accuracies]
