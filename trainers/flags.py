"""The command line of a trainer: its flags, its help, its error messages."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

from .machine import Machine

if TYPE_CHECKING:  # Python 3.10 keeps it elsewhere
    from importlib.resources.abc import Traversable

MODES = {
    "train_and_evaluate": "train or go on, then test and export",
    "train": "train or go on, no more",
    "evaluate": "test the best weights of the run in --model_dir",
    "export": "write them as a SavedModel",
    "input_benchmark": "speed of the input pipeline alone",
}
HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")
_COLUMN = 28


@dataclasses.dataclass(frozen=True)
class Program:
    """What a trainer tells about itself.

    Args:
        name: the command.
        usage: opening of the help text, with examples.
        schema: the recipe's dataclass.
        folder: where its named recipes lie; one is called `default`.
        model_dir: where a run is written unless told otherwise; `{}` stands
            for the value of the field `variant`.
        machine: schema of the flags that are not part of a recipe.
        variant: recipe field whose values have recipes of their own: with
            `--task=text`, `--config=paper` stands for `text_paper` if there
            is such a recipe, and `text_small` is the default; `small` alone
            is `default`.
        modes: further values of `--mode`, and what they do.
    """

    name: str
    usage: str
    schema: type
    folder: Traversable
    model_dir: str
    machine: type[Machine] = Machine
    variant: str | None = None
    modes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line that was understood; `given` are its recipe flags.

    `model_dir` is a path for `tf.io.gfile`, without a slash at its end.
    """

    recipe: Any
    config: str
    model_dir: str
    mode: str
    overwrite: bool
    machine: Machine = dataclasses.field(default_factory=Machine)
    given: frozenset[str] = frozenset()


def define_flags(program: Program, flag_values: flags.FlagValues) -> None:
    """Defines the flags of a run and one flag per field of the recipe."""
    flags.DEFINE_string(
        "config",
        None,
        "Recipe: a name or the path of a YAML file. Names: "
        f"{', '.join(recipes.names(program.folder))}. [default; with "
        "--mode=evaluate or export the recipe of the run]",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "model_dir",
        None,
        "Folder that receives everything, gs:// included. "
        f"[{program.model_dir.format((program.variant or '').upper())}]",
        flag_values=flag_values,
    )
    known = {**MODES, **program.modes}
    modes = ", ".join(f"{name} ({does})" for name, does in known.items())
    flags.DEFINE_enum(
        "mode",
        "train_and_evaluate",
        list(known),
        f"What to do: {modes}. [train_and_evaluate]",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "Start anew in place of the run that --model_dir holds; its data are "
        "kept. [false]",
        flag_values=flag_values,
    )
    recipes.define_flags(program.machine, flag_values)
    recipes.define_flags(program.schema, flag_values)


def parse(program: Program, argv: list[str]) -> Command:
    """Understands a command line, or ends the program with a message.

    Args:
        program: the trainer.
        argv: command and arguments.

    Returns:
        The command. `--help` prints help and exits with status 0; a mistake
        is told on stderr and exits with status 2.
    """
    if any(argument in HELP for argument in argv[1:]):
        print(help_text(program))
        sys.exit(0)
    values = flags.FlagValues()
    define_flags(program, values)
    try:
        rest = values(argv, known_only=True)
        # What is left may be absl's own, such as --verbosity.
        rest = flags.FLAGS(rest)
    except flags.UnrecognizedFlagError as error:
        hint = recipes.closest(error.flagname, values)
        fail(program.name, f"unknown flag `--{error.flagname}`.{hint}")
    except flags.Error as error:
        fail(program.name, str(error))
    if len(rest) > 1:
        fail(
            program.name,
            f"unexpected argument {rest[1]!r}. Flags look like --name=value.",
        )
    try:
        return _command(program, values)
    except RecipeError as error:
        fail(program.name, str(error))


def fail(name: str, message: str) -> NoReturn:
    """Ends the program with status 2 after one message on stderr."""
    print(f"{name}: {message}", file=sys.stderr)
    print(f"Try {name} --help.", file=sys.stderr)
    sys.exit(2)


def _command(program: Program, flag_values: flags.FlagValues) -> Command:
    values: Any = flag_values
    given = recipes.given_flags(program.schema, values)
    mode = values["mode"].value
    config = values["config"].value
    is_written = config is None and mode in ("evaluate", "export")
    loose: dict[str, Any] = {}
    if not is_written:
        config = resolve_config(program, config, given)
        loose = recipes.read_yaml(config, program.folder)
    model_dir = _model_dir(
        program, values["model_dir"].value, {**loose, **given}
    )
    if is_written:
        config = f"{model_dir}/recipe.yaml"
        if not _is_file(config):
            raise RecipeError(
                f"--mode={mode} needs a finished run, but --model_dir="
                f"{model_dir} holds no recipe.yaml."
            )
        loose = recipes.read_yaml(config, program.folder)
    loose |= given
    origin = f"--config={config}"
    if given:
        origin += " with " + " ".join(f"--{name}" for name in given)
    return Command(
        recipe=recipes.build(program.schema, loose, origin),
        config=config,
        model_dir=model_dir,
        mode=mode,
        overwrite=values["overwrite"].value,
        machine=recipes.build(
            program.machine,
            recipes.given_flags(program.machine, values),
            "flags",
        ),
        given=frozenset(given),
    )


def resolve_config(
    program: Program, config: str | None, given: Mapping[str, Any]
) -> str:
    """The recipe that a name, or no name, stands for.

    Args:
        program: the trainer.
        config: what `--config` says, None when it was not given.
        given: recipe fields that were given as flags.

    Returns:
        A name or path for `recipes.read_yaml`.
    """
    if program.variant is not None and program.variant in given:
        name = f"{given[program.variant]}_{config or 'small'}"
        if name in recipes.names(program.folder):
            return name
    if program.variant is not None and config == "small":
        return "default"
    return config or "default"


def _model_dir(
    program: Program, given: str | None, recipe: Mapping[str, Any]
) -> str:
    folder = given
    if folder is None:
        name = program.variant
        fields = {f.name: f.default for f in dataclasses.fields(program.schema)}
        folder = program.model_dir.format(
            recipe.get(name, fields[name]) if name else ""
        )
    folder = os.path.expanduser(folder).rstrip("/")
    if not folder:
        raise RecipeError(
            f"--model_dir={given} is not possible: allowed is a folder below "
            "the root."
        )
    return folder


def _is_file(path: str) -> bool:
    if "://" not in path:
        return Path(path).is_file()
    import_tensorflow()
    import tensorflow as tf

    return tf.io.gfile.exists(path)


def import_tensorflow() -> None:
    """Imports TensorFlow without what its C++ code says at start.

    Those lines (no GPU found, CPU features) look like errors and are none;
    what goes wrong reaches Python. A user who sets `TF_CPP_MIN_LOG_LEVEL`
    sees all that it lets through.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # The variable does not reach the first few lines: hold back the file
    # descriptor itself, and let everything out if the import fails.
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def help_text(program: Program) -> str:
    """The whole help: usage, flags of a run, flags of the recipe by group."""
    values = flags.FlagValues()
    define_flags(program, values)
    default: Any = recipes.build(
        program.schema,
        recipes.read_yaml("default", program.folder),
        "default",
    )
    lines = [program.usage.strip(), "", "Run"]
    for name in ("config", "model_dir", "mode", "overwrite"):
        word = "" if name == "overwrite" else "=TEXT"
        # absl puts the choices in front, which the text has already.
        text = values[name].help.rpartition(">: ")[2]
        lines += entry(f"--{name}{word}", text)
    lines += field_help(program.machine, program.machine(), "default")
    lines += field_help(program.schema, default, "the default recipe")
    return "\n".join(lines)


def field_help(schema: type, default: Any, source: str) -> list[str]:
    """Help on the flags of a schema by group.

    Args:
        schema: dataclass whose fields are flags.
        default: instance whose values are shown in brackets.
        source: what that instance is, for the headings.

    Returns:
        Lines of at most 80 columns.
    """
    lines = []
    for group, fields in recipes.grouped(schema).items():
        lines += ["", f"{group} (in brackets: {source})"]
        for field in fields:
            kind, _ = recipes.value_type(schema, field.name)
            shown = getattr(default, field.name)
            if kind is bool:
                flag = f"--[no]{field.name}"
                shown = str(shown).lower()
            else:
                word = {int: "INT", float: "NUMBER", str: "TEXT"}[kind]
                flag = f"--{field.name}={word}"
                shown = "null" if shown is None else shown
            text = field.metadata["description"]
            if field.metadata["choices"]:
                text += f" One of {', '.join(field.metadata['choices'])}."
            lines += entry(flag, f"{text} [{shown}]")
    return lines


def entry(flag: str, text: str) -> list[str]:
    """Lines of one flag: name on the left, text wrapped beside it."""
    indent = " " * _COLUMN
    wrapped = textwrap.wrap(
        text, 80 - _COLUMN, break_long_words=False, break_on_hyphens=False
    )
    head = f"  {flag}"
    if len(head) >= _COLUMN:
        return [head, *(indent + line for line in wrapped)]
    first = head.ljust(_COLUMN) + wrapped[0]
    return [first, *(indent + line for line in wrapped[1:])]
