"""`luna-lra generate`: Pathfinder pictures as files, for any program."""

from __future__ import annotations

import dataclasses
import functools
import time

from luna_tf.training.recipes import RecipeError, setting

from . import flags, one_shot

NAME = "luna-lra generate"
HELP = """\
luna-lra generate writes Pathfinder pictures, as the Long Range Arena had them
made, to files. The same command goes on where it was interrupted.

Usage: luna-lra generate --output_dir=DIR [--FLAG=VALUE ...]

  luna-lra generate --output_dir=lra                      # the published task
  luna-lra generate --output_dir=lra --image_size=128     # Path-X
"""
_option = functools.partial(setting, group="Pictures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateFlags:
    """What to write, and where."""

    output_dir: str = _option("Local folder that receives the files.")
    format: str = _option(
        "png: files and metadata in the layout of the release; tfrecord: "
        "records with the features image and label.",
        default="png",
        choices=("png", "tfrecord"),
    )
    image_size: int = _option("Pixels along a side: 32 to 256.", default=32)
    difficulty: str = _option(
        "Length of the contours.",
        default="hard",
        choices=("easy", "intermediate", "hard"),
    )
    pictures: int = _option("Of all splits.", default=200_000, minimum=10)
    contour_length: int | None = _option(
        "Paddles of a contour; null: as the difficulty has it.",
        default=None,
        minimum=2,
        maximum=14,
    )
    distractors: bool = _option("Other contours too.", default=True)
    data_seed: int = _option("Seed of the generator.", default=0, minimum=0)
    num_workers: int | None = _option(
        "Threads; null: one per core.", default=None, minimum=1
    )

    def __post_init__(self) -> None:
        if "://" in self.output_dir:
            raise RecipeError(
                f"output_dir={self.output_dir} is not possible: allowed is a "
                "local folder."
            )


def main(argv: list[str]) -> int:
    """Generates and writes.

    Args:
        argv: the words behind `luna-lra generate`.

    Returns:
        Exit status: 0; 1 when files cannot be written; 2 for what the user
        can put right; 130 after an interrupt.
    """
    again = " The same command goes on."
    return one_shot.run(NAME, HELP, GenerateFlags, argv, write, again)


def write(given: GenerateFlags) -> None:
    """Generates what is not there yet.

    Args:
        given: the checked flags.

    Raises:
        ValueError: there are no such pictures, or the folder holds others.
        OSError: the folder cannot be written to.
    """
    flags.import_tensorflow()
    from luna_tf.data.lra.pathfinder_files import write_pathfinder_folder
    from luna_tf.data.lra.pathfinder_generator import PathfinderConfig
    from luna_tf.data.lra.pathfinder_records import write_pathfinder_records
    from luna_tf.training.progress import ProgressBar, format_duration

    config = PathfinderConfig(
        given.image_size,
        given.difficulty,
        given.pictures,
        given.data_seed,
        given.contour_length,
        given.distractors,
    )
    started = time.monotonic()
    kinds = {
        "png": write_pathfinder_folder,
        "tfrecord": write_pathfinder_records,
    }
    with ProgressBar(given.pictures, "generate") as bar:
        kinds[given.format](
            given.output_dir,
            config,
            given.num_workers,
            lambda done, _: bar.update(done),
        )
    elapsed = format_duration(time.monotonic() - started)
    print(f"{given.pictures:,} pictures in {given.output_dir} ({elapsed})")
