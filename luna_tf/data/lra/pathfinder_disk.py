"""What the two forms of Pathfinder data on disk share.

Both are written chunk by chunk, so that a run that is killed loses only the
chunks that it was at, and both are split by position.
"""

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from luna_tf.data.lra.pathfinder_generator import (
    CHUNK_SIZE,
    Chunk,
    PathfinderConfig,
    chunks,
)
from luna_tf.data.lra.splits import ImageSplit

DESCRIPTION = "dataset.json"

# No chunk takes that long to write: what is older was left by a killed run.
_LEFTOVER_SECONDS = 24 * 60 * 60


def write_chunks(
    config: PathfinderConfig,
    missing: Sequence[int],
    write: Callable[[Chunk], None],
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generates and writes what is missing of a data set.

    Args:
        config: the data set.
        missing: which of its chunks.
        write: writes a chunk; it is called in the order of `missing`.
        num_workers: see `pathfinder_generator.generate`.
        progress: called as `progress(done, total)` with numbers of pictures,
            at once if some are there and after each chunk.

    Raises:
        ValueError: `num_workers` is below 1.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> def write(chunk):
    ...     print(chunk.index, chunk.pixels.shape)
    >>> write_chunks(config, range(config.num_chunks), write)
    0 (10, 32, 32)
    """
    total = config.num_examples
    done = total - sum(
        min(CHUNK_SIZE, total - index * CHUNK_SIZE) for index in missing
    )
    with contextlib.closing(chunks(config, missing, num_workers)) as parts:
        if 0 < done < total and progress is not None:
            progress(done, total)
        for chunk in parts:
            write(chunk)
            done += len(chunk.labels)
            if progress is not None:
                progress(done, total)


def split_by_position(
    pixels: np.ndarray, labels: np.ndarray
) -> dict[str, ImageSplit]:
    """Splits pictures as the Long Range Arena does, 80/10/10 by position.

    Args:
        pixels: uint8 `(examples, height, width)`, at least 10.
        labels: `(examples,)`.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`, which share the
        memory of `pixels`.

    Raises:
        ValueError: there are fewer than 10 examples.

    Example:

    >>> import numpy as np
    >>> splits = split_by_position(np.zeros((20, 32, 32)), np.zeros(20))
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 16, 'validation': 2, 'test': 2}
    """
    if len(labels) < 10:
        raise ValueError(
            "There must be at least 10 pictures to split. "
            f"Received: {len(labels)}."
        )
    first, second = len(labels) * 8 // 10, len(labels) * 9 // 10
    return {
        "train": ImageSplit(pixels[:first], labels[:first]),
        "validation": ImageSplit(pixels[first:second], labels[first:second]),
        "test": ImageSplit(pixels[second:], labels[second:]),
    }


def claim(folder: Path, description: dict) -> None:
    """Makes a folder for a data set, or makes sure that it is for this one.

    Args:
        folder: made if need be.
        description: what will be in it, fit for JSON.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: it holds something else.

    Example:

    >>> from pathlib import Path
    >>> claim(Path("pictures"), {"seed": 0})
    >>> Path("pictures", DESCRIPTION).read_text()
    '{\\n  "seed": 0\\n}\\n'
    """
    path = folder / DESCRIPTION
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
        if found != description:
            raise ValueError(
                f"{folder} holds another data set: its {DESCRIPTION} has "
                f"{found}, wanted is {description}. Give another folder."
            )
        return
    if any(not name.startswith(".") for name in os.listdir(folder)):
        raise ValueError(
            f"{folder} is not empty, but has no {DESCRIPTION}. Give another "
            "folder."
        )
    with replacing(path) as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file its name when all of it is on disk.

    Args:
        path: the file.

    Yields:
        Where to write to instead.

    Example:

    >>> from pathlib import Path
    >>> with replacing(Path("numbers.txt")) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> Path("numbers.txt").read_text()
    '1 2 3'
    """
    partial = _partial(path)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a folder its name when everything in it is written.

    Args:
        path: the folder; what it holds by then is replaced.

    Yields:
        The empty folder to write to instead.

    Example:

    >>> from pathlib import Path
    >>> Path("imgs").mkdir()
    >>> with replacing_folder(Path("imgs/0")) as partial:
    ...     _ = (partial / "sample_0.txt").write_text("a picture")
    >>> [path.name for path in Path("imgs/0").iterdir()]
    ['sample_0.txt']
    """
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    """Returns a name to write to, and removes what killed runs have left."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime < _LEFTOVER_SECONDS:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
