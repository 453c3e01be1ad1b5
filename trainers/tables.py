"""Results as a table, for a terminal and in Markdown."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from luna_tf.training import files

# Heading to lines of label, value and remark.
Rows = dict[str, list[tuple[str, str, str]]]


def to_text(title: str, rows: Rows) -> str:
    """The table for a terminal.

    Args:
        title: heading of the whole.
        rows: heading to lines.
    """
    width = max(len(line[0]) for lines in rows.values() for line in lines)
    text = [title, "=" * len(title)]
    for heading, lines in rows.items():
        text += ["", heading]
        for label, value, remark in lines:
            text.append(f"  {label:<{width}}  {value}   {remark}".rstrip())
    return "\n".join(text)


def to_markdown(title: str, rows: Rows) -> str:
    """The table as Markdown."""
    text = [f"# {title}"]
    for heading, lines in rows.items():
        text += ["", f"## {heading}", "", "| | | |", "|---|--:|---|"]
        text += [f"| {' | '.join(map(_cell, line))} |" for line in lines]
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    """Keeps names of classes, which come from data, from being markup."""
    text = html.escape(text, quote=False).replace("\\", "\\\\")
    return text.replace("|", "\\|").replace("\n", " ")


def files_text(folder: str, names: Mapping[str, str]) -> str:
    """What a folder holds of a run, a line each.

    Args:
        folder: the model_dir.
        names: file to meaning; files that do not exist are left out.
    """
    width = max(map(len, names))
    return "\n".join(
        [
            f"Files in {folder}",
            *(
                f"  {name:<{width}}  {meaning}"
                for name, meaning in names.items()
                if files.exists(files.join(folder, name))
            ),
        ]
    )


def write(
    folder: str, results: Mapping[str, Any], rows: Rows, name: str = "results"
) -> None:
    """Writes `results.json` and `results.md`.

    Args:
        folder: the model_dir.
        results: for programs; has a `title`.
        rows: for readers.
        name: of the two files.
    """
    text = json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False)
    files.write_text(files.join(folder, f"{name}.json"), text + "\n")
    files.write_text(
        files.join(folder, f"{name}.md"), to_markdown(results["title"], rows)
    )


def speed(rate: float, unit: str = "examples") -> str:
    """Writes a rate as `1,234 examples/s`, a small one as `1.2 examples/s`."""
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"
