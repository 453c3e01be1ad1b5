"""Programs that do one thing and end: flags in, one call, a status out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from absl import flags as absl_flags

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

from . import flags, session


def run(
    name: str,
    usage: str,
    schema: type,
    argv: list[str],
    do: Callable[[Any], None],
    after_interrupt: str = "",
) -> int:
    """Parses the flags of a schema and does what they ask for.

    Args:
        name: of the program, for messages.
        usage: opening of the help text.
        schema: dataclass whose fields are the flags; those without a default
            must be given.
        argv: the words behind the program's name.
        do: of the schema's instance. `ValueError` is what the user can put
            right.

    Returns:
        Exit status: 0; 1 when files cannot be read or written; 2 for what the
        user can put right; 130 after an interrupt.
    """
    if any(word in flags.HELP for word in argv):
        print(
            usage,
            *flags.field_help(schema, _Shown(schema), "default"),
            sep="\n",
        )
        return 0
    values = absl_flags.FlagValues()
    recipes.define_flags(schema, values)
    try:
        rest = values([name, *argv])[1:]
        if rest:
            raise RecipeError(
                f"unexpected argument {rest[0]!r}. Flags look like "
                "--name=value."
            )
        given = recipes.given_flags(schema, values)
        do(recipes.build(schema, given, "flags"))
    except (absl_flags.Error, ValueError) as error:
        print(f"{name}: {error}\nTry {name} --help.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted.{after_interrupt}")
        return 130
    except Exception as error:
        if not session.is_about_files(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


class _Shown:
    """Stands for an instance in the help: required fields say so."""

    def __init__(self, schema: Any) -> None:
        for field in dataclasses.fields(schema):
            is_required = field.default is dataclasses.MISSING
            value = "required" if is_required else field.default
            setattr(self, field.name, value)
