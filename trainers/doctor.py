"""Checks an installation, and what a training step needs on a TPU."""

from __future__ import annotations

import json
import os
import sys

from absl import app

from luna_tf.training.recipes import RecipeError

from . import flags
from .doctor_flags import NAME, EnvCommand, EnvFlags, FitCommand, parse


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-doctor`; ends the process with its status."""
    app.run(run, argv=argv, flags_parser=parse)


def run(command: EnvCommand | FitCommand) -> int:
    """Does what a command line asks for.

    Args:
        command: from `parse`.

    Returns:
        Exit status of the process. `env`: 0 without problems, else 1. `fit`:
        0, whether it fits or not, and 1 when the compiler fails.
    """
    try:
        if isinstance(command, EnvCommand):
            return examine(command.flags)
        from . import doctor_fit

        return doctor_fit.run(command)
    except RecipeError as error:
        flags.fail(NAME, str(error))
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted.", file=sys.stderr)
        return 130


def examine(env_flags: EnvFlags) -> int:
    """Does what `luna-doctor env` is asked for.

    Args:
        env_flags: its flags.

    Returns:
        0 when there is no problem, else 1.
    """
    from . import doctor_env, doctor_findings

    findings = doctor_env.examine(env_flags.timeout, dict(os.environ))
    if env_flags.json:
        print(json.dumps(doctor_findings.to_json(findings), indent=2))
    else:
        print(doctor_findings.to_text(findings))
    return int(doctor_findings.count(findings, doctor_findings.PROBLEM) > 0)


if __name__ == "__main__":
    main()
