"""Grey pictures from arrays: colour is taken away, shapes are checked."""

import os
import zipfile
import zlib
from typing import Any

import numpy as np

from luna_tf.data.lra.labelled import LabelledSplits
from luna_tf.data.lra.splits import ImageSplit

Size = tuple[int, int]

_KEYS = ("x_train", "y_train", "x_test", "y_test")
# As in `tf.image.rgb_to_grayscale`, which rounds down after this scale.
_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], np.float32)
_SCALE = np.float32(255.5)
_CHUNK = 4096


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Makes colours grey, to the bit like `tf.image.rgb_to_grayscale`.

    Args:
        pixels: uint8 `(..., 3)`, red, green and blue.

    Returns:
        uint8 `(...)`.

    Example:

    >>> import numpy as np
    >>> to_grey(np.array([[255, 255, 255], [255, 0, 0]], np.uint8))
    array([255,  76], dtype=uint8)
    """
    red, green, blue = np.moveaxis(pixels, -1, 0).astype(np.float32) * (
        np.float32(1 / 255)
    )
    grey = red * _WEIGHTS[0] + green * _WEIGHTS[1] + blue * _WEIGHTS[2]
    return (grey * _SCALE).astype(np.uint8)


def make_split(
    pixels: Any, labels: Any, place: str, size: Size | None = None
) -> ImageSplit:
    """Makes a split of arrays as they are found in files.

    Args:
        pixels: uint8 `(examples, height, width)`, or with 1 or 3 channels
            behind, which become grey.
        labels: integers `(examples,)` or `(examples, 1)`.
        place: what they are, for messages.
        size: height and width that they must have; None for any.

    Returns:
        The split.

    Raises:
        ValueError: the arrays are of other shapes or types.

    Example:

    >>> import numpy as np
    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> make_split(pixels, [[0], [1]], "mine.npz").pixels.shape
    (2, 8, 8)
    """
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    channels = pixels.shape[3:]
    if (
        pixels.dtype != np.uint8
        or pixels.ndim < 3
        or channels not in ((), (1,), (3,))
        or not pixels.size
    ):
        raise ValueError(
            f"{place}: pictures must be uint8 of shape (examples, height, "
            "width), with 1 or 3 channels behind or none. Received: "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{place}: labels must be integers of shape ({len(pixels)},), one "
            f"per picture. Received: {labels.dtype} of shape {labels.shape}."
        )
    height, width = pixels.shape[1:3]
    if size is not None and size != (height, width):
        raise ValueError(
            f"{place}: pictures are {height}x{width} pixels, not "
            f"{size[0]}x{size[1]}."
        )
    if channels == (1,):
        pixels = pixels[..., 0]
    elif channels:
        # In pieces, because a float takes four times as much room.
        pixels = np.concatenate(
            [
                to_grey(pixels[start : start + _CHUNK])
                for start in range(0, len(pixels), _CHUNK)
            ]
        )
    return ImageSplit(pixels, labels)


def read_npz(
    path: str | os.PathLike, size: Size | None = None
) -> LabelledSplits[ImageSplit]:
    """Reads pictures from a file of arrays.

    Args:
        path: an `.npz` file with `x_train` and `x_test`, pictures as in
            `make_split`, and `y_train` and `y_test`, labels from 0; perhaps
            also `class_names`, words.
        size: see `make_split`.

    Returns:
        The splits `"train"` and `"test"`. Without `class_names` there are as
        many classes as the labels of `y_train` need, named by their numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or does not hold such arrays.

    Example:

    >>> import numpy as np
    >>> x, y = np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 2])
    >>> np.savez("digits.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    >>> splits = read_npz("digits.npz", (28, 28))
    >>> splits["test"].pixels.shape, splits.class_names
    ((3, 28, 28), ('0', '1', '2'))
    """
    try:
        # Without pickle: an array file must not be able to run code.
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is a single array")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{os.fspath(path)} is not an .npz file of arrays, or damaged: "
            f"{error}."
        ) from error
    missing = [name for name in _KEYS if name not in arrays]
    if missing:
        raise ValueError(
            f"{os.fspath(path)} must hold {', '.join(_KEYS)}. It lacks "
            f"{', '.join(missing)}, and has {', '.join(arrays) or 'nothing'}."
        )
    splits = {}
    for name in ("train", "test"):
        pixels, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]
        place = f"{os.fspath(path)}, {name}"
        splits[name] = make_split(pixels, labels, place, size)
        # All are as large as the first.
        _, height, width = splits[name].pixels.shape
        size = height, width
    names = arrays.get("class_names")
    if names is None:
        names = np.arange(splits["train"].labels.max() + 1)
    try:
        return LabelledSplits(splits, [str(name) for name in names.tolist()])
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
