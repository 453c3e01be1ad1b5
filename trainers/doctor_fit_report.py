"""What `luna-doctor fit` tells: a table for readers, JSON for programs."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .doctor_compile import MOST_REPLICAS, Report
from .doctor_flags import PROGRAMS, FitCommand
from .doctor_search import PRECISION

if TYPE_CHECKING:
    from luna_tf.interop.tpu.chips import Chip


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was found out about a recipe.

    Args:
        command: what was asked for.
        chip: figures of one device of the topology.
        devices: their number.
        reports: of the recipe without dropout and, if it has any, with it.
        largest: of the largest batch or length that fits, without dropout;
            None when nothing was searched for, or nothing fits.
        is_limit: whether the search ended at `--search_limit`.
    """

    command: FitCommand
    chip: Chip
    devices: int
    reports: tuple[Report, ...]
    largest: Report | None = None
    is_limit: bool = False


def to_text(fit: Fit) -> str:
    """The table and its notes, in lines of at most 80 columns where possible.

    Args:
        fit: what was found.
    """
    flags = fit.command.flags
    name = PROGRAMS[flags.trainer].name
    title = " ".join(
        [name, f"--config={fit.command.config}", *fit.command.given]
    )
    unit = "chip" if fit.chip.devices_per_chip == 1 else "core"
    heads = ["with dropout" if r.has_dropout else "" for r in fit.reports]
    if len(heads) > 1:
        heads[0] = "without dropout"
    lines = [f"per {unit}", *_rows(unit)]
    columns = [
        [head, *(cell(report, fit.chip) for cell in _rows(unit).values())]
        for head, report in zip(heads, fit.reports, strict=True)
    ]
    widths = [max(map(len, column)) for column in [lines, *columns]]
    table = [
        "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in zip(lines, *columns, strict=True)
    ]
    notes = [
        line
        for note in [*_verdict(fit, unit), *_notes(fit, unit)]
        for line in textwrap.wrap(
            note, 80, break_long_words=False, break_on_hyphens=False
        )
    ]
    devices = f"{fit.devices} {unit}{'s' if fit.devices > 1 else ''}"
    return "\n".join(
        [
            *textwrap.wrap(f"{title} on {flags.topology}, {devices}", 80),
            "",
            *table,
            "",
            *notes,
        ]
    )


def _rows(unit: str) -> dict[str, Callable[[Report, Chip], str]]:
    """Label of a line to what a report has there."""

    def known(write: Callable[[Report, Chip], str]) -> Any:
        return lambda r, chip: write(r, chip) if r.fits else "-"

    return {
        "verdict": lambda r, chip: "fits" if r.fits else "does not fit",
        "examples": lambda r, chip: f"{r.batch_size:,}",
        "tokens each": lambda r, chip: f"{r.length:,}",
        "parameters": lambda r, chip: f"{r.parameters:,}",
        "memory used": lambda r, chip: (
            f"{_bytes(r.needed_bytes)} of {_bytes(r.available_bytes)}"
        ),
        "  arguments": known(lambda r, chip: _bytes(r.argument_bytes)),
        "  temporaries": known(lambda r, chip: _bytes(r.temporary_bytes)),
        "FLOPs": known(lambda r, chip: _bound(r) + _si(r.flops, "FLOP")),
        "bytes moved": known(
            lambda r, chip: _bound(r) + _si(r.bytes_accessed, "B")
        ),
        "intensity": known(
            lambda r, chip: f"{_figure(r.intensity or 0)} FLOP/B"
        ),
        "time at least": known(
            lambda r, chip: (
                f"{_seconds(r.roofline_seconds)}, by {_limit(r, chip)}"
            )
        ),
        "compile time": lambda r, chip: f"{r.compile_seconds:.0f} s",
    }


def _limit(report: Report, chip: Chip) -> str:
    ridge = chip.flops_per_second / chip.bytes_per_second
    return "arithmetic" if (report.intensity or 0) > ridge else "memory"


def _verdict(fit: Fit, unit: str) -> list[str]:
    kind = fit.command.flags.search
    if kind == "none":
        return []
    what = {"batch": "batch", "length": "sequence"}[kind]
    if fit.largest is None:
        return [f"No {what} fits, not even of size 1.", ""]
    report = fit.largest
    if kind == "batch":
        size = (
            f"{report.batch_size:,} per {unit}, "
            f"{report.batch_size * fit.devices:,} in all"
        )
    else:
        size = f"{report.length:,} tokens"
    how = (
        "the limit of the search"
        if fit.is_limit
        else f"to one part in {PRECISION}"
    )
    return [
        f"Largest {what} that fits: {size} ({how}; without dropout), with "
        f"{_bytes(report.needed_bytes)}.",
        "",
    ]


def _notes(fit: Fit, unit: str) -> list[str]:
    chip = fit.chip
    notes = [
        f"Time at least: the larger of FLOPs at "
        f"{chip.flops_per_second / 1e12:.0f} TFLOP/s (bfloat16) and bytes at "
        f"{chip.bytes_per_second / 1e9:.0f} GB/s, the peaks that Google "
        f"publishes for {chip.name} (cloud.google.com/tpu/docs). Below "
        f"{chip.flops_per_second / chip.bytes_per_second:.0f} FLOP/B memory "
        "decides."
    ]
    if any(r.has_dropout and r.kernels == "cpu" for r in fit.reports):
        notes.append(
            "With dropout: without tensorflow-tpu its random bits are made by "
            "the host's arithmetic, which takes more memory and FLOPs than a "
            "TPU's generator. The truth lies between the two columns."
        )
    if any(report.is_lower_bound for report in fit.reports):
        notes.append(
            "At least (>=): the compiler counts the body of a loop once, "
            "however often it runs."
        )
    if fit.devices > MOST_REPLICAS:
        notes.append(
            f"Compiled for {MOST_REPLICAS} of {fit.devices} {unit}s; on the "
            "others the same is computed."
        )
    return notes


def to_json(fit: Fit) -> dict[str, Any]:
    """The same for programs, in bytes, seconds and FLOP.

    Args:
        fit: what was found.

    Returns:
        A dictionary fit for JSON.
    """
    largest = None
    if fit.largest is not None:
        largest = {**_fields(fit.largest), "is_limit": fit.is_limit}
    return {
        "trainer": fit.command.flags.trainer,
        "recipe": dataclasses.asdict(fit.command.recipe),
        "topology": fit.command.flags.topology,
        "devices": fit.devices,
        "chip": dataclasses.asdict(fit.chip),
        "reports": [_fields(report) for report in fit.reports],
        "search": fit.command.flags.search,
        "largest": largest,
    }


def _fields(report: Report) -> dict[str, Any]:
    return {
        **dataclasses.asdict(report),
        "fits": report.fits,
        "intensity": report.intensity,
    }


def _bound(report: Report) -> str:
    return ">= " if report.is_lower_bound else ""


def _bytes(size: int | None) -> str:
    mebibytes = (size or 0) / 2**20
    if mebibytes < 1000:
        return f"{_figure(mebibytes)} MiB"
    return f"{mebibytes / 1024:.2f} GiB"


def _si(value: float | None, unit: str) -> str:
    number = value or 0.0
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000 or prefix == "P":
            break
        number /= 1000
    return f"{_figure(number)} {prefix}{unit}"


def _figure(number: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _seconds(value: float | None) -> str:
    milliseconds = 1e3 * (value or 0.0)
    if milliseconds < 1:
        return f"{_figure(1e3 * milliseconds)} us"
    if milliseconds < 1000:
        return f"{_figure(milliseconds)} ms"
    return f"{_figure(milliseconds / 1e3)} s"
