"""The command line of `luna-doctor`: its flags and its help."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError, setting

from . import flags, lra_recipe

NAME = "luna-doctor"
COMMANDS = {
    "env": "check the installation and this machine, and name the fixes",
    "fit": "compile a trainer's step for a TPU, on a machine without one, and "
    "tell what it needs there",
}
# Those whose steps `fit` can compile.
PROGRAMS = {"lra": lra_recipe.PROGRAM}
USAGE = """
luna-doctor finds out what is wrong, or too large, before a run does.

Usage: luna-doctor COMMAND [--FLAG=VALUE ...]

  luna-doctor env
  luna-doctor fit --config=paper
  luna-doctor fit --config=paper --topology=v6e:2x2 --packed_length=256
  luna-doctor fit --config=paper --attention=softmax --initialization=keras
"""

env = functools.partial(setting, group="luna-doctor env")
fit = functools.partial(setting, group="luna-doctor fit")
_JSON = "Print JSON, for programs."


@dataclasses.dataclass(frozen=True)
class EnvFlags:
    """Flags of `luna-doctor env`; the help describes them."""

    json: bool = env(_JSON, default=False)
    timeout: float = env(
        "Seconds that TensorFlow may take to answer one question.",
        default=180.0,
        above=0.0,
    )


@dataclasses.dataclass(frozen=True)
class FitFlags:
    """Flags of `luna-doctor fit`; the help describes them."""

    trainer: str = fit(
        "Whose step to compile.", default="lra", choices=tuple(PROGRAMS)
    )
    topology: str = fit(
        "TPU to compile for: generation and grid, such as v5e:2x2, v6e:4x4 or "
        "v4:2x2x1.",
        default="v5e:2x2",
    )
    search: str = fit(
        "Find the largest batch, or the longest sequence, that fits; none: "
        "compile the recipe as it is, which is quicker.",
        default="batch",
        choices=("batch", "length", "none"),
    )
    search_limit: int = fit(
        "Largest value that the search tries.", default=2**20, minimum=1
    )
    json: bool = fit(_JSON, default=False)


@dataclasses.dataclass(frozen=True)
class EnvCommand:
    """`luna-doctor env`."""

    flags: EnvFlags


@dataclasses.dataclass(frozen=True)
class FitCommand:
    """`luna-doctor fit`, with the effective recipe and where it is from."""

    flags: FitFlags
    recipe: Any
    config: str
    given: tuple[str, ...]


def parse(argv: Sequence[str]) -> EnvCommand | FitCommand:
    """Understands a command line, or ends the program with a message.

    Args:
        argv: program, command and flags.

    Returns:
        The checked command. `--help` prints help and exits with status 0; a
        mistake is told on stderr and exits with status 2.
    """
    if any(argument in flags.HELP for argument in argv[1:]):
        print(help_text())
        sys.exit(0)
    words = [a for a in argv[1:] if not a.startswith("-")]
    known = ", ".join(COMMANDS)
    if not words:
        flags.fail(NAME, f"a command is missing. Allowed: {known}.")
    name = words[0]
    if name not in COMMANDS:
        hint = recipes.closest(name, COMMANDS)
        flags.fail(NAME, f"unknown command {name!r}. Allowed: {known}.{hint}")
    values = absl_flags.FlagValues()
    recipes.define_flags(EnvFlags if name == "env" else FitFlags, values)
    program = _program(argv)
    if name == "fit":
        absl_flags.DEFINE_string(
            "config", None, _config_help(program), flag_values=values
        )
        recipes.define_flags(program.schema, values)
    try:
        rest = values(list(argv), known_only=True)
        # What is left may be absl's own, such as --verbosity.
        rest = absl_flags.FLAGS(rest)
    except absl_flags.UnrecognizedFlagError as error:
        hint = recipes.closest(error.flagname, values)
        flags.fail(NAME, f"unknown flag `--{error.flagname}`.{hint}")
    except absl_flags.Error as error:
        flags.fail(NAME, str(error))
    if len(rest) > 2:
        flags.fail(
            NAME,
            f"unexpected argument {rest[2]!r}. Flags look like --name=value.",
        )
    try:
        if name == "env":
            return EnvCommand(_build(EnvFlags, values))
        return _fit(program, values)
    except RecipeError as error:
        flags.fail(NAME, str(error))


def _build(schema: Any, values: absl_flags.FlagValues) -> Any:
    given = recipes.given_flags(schema, values)
    return recipes.build(schema, given, "flags")


def _fit(program: flags.Program, values: absl_flags.FlagValues) -> FitCommand:
    given = recipes.given_flags(program.schema, values)
    named: Any = values["config"].value
    config = flags.resolve_config(program, named, given)
    origin = f"--config={config}"
    if given:
        origin += " with " + " ".join(f"--{name}" for name in given)
    loose = {**recipes.read_yaml(config, program.folder), **given}
    return FitCommand(
        flags=_build(FitFlags, values),
        recipe=recipes.build(program.schema, loose, origin),
        config=config,
        given=tuple(f"--{name}={value}" for name, value in given.items()),
    )


def _program(argv: Sequence[str]) -> flags.Program:
    """The trainer that is asked for; which flags there are depends on it."""
    values = absl_flags.FlagValues()
    recipes.define_flags(FitFlags, values)
    try:
        values(list(argv), known_only=True)
        return PROGRAMS[values["trainer"].value or FitFlags.trainer]
    except absl_flags.Error:  # told when all flags are read
        return PROGRAMS[FitFlags.trainer]


def _config_help(program: flags.Program) -> str:
    names = ", ".join(recipes.names(program.folder))
    return f"Recipe: a name or the path of a YAML file. Names: {names}."


def help_text() -> str:
    """The whole help: usage, commands, flags of each."""
    lines = [USAGE.strip(), "", "Commands"]
    for name, does in COMMANDS.items():
        lines += flags.entry(name, does)
    lines += flags.field_help(EnvFlags, EnvFlags(), "the default")
    lines += flags.field_help(FitFlags, FitFlags(), "the default")
    lines += flags.entry(
        "--config=TEXT",
        f"{_config_help(PROGRAMS[FitFlags.trainer])} [default]",
    )
    lines += flags.entry(
        "--FIELD=VALUE",
        "Every field of the trainer's recipe, as in luna-lra --help.",
    )
    return "\n".join(lines)
