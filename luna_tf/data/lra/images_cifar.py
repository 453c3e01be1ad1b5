"""CIFAR-10, from Keras or from the files of its authors.

CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009) has no licence: use it for research, and cite that report.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from luna_tf.data.lra.images_arrays import make_split
from luna_tf.data.lra.labelled import LabelledSplits
from luna_tf.data.lra.splits import ImageSplit

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
WHERE_FROM = (
    "Get cifar-10-python.tar.gz at https://www.cs.toronto.edu/~kriz/cifar.html "
    "and give the folder cifar-10-batches-py that it unpacks to."
)

_SHAPE = (3, 32, 32)


def load_keras() -> LabelledSplits[ImageSplit]:
    """Returns what `keras.datasets.cifar10` downloads once and keeps.

    Returns:
        The splits `"train"` (50,000 grey pictures) and `"test"` (10,000).

    Raises:
        RuntimeError: the download fails; the message says what else to do.

    Example:

    >>> load_keras()["train"].pixels.shape  # doctest: +SKIP
    (50000, 32, 32)
    """
    import keras

    try:
        train, test = keras.datasets.cifar10.load_data()
    # Keras raises a bare Exception when it cannot connect.
    except Exception as error:
        raise RuntimeError(
            "keras.datasets.cifar10 could not load CIFAR-10: "
            f"{str(error) or type(error).__name__}. {WHERE_FROM}"
        ) from error
    splits = {}
    for name, (pixels, labels) in {"train": train, "test": test}.items():
        # So with image_data_format "channels_first".
        if pixels.shape[1:] == _SHAPE:
            pixels = np.moveaxis(pixels, 1, -1)
        splits[name] = make_split(pixels, labels, f"CIFAR-10, {name}")
    return LabelledSplits(splits, CLASSES)


def read_batches(path: str | os.PathLike) -> LabelledSplits[ImageSplit]:
    """Reads the Python version of CIFAR-10.

    Args:
        path: the folder `cifar-10-batches-py`, with the files of `BATCHES`.

    Returns:
        The splits `"train"` and `"test"`, grey, in the order of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or holds something else.

    Example:

    >>> import pickle
    >>> from pathlib import Path
    >>> import numpy as np
    >>> Path("cifar-10-batches-py").mkdir()
    >>> batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 8]}
    >>> for name in BATCHES["train"] + BATCHES["test"]:
    ...     path = Path("cifar-10-batches-py", name)
    ...     _ = path.write_bytes(pickle.dumps(batch))
    >>> read_batches("cifar-10-batches-py")["train"].pixels.shape
    (10, 32, 32)
    """
    folder = Path(path)
    for name in (*BATCHES["train"], *BATCHES["test"]):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"There is no {name} in {folder.absolute()}. {WHERE_FROM}"
            )
    splits = {}
    for name, files in BATCHES.items():
        parts = [_read_batch(folder / file) for file in files]
        splits[name] = ImageSplit(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
    return LabelledSplits(splits, CLASSES)


def _read_batch(path: Path) -> ImageSplit:
    with open(path, "rb") as file:
        try:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
            pixels = batch[b"data"].reshape(-1, *_SHAPE)
            labels = np.array(batch[b"labels"])
        # A damaged pickle can fail in any way.
        except Exception as error:
            raise ValueError(
                f"{path} is damaged, or no file of CIFAR-10: "
                f"{type(error).__name__}: {error}."
            ) from error
    split = make_split(np.moveaxis(pixels, 1, -1), labels, str(path))
    wrong = (split.labels < 0) | (split.labels >= len(CLASSES))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"{path}, picture {place}: label {split.labels[place]} is not in "
            f"0..{len(CLASSES) - 1}."
        )
    return split


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and what Python has built in, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _encode(text: str, encoding: str) -> bytes:
    """Python 3's way to store bytes for Python 2."""
    return text.encode(encoding)
