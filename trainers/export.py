"""Exports a preset as a SavedModel that takes strings, and as LiteRT."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError, setting

from . import flags, one_shot, presets

NAME = "luna-export"
USAGE = """\
luna-export writes a preset, such as luna-mlm or luna-finetune leave, as a
SavedModel for TensorFlow Serving: strings in; guesses for [MASK], or classes,
and embeddings out. It can also write a LiteRT file, from token ids on.

Usage: luna-export --preset=DIR --output_dir=DIR [--FLAG=VALUE ...]

  luna-export --preset=runs/mlm/preset --output_dir=exported
  luna-export --preset=runs/mlm/preset --output_dir=exported \\
    --litert=model.tflite --litert_length=256
"""
_option = functools.partial(setting, group="Export")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """What to export, and where to."""

    preset: str = _option("Folder of a LunaMaskedLM or LunaTextClassifier.")
    output_dir: str = _option("Folder that receives the SavedModel.")
    max_length: int | None = _option(
        "Tokens of the longest text; null: as the preset has it.",
        default=None,
        minimum=4,
    )
    top_k: int = _option("Guesses for [MASK].", default=5, minimum=1)
    litert: str | None = _option(
        "LiteRT (.tflite) file to write too; null: none.", default=None
    )
    litert_length: int | None = _option(
        "Tokens of every row that it takes; null: as the preset has it.",
        default=None,
        minimum=4,
    )

    def __post_init__(self) -> None:
        presets.check(self.preset)
        if not files.is_new_folder(self.output_dir):
            raise RecipeError(
                f"output_dir={self.output_dir} is not empty: allowed is a new "
                "folder."
            )
        if self.litert is not None:
            folder = os.path.dirname(os.path.abspath(self.litert))
            is_new = not os.path.isdir(self.litert)
            if not (is_new and os.access(folder, os.W_OK)):
                raise RecipeError(
                    f"litert={self.litert} is not possible: allowed is a file "
                    "in a folder that can be written to."
                )
        elif self.litert_length is not None:
            raise RecipeError(
                f"litert_length={self.litert_length} is not possible without "
                "litert."
            )


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-export`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    words = sys.argv[1:] if argv is None else argv
    sys.exit(one_shot.run(NAME, USAGE, ExportFlags, words, export))


def export(given: ExportFlags) -> None:
    """Writes what the flags ask for.

    Args:
        given: the checked flags.

    Raises:
        RecipeError: the preset is not one of ours, or is damaged.
        ValueError: it cannot be exported like this.
    """
    flags.import_tensorflow()
    from luna_tf.interop.litert import export_litert
    from luna_tf.interop.text_encoder import export_text_model

    task = presets.load_task(given.preset)
    files.remove(given.output_dir)  # it is empty
    files.write_folder_by(
        given.output_dir,
        lambda folder: export_text_model(
            task, folder, given.top_k, given.max_length
        ),
    )
    size = files.folder_size(given.output_dir)
    print(f"SavedModel in {given.output_dir} ({size / 2**20:,.1f} MiB)")
    if given.litert is not None:
        length = given.litert_length or task.preprocessor.sequence_length
        report = export_litert(task, given.litert, length)
        print(
            f"LiteRT file {given.litert} ({report.size / 2**20:,.1f} MiB): "
            f"outputs differ by at most {report.largest_difference:.2g} from "
            f"the model's, which reach {report.largest_output:.3g}"
        )


if __name__ == "__main__":
    main()
