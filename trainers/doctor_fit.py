"""`luna-doctor fit`: does a training fit a TPU, and what does a step cost."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from luna_tf.training.recipes import RecipeError

from . import doctor_compile, doctor_fit_report, doctor_search, flags
from .doctor_compile import Report
from .doctor_fit_report import Fit
from .doctor_flags import NAME, FitCommand

if TYPE_CHECKING:
    from luna_tf.interop.tpu.chips import Chip


def run(command: FitCommand) -> int:
    """Does what `luna-doctor fit` is asked for.

    Args:
        command: from `doctor_flags.parse`.

    Returns:
        Exit status: 0, whether it fits or not; 1 when the step cannot be
        compiled at all.

    Raises:
        RecipeError: for whatever the user can put right.
    """
    chip, devices = _topology(command.flags.topology)
    _check_compiler()
    doctor_compile.rows_per_device(command.recipe, devices)
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise RecipeError(
            f"KERAS_BACKEND={backend} is not possible: allowed is tensorflow."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    flags.import_tensorflow()
    trainer = importlib.import_module(f".{command.flags.trainer}", __package__)
    compile_step = functools.partial(
        doctor_compile.compile_recipe, trainer, topology=command.flags.topology
    )
    try:
        fit = examine(command, chip, devices, compile_step)
    except RuntimeError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    if command.flags.json:
        print(json.dumps(doctor_fit_report.to_json(fit), indent=2))
    else:
        print(doctor_fit_report.to_text(fit))
    return 0


def examine(
    command: FitCommand,
    chip: Chip,
    devices: int,
    compile_step: Callable[[Any], Report],
) -> Fit:
    """Compiles a recipe, and searches for the largest size that fits.

    Args:
        command: from `doctor_flags.parse`.
        chip: one device of the topology.
        devices: their number.
        compile_step: maps a recipe to its report.

    Returns:
        What was found.
    """
    reports: dict[Any, Report] = {}

    def compiled(recipe: Any, what: str) -> Report:
        if recipe not in reports:
            print(f"Compiling {what} ...", file=sys.stderr, flush=True)
            reports[recipe] = compile_step(recipe)
        return reports[recipe]

    recipe, kind = command.recipe, command.flags.search
    plain = doctor_compile.without_dropout(recipe)
    shown = [compiled(plain, "without dropout")]
    if recipe != plain:
        shown.append(compiled(recipe, "with dropout"))
    fit = Fit(command, chip, devices, tuple(shown))
    if kind == "none":
        return fit

    def resized(size: int) -> Any:
        return resize(command.flags.trainer, plain, kind, size, devices)

    start = shown[0].length
    if kind == "batch":
        start = shown[0].batch_size // plain.accumulation_steps
    limit = command.flags.search_limit
    size = doctor_search.largest(
        lambda size: compiled(resized(size), f"{kind} {size:,}").fits,
        min(start, limit),
        limit,
    )
    if size is None:
        return fit
    return dataclasses.replace(
        fit, largest=reports[resized(size)], is_limit=size == limit
    )


def resize(
    trainer: str, recipe: Any, kind: str, size: int, devices: int
) -> Any:
    """A recipe with another size.

    Args:
        trainer: key of `doctor_flags.PROGRAMS`.
        recipe: its recipe.
        kind: `"batch"` or `"length"`.
        size: examples that one device takes at a time, or tokens of each.
        devices: number of devices.

    Returns:
        The changed recipe.
    """
    if kind == "length":
        return _LENGTHS[trainer](recipe, size)
    return dataclasses.replace(
        recipe, batch_size=size * devices * recipe.accumulation_steps
    )


def _lra(recipe: Any, tokens: int) -> Any:
    # Without marks, which take no part in the step: any length is possible.
    return dataclasses.replace(
        recipe, sequence_length=tokens, add_cls=False, add_eos=False
    )


# How each trainer's recipe says how long its examples are.
_LENGTHS: dict[str, Callable[[Any, int], Any]] = {"lra": _lra}


def _topology(name: str) -> Any:
    from luna_tf.interop.tpu import chips

    try:
        return chips.parse_topology(name)
    except ValueError as error:
        raise RecipeError(f"--topology={name}: {error}") from None


def _check_compiler() -> None:
    from luna_tf.interop.tpu import processes

    try:
        processes.require("jax", "libtpu")
    except ImportError as error:
        raise RecipeError(str(error)) from None
