"""Grey pictures from folders of picture files, one folder for each class."""

import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luna_tf.data.lra.images_arrays import Size, to_grey
from luna_tf.data.lra.labelled import Problems, natural_order, sorted_classes
from luna_tf.data.lra.splits import ImageSplit

# What Pillow raises for damaged files of one kind or another.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)
_GREYS = ("L", "1")
_COLOURS = ("P", "RGB", "RGBA", "LA", "PA")


def find_classes(folder: str | os.PathLike) -> tuple[str, ...]:
    """Returns the names of the folders in a folder: numbers by value.

    Hidden ones, whose names start with a dot, do not count.

    Example:

    >>> from pathlib import Path
    >>> for name in ("dog", "cat", ".git"):
    ...     Path("animals", name).mkdir(parents=True)
    >>> find_classes("animals")
    ('cat', 'dog')
    """
    return sorted_classes(
        entry.name
        for entry in Path(folder).iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def read_pictures(
    folder: str | os.PathLike,
    classes: Sequence[str],
    size: Size | None = None,
    skip_malformed: bool = False,
) -> ImageSplit:
    """Reads all picture files of some classes.

    Colours become grey as in `images_arrays.to_grey`; what is transparent
    becomes black.

    Args:
        folder: has a folder of picture files for each class.
        classes: their names; class `i` is `classes[i]`.
        size: height and width that pictures must have; None for those of the
            first one.
        skip_malformed: leave out files that are no such pictures, and say so
            in one warning that counts them and names the first few, instead
            of raising.

    Returns:
        The pictures, class by class, in the order of their names (9.png before
        10.png).

    Raises:
        FileNotFoundError: a class has no folder.
        OSError: a file cannot be read.
        ValueError: a file is no such picture (the message names it), or there
            are none.

    Example:

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> Path("pictures/cat").mkdir(parents=True)
    >>> Image.new("RGB", (8, 8), "white").save("pictures/cat/1.png")
    >>> split = read_pictures("pictures", ["cat"])
    >>> split.pixels.shape, split.pixels[0, 0, :4]
    ((1, 8, 8), array([255, 255, 255, 255], dtype=uint8))
    """
    problems = Problems(folder, skip_malformed)
    pictures: list[np.ndarray] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for file in sorted(os.listdir(Path(folder, name)), key=natural_order):
            if file.startswith("."):
                continue
            content = Path(folder, name, file).read_bytes()
            try:
                pictures.append(_decode(content, size))
            except ValueError as error:
                problems.add(f"{name}/{file}", str(error))
                continue
            labels.append(label)
            height, width = pictures[0].shape
            size = height, width
    problems.warn(len(pictures))
    return ImageSplit(np.stack(pictures), np.array(labels))


def _decode(content: bytes, size: Size | None) -> np.ndarray:
    # Here, because nothing else needs it.
    from PIL import Image

    if not content:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            height, width = picture.height, picture.width
            # Before it is unpacked: a small file can hold a huge picture.
            if size is not None and (height, width) != size:
                raise _UnfitError(
                    f"it is {height}x{width} pixels, not {size[0]}x{size[1]}"
                )
            if picture.mode in _GREYS and "transparency" not in picture.info:
                return np.asarray(picture.convert("L"))
            if picture.mode not in (*_GREYS, *_COLOURS):
                raise _UnfitError(
                    f"its mode is {picture.mode}, not 8-bit grey or colour"
                )
            black = Image.new("RGBA", picture.size, "black")
            black.alpha_composite(picture.convert("RGBA"))
            return to_grey(np.asarray(black)[..., :3])
    except _UnfitError as error:
        raise ValueError(str(error)) from None
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read as a picture ({error})") from error


class _UnfitError(Exception):
    """The message says why a sound picture cannot be used."""
