"""What `luna-doctor env` found, and how it is told."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        name: what was checked, a few words.
        status: `OK`, `WARNING` (works, but see `fix`) or `PROBLEM`.
        message: what was seen, one sentence without a full stop.
        fix: the command or action that puts it right, None when nothing is
            to be done.
    """

    name: str
    status: str
    message: str
    fix: str | None = None


def count(findings: Sequence[Finding], status: str) -> int:
    """How many findings have a status."""
    return sum(finding.status == status for finding in findings)


def to_text(findings: Sequence[Finding], width: int = 80) -> str:
    """A table for a terminal: status, name, message, and fixes below.

    Args:
        findings: in the order of the table.
        width: columns that text is wrapped at; commands stay in one piece.

    Returns:
        Lines joined by newlines, the last one a summary.
    """
    names = max((len(finding.name) for finding in findings), default=0)
    indent = " " * (len(PROBLEM) + names + 4)
    lines = []
    for finding in findings:
        wrapped = textwrap.wrap(
            finding.message,
            max(width - len(indent), 24),
            break_long_words=False,
            break_on_hyphens=False,
        )
        head = f"{finding.status:<{len(PROBLEM)}}  {finding.name:<{names}}  "
        lines += [head + wrapped[0], *(indent + line for line in wrapped[1:])]
        if finding.fix:
            lines.append(f"{indent}fix: {finding.fix}")
    problems = count(findings, PROBLEM)
    warnings = count(findings, WARNING)
    lines += ["", f"{_number(problems, PROBLEM)}, {_number(warnings, WARNING)}"]
    return "\n".join(lines)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs.

    Args:
        findings: what was found.

    Returns:
        A dictionary fit for JSON: `findings` with the fields of `Finding`,
        and the numbers of `problems` and `warnings`.
    """
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "problems": count(findings, PROBLEM),
        "warnings": count(findings, WARNING),
    }


def _number(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
