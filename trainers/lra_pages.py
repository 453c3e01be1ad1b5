"""`luna-lra report`: runs side by side, beside published numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError

from . import flags, lra_attention, session
from .lra_recipe import PROGRAM
from .lra_tasks import TASKS

NAME = "luna-lra report"
HELP = """\
luna-lra report writes one page about finished runs: accuracy per task beside
published numbers and trivial baselines, curves, speed, memory, settings and
what the packed slots attend to.

Usage: luna-lra report RUN [RUN ...] [--output_dir=DIR]

  RUN                       Folder of a finished run, its --model_dir.
  --output_dir=DIR          Where report.html and report.md go. [.]
"""
_PICTURES = {
    "Curves": "curves.png",
    "What packed slots attend to": lra_attention.PICTURE,
}


def main(argv: list[str]) -> int:
    """Writes `report.html` and `report.md`.

    Args:
        argv: the words behind `luna-lra report`.

    Returns:
        Exit status: 0, or 2 for what the user can put right.
    """
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_string("output_dir", ".", "", flag_values=values)
    if not argv or any(word in flags.HELP for word in argv):
        print(HELP)
        return 0 if argv else 2
    try:
        folders = values([NAME, *argv])[1:]
        if not folders:
            raise RecipeError("which runs? Name the folder of at least one.")
        paths = write(folders, str(values["output_dir"].value))
    except (absl_flags.Error, RecipeError) as error:
        print(f"{NAME}: {error}\nTry {NAME} --help.", file=sys.stderr)
        return 2
    print("\n".join(paths))
    return 0


def write(folders: list[str], output_dir: str) -> list[str]:
    """Reads runs and writes the report on them.

    A folder that holds no finished run is left out, and named.

    Args:
        folders: of finished runs.
        output_dir: folder that gets `report.html` and `report.md`.

    Returns:
        The paths of the two files.

    Raises:
        RecipeError: none holds a finished run, or the report cannot be
            written.
    """
    flags.import_tensorflow()
    from luna_tf.data.lra.published import MEANS_WITHOUT_RETRIEVAL, published
    from luna_tf.visualize import lra_page
    from luna_tf.visualize.lra_summary import group_runs

    runs = []
    for folder in folders:
        try:
            runs.append(read(folder.rstrip("/")))
        except RecipeError as error:
            print(f"{NAME}: left out: {error}", file=sys.stderr)
    if not runs:
        raise RecipeError("there is no finished run among the folders.")
    groups = group_runs(runs)
    tasks = {group.task for group in groups}
    rows: dict[str, list[dict[str, Any]]] = {
        task: [
            {
                "model": row.model,
                "source": row.source,
                "accuracy": row.accuracies[task],
            }
            for row in published(task)
        ]
        for task in tasks
    }
    titles = {task: TASKS[task].title for task in tasks}
    means = MEANS_WITHOUT_RETRIEVAL
    paths = []
    for name, text in (
        ("report.html", lra_page.to_html(groups, rows, titles, means)),
        ("report.md", lra_page.to_markdown(groups, rows, titles, means)),
    ):
        path = files.join(output_dir, name)
        try:
            files.prepare_folder(output_dir)
            files.write_text(path, text)
        except Exception as error:
            if not session.is_about_files(error):
                raise
            raise RecipeError(
                f"--output_dir={output_dir} cannot be written to: {error}."
            ) from error
        paths.append(path)
    return paths


def read(folder: str) -> Any:
    """Reads what a run left.

    Args:
        folder: its model_dir.

    Returns:
        A `luna_tf.visualize.lra_summary.Run`.

    Raises:
        RecipeError: it holds no finished run.
    """
    path = files.join(folder, "results.json")
    if not files.exists(path):
        raise RecipeError(f"{folder} holds no results.json.")
    try:
        return _read(folder)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"{folder} holds no run of this version of luna-lra: "
            f"{type(error).__name__}: {error}"
        ) from error
    except Exception as error:
        if not session.is_about_files(error):
            raise
        raise RecipeError(f"{folder} cannot be read: {error}") from error


def _read(folder: str) -> Any:
    from luna_tf.training import recipes
    from luna_tf.visualize.lra_summary import Run

    results = json.loads(files.read_text(files.join(folder, "results.json")))
    # What a page cannot do without.
    TASKS[results["task"]]
    float(results["test"]["accuracy"]), results["test"]["interval_95"][1]
    results["title"] + results["data"]
    dict(results["reference_lines"]), dict(results["groups"]["entries"])
    if len(results["classes"]) != len(results["confusion"]):
        raise ValueError("there are more classes than rows of the confusion")
    recipe = files.join(folder, "recipe.yaml")
    if not files.exists(recipe):
        raise ValueError("there is no recipe.yaml")
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(PROGRAM.schema)
        if field.default is not dataclasses.MISSING
    }
    environment = _json(files.join(folder, "environment.json"), [])
    attention = _json(files.join(folder, lra_attention.TOKENS), {})
    return Run(
        name=Path(folder).name,
        results=results,
        # Of a run from before a field was, it has the default.
        recipe={**defaults, **recipes.read_yaml(recipe, PROGRAM.folder)},
        environment=[dict(start) for start in environment],
        history=_history(files.join(folder, "history.csv")),
        pictures=_pictures(folder),
        attention=[
            {**example, "slots": dict(example["slots"])}
            for example in attention.get("examples", [])
        ],
    )


def _json(path: str, default: Any) -> Any:
    return json.loads(files.read_text(path)) if files.exists(path) else default


def _history(path: str) -> dict[str, list[float]]:
    if not files.exists(path):
        return {}
    rows = list(csv.DictReader(io.StringIO(files.read_text(path))))
    return {
        name: [float(row[name]) if row[name] else float("nan") for row in rows]
        for name in (rows[0] if rows else {})
    }


def _pictures(folder: str) -> dict[str, bytes]:
    found = {}
    for heading, name in _PICTURES.items():
        path = files.join(folder, name)
        if files.exists(path):
            found[heading] = files.read_bytes(path)
    return found
