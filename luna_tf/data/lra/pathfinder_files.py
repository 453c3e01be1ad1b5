"""Pathfinder pictures as files of the release: PNG, and metadata as text.

The release has folders `pathfinder32`, `64`, `128` and `256`, and in each of
them one for every difficulty, such as `curv_contour_length_14`. There,
`metadata/<number>.npy` has one line of words for each picture, and
`imgs/<number>/sample_<i>.png` are the pictures.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from luna_tf.data.lra.data_cache import load_or_parse
from luna_tf.data.lra.labelled import Problems
from luna_tf.data.lra.pathfinder_disk import (
    claim,
    replacing,
    replacing_folder,
    split_by_position,
    write_chunks,
)
from luna_tf.data.lra.pathfinder_generator import (
    GENERATOR_VERSION,
    Chunk,
    PathfinderConfig,
)
from luna_tf.data.lra.pathfinder_settings import settings
from luna_tf.data.lra.splits import ImageSplit

_FOLDERS = {
    "easy": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}
# Of the columns of the metadata; behind them are parameters of the generator.
_SUBFOLDER, _FILE, _LABEL = 0, 1, 3
_NUM_CONTRASTS = 1
# What Pillow raises for damaged files of one kind or another.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)


def load_pathfinder_folder(
    path: str | os.PathLike,
    image_size: int = 32,
    difficulty: str = "hard",
    skip_malformed: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, ImageSplit]:
    """Reads the pictures of the Long Range Arena release.

    Args:
        path, image_size, difficulty, skip_malformed: see
            `read_pathfinder_folder`.
        cache_dir: a local folder, made if need be, that keeps what was read:
            200,000 files take minutes. None keeps nothing.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`: the first 80 %, the
        next 10 % and the last 10 % of the pictures, as in the official code.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_pathfinder_folder`.
        OSError: `cache_dir` cannot be written to.

    Example:

    >>> from luna_tf.data import lra
    >>> config = lra.PathfinderConfig(32, "easy", num_examples=10)
    >>> _ = lra.write_pathfinder_folder("pictures", config)
    >>> splits = lra.load_pathfinder_folder("pictures", difficulty="easy")
    >>> splits["train"].pixels.shape
    (8, 32, 32)
    """
    folder = find_folder(path, image_size, difficulty)

    # So that warnings name the line that calls this.
    stacklevel = 5 if cache_dir is None else 6

    def parse() -> dict[str, ImageSplit]:
        return split_by_position(
            *_read(folder, image_size, skip_malformed, stacklevel)
        )

    return load_or_parse(
        cache_dir,
        f"pathfinder{image_size}-{difficulty}",
        [folder],
        {"skip_malformed": skip_malformed},
        parse,
    )


def read_pathfinder_folder(
    path: str | os.PathLike,
    image_size: int = 32,
    difficulty: str = "hard",
    skip_malformed: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads all pictures of one size and difficulty.

    Args:
        path: the folder that holds `pathfinder32` or the like, or that folder
            itself.
        image_size: height and width: 32, 64, 128 (Path-X) or 256.
        difficulty: `"easy"`, `"intermediate"` or `"hard"`.
        skip_malformed: leave out pictures that cannot be read or have no
            right label, and say so in one warning that counts them and names
            the first few, instead of raising. (In the release,
            `sample_172.png` of `pathfinder32/curv_baseline/imgs/0` is empty.)

    Returns:
        The pictures, uint8 `(pictures, image_size, image_size)`, and labels,
        int32 `(pictures,)`, in the order of the numbers of the metadata.

    Raises:
        FileNotFoundError: there is no such folder; the message says how it
            should look and where it comes from.
        OSError: a file cannot be read.
        ValueError: there is no such size or difficulty, a line or a picture
            is malformed (the message names file and line), or there are no
            pictures.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> _ = write_pathfinder_folder("pictures", config)
    >>> pixels, labels = read_pathfinder_folder("pictures", difficulty="easy")
    >>> pixels.shape, labels
    ((10, 32, 32), array([1, 1, 0, 0, 1, 1, 0, 0, 1, 0], dtype=int32))
    """
    folder = find_folder(path, image_size, difficulty)
    return _read(folder, image_size, skip_malformed, stacklevel=3)


def find_folder(
    path: str | os.PathLike, image_size: int, difficulty: str
) -> Path:
    """Returns the folder with `metadata` and `imgs` of one kind of picture.

    Args:
        path, image_size, difficulty: see `read_pathfinder_folder`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such size or difficulty.

    Example:

    >>> from pathlib import Path
    >>> for name in ("metadata", "imgs"):
    ...     folder = Path("lra/pathfinder128/curv_contour_length_14", name)
    ...     folder.mkdir(parents=True)
    >>> find_folder("lra", 128, "hard").name
    'curv_contour_length_14'
    """
    settings(image_size, difficulty)
    root = Path(path).expanduser()
    name = Path(f"pathfinder{image_size}", _FOLDERS[difficulty])
    folders = [root / name]
    if root.absolute().name == name.parent.name:
        folders.append(root / name.name)
    for folder in folders:
        if (folder / "metadata").is_dir() and (folder / "imgs").is_dir():
            return folder
    raise FileNotFoundError(
        f"There is no folder {folders[-1].absolute()} with the folders "
        "metadata and imgs. It should hold metadata/0.npy and so on, and "
        "imgs/0/sample_0.png and so on, as does "
        f"lra_release/lra_release/{name} of the unpacked Long Range Arena "
        "release (github.com/google-research/long-range-arena). Without it "
        "such pictures can be generated: luna-lra does without --data_dir, "
        "luna-lra generate writes them as files, and so does "
        "write_pathfinder_folder."
    )


def write_pathfinder_folder(
    path: str | os.PathLike,
    config: PathfinderConfig,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Generates pictures as files that look like those of the release.

    The metadata of a chunk are written when all of its pictures are; a run
    that was killed can so be taken up, and the outcome is the same.

    Args:
        path: the folder that will hold `pathfinder32` or the like.
        config: what to generate.
        num_workers: see `pathfinder_generator.generate`.
        progress: called as `progress(done, total)` with numbers of pictures,
            at once if some are there and after each chunk.

    Returns:
        The folder with `metadata` and `imgs`; its `dataset.json` says what
        was generated.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: it holds other pictures, or `num_workers` is below 1.

    Example:

    >>> from luna_tf.data.lra import PathfinderConfig, write_pathfinder_folder
    >>> config = PathfinderConfig(32, "easy", num_examples=10)
    >>> folder = write_pathfinder_folder("pictures", config)
    >>> sorted(path.name for path in folder.iterdir())
    ['dataset.json', 'imgs', 'metadata']
    """
    folder = Path(path).expanduser() / f"pathfinder{config.image_size}"
    folder /= _FOLDERS[config.difficulty]
    claim(
        folder,
        {
            "generator_version": GENERATOR_VERSION,
            "config": config.describe(),
        },
    )
    for name in ("metadata", "imgs"):
        (folder / name).mkdir(exist_ok=True)
    missing = [
        index
        for index in range(config.num_chunks)
        if not _metadata(folder, index).exists()
    ]

    def write(chunk: Chunk) -> None:
        pictures = folder / "imgs" / str(chunk.index)
        with replacing_folder(pictures) as partial:
            for i, picture in enumerate(chunk.pixels):
                Image.fromarray(picture).save(partial / f"sample_{i}.png")
        # Written last: where there are metadata, there are pictures.
        with replacing(_metadata(folder, chunk.index)) as partial:
            partial.write_text(_lines(config, chunk))

    write_chunks(config, missing, write, num_workers, progress)
    return folder


def _metadata(folder: Path, index: int) -> Path:
    return folder / "metadata" / f"{index}.npy"


def _lines(config: PathfinderConfig, chunk: Chunk) -> str:
    kind = config.settings()
    return "".join(
        f"imgs/{chunk.index} sample_{i}.png {i} {label} {kind.continuity} "
        f"{kind.contour_length} {kind.distractor_length} "
        f"{kind.paddle_length} {kind.paddle_thickness} {margin} "
        f"{_NUM_CONTRASTS}\n"
        for i, (label, margin) in enumerate(
            zip(chunk.labels, chunk.margins, strict=True)
        )
    )


def _read(
    folder: Path, image_size: int, skip_malformed: bool, stacklevel: int
) -> tuple[np.ndarray, np.ndarray]:
    problems = Problems(folder, skip_malformed)
    lines = list(_read_metadata(folder / "metadata"))
    pixels = np.empty((len(lines), image_size, image_size), np.uint8)
    labels: list[int] = []
    for place, columns in lines:
        try:
            label = _label(columns)
            file = os.path.join(columns[_SUBFOLDER], columns[_FILE])
            pixels[len(labels)] = _read_picture(folder, file, image_size)
        except _MalformedError as error:
            problems.add(place, str(error))
        else:
            labels.append(label)
    problems.warn(len(labels), stacklevel)
    return pixels[: len(labels)], np.array(labels, np.int32)


class _MalformedError(Exception):
    """The message says what is wrong with an example."""


def _read_metadata(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields a place for messages and the words of each line."""
    numbers = {}
    for path in folder.iterdir():
        if path.suffix == ".npy" and not path.name.startswith("."):
            if not path.stem.isdecimal():
                raise ValueError(
                    f"{path}: files of metadata have numbers for names, such "
                    "as 0.npy."
                )
            numbers[int(path.stem)] = path
    for _, path in sorted(numbers.items()):
        # Bytes that are not UTF-8 are reported like other wrong words.
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text:
            yield f"metadata/{path.name}, line 1", []
        for number, line in enumerate(text.splitlines(), start=1):
            yield f"metadata/{path.name}, line {number}", line.split()


def _label(columns: list[str]) -> int:
    if not columns:
        raise _MalformedError("there is nothing in it")
    if len(columns) <= _LABEL:
        raise _MalformedError(
            f"expected at least {_LABEL + 1} columns, found {len(columns)}"
        )
    if columns[_LABEL] not in ("0", "1"):
        raise _MalformedError(
            f"label {columns[_LABEL][:80]!r} in column {_LABEL + 1} is not 0 "
            "or 1"
        )
    return int(columns[_LABEL])


def _read_picture(folder: Path, file: str, image_size: int) -> np.ndarray:
    try:
        content = (folder / file).read_bytes()
    except FileNotFoundError:
        raise _MalformedError(f"there is no file {file}") from None
    if not content:
        raise _MalformedError(f"{file} is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            # Before it is unpacked: a small file can hold a huge picture.
            if picture.size != (image_size, image_size):
                raise _MalformedError(
                    f"{file} is {picture.height}x{picture.width} pixels, not "
                    f"{image_size}x{image_size}"
                )
            if picture.mode != "L":
                raise _MalformedError(
                    f"{file} has the mode {picture.mode}, not L (8-bit grey)"
                )
            return np.asarray(picture)
    except _DAMAGED as error:
        raise _MalformedError(
            f"{file} cannot be read as a picture ({error})"
        ) from error
