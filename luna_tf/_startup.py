"""Tells whether Python runs one of this package's own programs."""

import pathlib
import sys

_PROGRAMS = {"luna-lra", "luna-benchmark"}


def is_own_program() -> bool:
    """Whether this process is `luna-lra`, `python -m trainers.lra` or such."""
    if sys.argv and pathlib.PurePath(sys.argv[0]).stem in _PROGRAMS:
        return True
    _, *options = sys.orig_argv or [""]
    modules = zip(options, options[1:], strict=False)
    return any(
        option == "-m" and name.startswith(("trainers.", "luna_tf.trainers."))
        for option, name in modules
    )
