"""Tells whether Python runs one of this package's own programs."""

import pathlib
import sys

_PROGRAMS = (
    "lra",
    "mlm",
    "finetune",
    "translate",
    "convert",
    "export",
    "benchmark",
    "doctor",
)
_SCRIPTS = {f"luna-{name}{end}" for name in _PROGRAMS for end in ("", ".exe")}
_MODULES = {
    f"{package}.{name}"
    for package in ("trainers", "luna_tf.trainers")
    for name in _PROGRAMS
} | {"luna_tf.interop.tpu.child", "luna_tf.data.lra.man_pages"}


def is_own_program() -> bool:
    """Whether this process is `luna-lra`, `python -m trainers.lra` or such."""
    if sys.argv and pathlib.PurePath(sys.argv[0]).name in _SCRIPTS:
        return True
    # Options of Python itself end at the first `-m`, `-c` or script.
    options = iter(sys.orig_argv[1:])
    for option in options:
        if option == "-m":
            return next(options, "") in _MODULES
        if option in ("-X", "-W"):
            next(options, None)  # its value
        elif option == "-c" or not option.startswith("-"):
            return False
    return False
