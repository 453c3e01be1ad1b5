"""Measures time and memory of attention layers, causal ones too."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Any

from absl import app
from absl import flags as absl_flags

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

from . import flags as trainer_flags
from .benchmark_flags import (
    COMMANDS,
    NAME,
    AttentionFlags,
    CausalFlags,
    help_text,
)

Flags = AttentionFlags | CausalFlags


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-benchmark`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    app.run(_main, argv=argv, flags_parser=parse)


def parse(argv: list[str]) -> Flags:
    """Understands a command line, or ends the program with a message.

    Args:
        argv: program, command and flags.

    Returns:
        The checked flags. `--help` prints help and exits with status 0; a
        mistake is told on stderr and exits with status 2.
    """
    if any(argument in trainer_flags.HELP for argument in argv[1:]):
        print(help_text())
        sys.exit(0)
    # The command decides which flags there are; a mistake in it is told below.
    name = next((word for word in argv[1:] if word in COMMANDS), "attention")
    schema = COMMANDS[name].flags
    values = absl_flags.FlagValues()
    recipes.define_flags(schema, values)
    try:
        rest = values(argv, known_only=True)
        # What is left may be absl's own, such as --verbosity.
        rest = absl_flags.FLAGS(rest)
    except absl_flags.UnrecognizedFlagError as error:
        hint = recipes.closest(error.flagname, values)
        trainer_flags.fail(NAME, f"unknown flag `--{error.flagname}`.{hint}")
    except absl_flags.Error as error:
        trainer_flags.fail(NAME, str(error))
    known = ", ".join(COMMANDS)
    if len(rest) < 2:
        trainer_flags.fail(NAME, f"a command is missing. Allowed: {known}.")
    if rest[1] not in COMMANDS:
        hint = recipes.closest(rest[1], COMMANDS)
        trainer_flags.fail(
            NAME, f"unknown command {rest[1]!r}. Allowed: {known}.{hint}"
        )
    if len(rest) > 2:
        trainer_flags.fail(
            NAME,
            f"unexpected argument {rest[2]!r}. Flags look like --name=value.",
        )
    given = recipes.given_flags(schema, values)
    try:
        return recipes.build(schema, given, "flags")
    except RecipeError as error:
        trainer_flags.fail(NAME, str(error))


def _main(flags: Flags) -> int:
    try:
        return run(flags)
    except RecipeError as error:
        trainer_flags.fail(NAME, str(error))


def run(flags: Flags) -> int:
    """Does what `luna-benchmark` is asked for.

    Args:
        flags: from `parse`.

    Returns:
        Exit status of the process: 0, or 130 after an interrupt.

    Raises:
        RecipeError: for whatever the user can put right.
    """
    if os.environ.get("KERAS_BACKEND") == "tensorflow":
        trainer_flags.import_tensorflow()
    import keras

    from luna_tf.benchmark import cases, memory, stepping
    from luna_tf.benchmark.parent import Runner
    from luna_tf.benchmark.program import Program

    backend = keras.backend.backend()
    plan = flags.plan()
    if not set(plan.modes) <= set(stepping.modes()):
        raise RecipeError(
            f"--modes={flags.modes} is not possible with KERAS_BACKEND="
            f"{backend}: allowed is {','.join(stepping.modes())}."
        )
    limit = 0.75 * memory.physical_bytes()
    if flags.memory_limit_gib is not None:
        limit = flags.memory_limit_gib * 2**30
    say = functools.partial(print, file=sys.stderr, flush=True)
    if "official" in plan.contenders and not cases.OFFICIAL_FILE.is_file():
        others = tuple(c for c in plan.contenders if c != "official")
        if not others:
            raise RecipeError(
                f"--contenders={flags.contenders} is not possible: the "
                "official formula is in the tests of a checkout, not in the "
                "package."
            )
        plan = dataclasses.replace(plan, contenders=others)
        say(
            f"{NAME}: official is missing: the formula is in the tests of a "
            "checkout, not in the package."
        )
    name = "causal" if isinstance(flags, CausalFlags) else "attention"
    aside = "causal_tokens" if name == "causal" else "cost_rule"
    folder = _folder(flags.output_dir, (f"{name}.csv", f"{aside}.csv"))
    runner = Runner(flags.settings(), int(limit))
    program = Program(
        plan,
        runner,
        folder / f"{name}.csv",
        folder / f"{aside}.csv",
        say,
    )
    status = 0
    try:
        program.run()
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted.", file=sys.stderr)
        status = 130
    if program.rows:
        print(_report(flags, program, runner, backend, folder, name))
    return status


def _folder(output_dir: str, names: tuple[str, ...]) -> Path:
    """The empty-handed folder of a run: rows of another run are put aside."""
    folder = Path(output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (folder / name).exists():
                (folder / name).replace(folder / f"{name}.old")
    except OSError as error:
        raise RecipeError(
            f"--output_dir={output_dir} cannot be written to: {error.strerror}."
        ) from None
    return folder


def _report(
    flags: Flags,
    program: Any,
    runner: Any,
    backend: str,
    folder: Path,
    name: str,
) -> str:
    from luna_tf.benchmark import contenders, goals, report
    from luna_tf.visualize.growth import growth_plot

    settings = flags.settings()
    rows = program.rows
    tables = report.tables(rows)
    if program.rule_rows:
        orders = functools.partial(contenders.rule_orders, settings)
        tables.append(report.rule_table(program.rule_rows, orders))
    if program.token_rows:
        tables.append(report.token_table(program.token_rows))
    if name == "causal":
        verdicts = goals.causal_verdicts(rows, program.token_rows, settings)
    else:
        verdicts = goals.verdicts(rows, settings)
    tables.append(report.goal_table(verdicts))
    about = [
        report.describe(settings),
        report.machine(runner.device, backend),
        f"Memory limit {runner.limit_bytes / 2**30:.3g} GiB. Extra memory is "
        "the peak of a step in steady state above inputs and weights, in a "
        "process of its own; under TensorFlow without oneDNN, which keeps what "
        "is freed.",
    ]
    heading = "Causal attention" if name == "causal" else "Attention"
    markdown = [f"# {heading}: time and memory", "\n".join(about)]
    if any(row.samples for row in rows):
        times, extra = _curves(rows)
        figure = growth_plot(times, extra, title=report.describe(settings))
        figure.savefig(folder / f"{name}.png")
        markdown.append(f"![growth]({name}.png)")
    markdown += map(report.to_markdown, tables)
    (folder / f"{name}.md").write_text(
        "\n\n".join(markdown) + "\n", encoding="utf-8"
    )
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    return "\n\n".join(
        [
            "",
            *about,
            *map(report.to_text, tables),
            f"Files in {folder}: {files}",
        ]
    )


def _curves(rows: Any) -> list[dict[tuple[str, int], dict[int, float]]]:
    """Curves of the figure: Luna for all l, its rivals for the smallest."""
    from luna_tf.benchmark import cases, goals, report

    slots = report.packed_lengths(rows)
    names = dict.fromkeys(row.case.contender for row in rows)
    keys = [
        (name, packed_length)
        for name in names
        if name != "absorbed" or goals.LUNA not in names
        for packed_length in (
            slots if name in (goals.LUNA, goals.CAUSAL_LUNA) else slots[:1]
        )
    ]
    return [
        {
            (name, 0 if name in cases.SOFTMAX else packed_length): goals.curve(
                rows, name, packed_length, is_memory
            )
            for name, packed_length in keys
        }
        for is_memory in (False, True)
    ]


if __name__ == "__main__":
    main()
