"""saved_model_cli for the checks beside this file."""

import pathlib
import sys

import numpy as np
from tensorflow.python.tools import saved_model_cli


def probabilities(folder: pathlib.Path, signature: str, inputs: str):
    """What the command gives for the `saved_model` of a run.

    It runs in this process: text models need tensorflow_text's operations.
    """
    sys.argv = [
        "saved_model_cli",
        "run",
        f"--dir={folder / 'saved_model'}",
        "--tag_set=serve",
        f"--signature_def={signature}",
        f"--input_exprs={inputs}",
        f"--outdir={folder / 'by_cli'}",
        "--overwrite",
    ]
    try:
        saved_model_cli.main()
    except SystemExit as end:
        assert not end.code, end.code
    return np.load(folder / "by_cli" / "probabilities.npy")
