"""The report on runs of the Long Range Arena: one HTML page, one Markdown.

Whatever comes from data or file names is escaped. The page loads nothing.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from luna_tf.visualize.attention import attention_over_tokens
from luna_tf.visualize.lra_summary import (
    Group,
    Run,
    accuracy_curves,
    as_png,
    data_url,
)

TITLE = "Long Range Arena: report"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 0.8rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #e2e8f0;
  text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
tr.ours td { font-weight: 600; } tr.published td { color: #475569; }
img { max-width: 100%; } pre { background: #f8fafc; padding: 0.8rem;
  overflow: auto; } .tokens { white-space: pre-wrap; font-family: monospace;
  background: #f8fafc; padding: 0.6rem; } .note { color: #475569; }
"""

# Label, accuracy, interval or source, kind.
Row = tuple[str, str, str, str]
_LINES = {
    "root_operator": "answer by root operator",
    "majority": "majority class",
    "tf_idf": "TF-IDF and logistic regression",
}


def accuracy_rows(
    groups: Sequence[Group], published: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """Lines of the accuracy table of one task.

    Args:
        groups: our runs of the task.
        published: dictionaries with `model`, `source` and `accuracy` in
            percent, None where the model did not learn the task.

    Returns:
        Label, accuracy, remark and kind: `ours`, `trivial` or `published`.

    Example:

    >>> test = {"accuracy": 0.64, "interval_95": [0.6, 0.68]}
    >>> results = {"data": "mine", "test": test,
    ...            "reference_lines": {"majority": 0.5}}
    >>> group = Group("text", "Luna", (Run("a", results, {}),))
    >>> [row[:2] for row in accuracy_rows([group], [])]
    [('Luna', '64.0 %'), ('majority class', '50.0 %')]
    """
    rows: list[Row] = []
    for group in groups:
        mean = sum(group.accuracies) / len(group.accuracies)
        low, high = group.interval()
        seeds = len(group.runs)
        of = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
        data = group.runs[0].results["data"]
        interval = (
            f"95 % interval {_percent(low)} to {_percent(high)}, {of}; {data}"
        )
        rows.append((group.label, _percent(mean), interval, "ours"))
    lines: dict[tuple[str, float], list[str]] = {}
    for group in groups:
        for run in group.runs:
            data = run.results["data"]
            for line in run.results["reference_lines"].items():
                known = lines.setdefault(line, [])
                if data not in known:
                    known.append(data)
    rows += [
        (
            _LINES.get(name, name),
            _percent(value),
            f"measured here; {' and '.join(data)}",
            "trivial",
        )
        for (name, value), data in sorted(lines.items())
    ]
    for row in published:
        value = row["accuracy"]
        shown = "not learnt" if value is None else f"{value:.2f} %"
        rows.append(
            (row["model"], shown, f"published: {row['source']}", "published")
        )
    return rows


def cost_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Lines of the table of what runs took.

    Args:
        groups: our runs.

    Returns:
        Cells by line, the heading first.

    Example:

    >>> cost_rows([])[0][:3]
    ('run', 'seed', 'accuracy')
    """
    rows: list[tuple[str, ...]] = [
        (
            "run",
            "seed",
            "accuracy",
            "steps",
            "training time",
            "steps/s",
            "examples/s",
            "peak memory",
            "parameters",
            "device",
        )
    ]
    for group in groups:
        for run in group.runs:
            found = run.results
            rows.append(
                (
                    run.name,
                    str(run.recipe.get("seed", "")),
                    _percent(found["test"]["accuracy"]),
                    _number(found.get("steps")),
                    _minutes(found.get("training_seconds")),
                    _number(found.get("steps_per_second"), 2),
                    _number(found.get("examples_per_second")),
                    _gibibytes(found.get("peak_memory_bytes")),
                    _number(found.get("parameters")),
                    str(found.get("device", "")),
                )
            )
    return rows


def to_markdown(
    groups: Sequence[Group],
    published: Mapping[str, Sequence[Mapping[str, Any]]],
    titles: Mapping[str, str],
    means: Mapping[str, float],
) -> str:
    """The tables of the report as Markdown.

    Args:
        groups: our runs.
        published: task to the rows for `accuracy_rows`.
        titles: task to its name.
        means: published means over four tasks, in percent, by model.

    Returns:
        The text of a file.
    """
    text = [f"# {TITLE}", "", _means_text(means)]
    for task in _tasks(groups):
        ours = [group for group in groups if group.task == task]
        text += [
            "",
            f"## {titles[task]}",
            "",
            "| | accuracy | |",
            "|---|--:|---|",
        ]
        text += [
            f"| {_cell(label)} | {_cell(value)} | {_cell(remark)} |"
            for label, value, remark, _ in accuracy_rows(ours, published[task])
        ]
        heading, *rows = cost_rows(ours)
        text += ["", _line(heading), _line(["---"] * len(heading))]
        text += [_line(row) for row in rows]
    return "\n".join(text) + "\n"


def to_html(
    groups: Sequence[Group],
    published: Mapping[str, Sequence[Mapping[str, Any]]],
    titles: Mapping[str, str],
    means: Mapping[str, float],
) -> str:
    """The whole report as one page that needs no other file.

    Args:
        groups: our runs.
        published: task to the rows for `accuracy_rows`.
        titles: task to its name.
        means: published means over four tasks, in percent, by model.

    Returns:
        The text of a file.
    """
    body = [f"<h1>{TITLE}</h1>"]
    body += _overview(groups, titles)
    body.append(f'<p class="note">{_text(_means_text(means))}</p>')
    body.append(
        '<p class="note">Bold: runs of this report, on the data that each run '
        "names. Published rows are from the papers named, on the official "
        "data; they are comparable only where the data are the same.</p>"
    )
    for task in _tasks(groups):
        ours = [group for group in groups if group.task == task]
        body.append(f"<h2>{_text(titles[task])}</h2>")
        body.append(_accuracy_table(accuracy_rows(ours, published[task])))
        figure = accuracy_curves(ours)
        if figure is not None:
            body.append(_image(as_png(figure), "validation accuracy by time"))
        body.append(_table(cost_rows(ours)))
        for group in ours:
            for run in group.runs:
                body += _details(run)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _overview(groups: Sequence[Group], titles: Mapping[str, str]) -> list[str]:
    """A table of all tasks, where there is more than one."""
    tasks = _tasks(groups)
    if len(tasks) < 2:
        return []
    attentions = dict.fromkeys(g.label.partition(", ")[0] for g in groups)
    rows: list[tuple[str, ...]] = [("", *(titles[task] for task in tasks))]
    for attention in attentions:
        cells = []
        for task in tasks:
            means = [
                _percent(sum(g.accuracies) / len(g.accuracies))
                for g in groups
                if g.task == task and g.label.partition(", ")[0] == attention
            ]
            cells.append(" / ".join(means))
        rows.append((attention, *cells))
    return [_table(rows)]


def _means_text(means: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} {value:.2f} %" for name, value in means.items())
    return (
        "Published means over ListOps, Text, Image and Pathfinder (figures of "
        f"the Luna paper; no single accuracies are to be found): {listed}."
    )


def _details(run: Run) -> list[str]:
    """What is folded away: settings, curves, confusion, attention."""
    parts = [f"<details><summary>{_text(run.name)}</summary>"]
    for heading, png in run.pictures.items():
        parts.append(f"<h3>{_text(heading)}</h3>{_image(png, heading)}")
    groups = run.results["groups"]
    parts.append(f"<h3>Accuracy by {_text(groups['by'])}</h3>")
    parts.append(
        _table(
            [
                (groups["by"], "accuracy", "examples"),
                *(
                    (name, _percent(e["accuracy"]), f"{e['examples']:,}")
                    for name, e in groups["entries"].items()
                ),
            ]
        )
    )
    confusion = run.results["confusion"]
    classes = run.results["classes"]
    parts.append("<h3>Answers (columns) by label (rows)</h3>")
    parts.append(
        _table(
            [
                ("label", *classes),
                *(
                    (label, *(f"{count:,}" for count in counts))
                    for label, counts in zip(classes, confusion, strict=True)
                ),
            ]
        )
    )
    if run.attention:
        parts.append(
            "<h3>What packed slots attend to</h3>"
            '<p class="note">The darker, the more than uniform attention: 4 '
            "times and more is darkest.</p>"
        )
        for example in run.attention:
            parts += _attention(example)
    settings = yaml.safe_dump(dict(run.recipe), sort_keys=False)
    parts.append(f"<h3>Recipe</h3><pre>{_text(settings)}</pre>")
    for start in run.environment:
        listed = yaml.safe_dump(dict(start), sort_keys=False)
        parts.append(f"<h3>Environment</h3><pre>{_text(listed)}</pre>")
    parts.append("</details>")
    return parts


def _attention(example: Mapping[str, Any]) -> list[str]:
    tokens = example["tokens"]
    heading = f"label {example['label']}, answer {example['prediction']}"
    if example.get("document"):
        heading += ", second document"
    parts = [
        f"<p>{_text(heading)}: what the classified vector reads through the "
        f'slots</p><div class="tokens">'
        f"{attention_over_tokens(tokens, example['lifts'])}</div>"
    ]
    for slot, lifts in example["slots"].items():
        parts.append(
            f'<p>slot {_text(str(slot))}</p><div class="tokens">'
            f"{attention_over_tokens(tokens, lifts)}</div>"
        )
    return parts


def _tasks(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.task for group in groups))


def _accuracy_table(rows: Sequence[Row]) -> str:
    lines = [
        f'<tr class="{kind}"><td>{_text(label)}</td>'
        f'<td class="number">{_text(value)}</td><td>{_text(remark)}</td></tr>'
        for label, value, remark, kind in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = rows
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heading)
    lines = [
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rest
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _image(png: bytes, description: str) -> str:
    return f'<img src="{data_url(png)}" alt="{_text(description)}">'


def _text(text: str) -> str:
    return html.escape(str(text))


def _cell(text: str) -> str:
    # A backslash would take the escape of what follows.
    text = html.escape(str(text)).replace("\\", "\\\\")
    return text.replace("|", "\\|").replace("\n", " ")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _gibibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**30:.1f} GiB"
