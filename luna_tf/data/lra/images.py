"""Image classification: CIFAR-10, or any small pictures, in grey.

Long Range Arena's Image task (Tay et al., 2021, section 2.2.4) reads the pixels
of CIFAR-10 as sequences; see `images_cifar` about that data set.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from luna_tf.data.lra.data_cache import load_or_parse
from luna_tf.data.lra.images_arrays import Size, read_npz
from luna_tf.data.lra.images_cifar import (
    BATCHES,
    WHERE_FROM,
    load_keras,
    read_batches,
)
from luna_tf.data.lra.images_folder import find_classes, read_pictures
from luna_tf.data.lra.labelled import (
    LabelledSplits,
    blocks,
    check_fractions,
)
from luna_tf.data.lra.splits import ImageSplit

_LAYOUTS = f"""\
Give one of
- nothing, to have Keras download CIFAR-10;
- the folder cifar-10-batches-py. {WHERE_FROM}
- an .npz file with x_train, y_train, x_test and y_test;
- a folder with a folder of pictures for each class, which is split here;
- a folder with folders train and test of such folders."""


def load_images(
    path: str | os.PathLike | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    image_size: int | None = None,
    skip_malformed: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> LabelledSplits[ImageSplit]:
    """Reads labelled grey pictures of one size.

    What is published as a test set stays the test set. The validation set of
    CIFAR-10 is the end of its training set, whose classes are mixed: by
    default pictures 45,000 to 50,000, as in the official code (which takes
    them in another order, that of TensorFlow Datasets). Elsewhere data are
    split by contiguous blocks of each class, see `labelled.blocks`.

    Args:
        path: one of
            - None: CIFAR-10, downloaded by Keras;
            - the folder `cifar-10-batches-py` of its authors;
            - an `.npz` file, see `images_arrays.read_npz`;
            - a folder with a folder of pictures for each class, see
              `images_folder.read_pictures`;
            - a folder with `train`, `test` and perhaps `validation`, each of
              them a folder of folders as before.
        validation_fraction: share of the training data to hold out for
            validation, where it has no folder of its own; 0 holds out none.
        test_fraction: share of a folder of classes to hold out for test.
        image_size: height and width that pictures must have; None for any, as
            long as it is one.
        skip_malformed: leave out files that are no such pictures, and say so
            in one warning per folder, instead of raising.
        cache_dir: a local folder, made if need be, that keeps what was read
            from picture files, see `data_cache.load_or_parse`; None keeps
            nothing.

    Returns:
        The splits `"train"`, `"validation"` and `"test"`, with the names of
        the classes.

    Raises:
        FileNotFoundError: data are missing; the message says what was looked
            for, where to get it and how it should lie on disk.
        RuntimeError: CIFAR-10 cannot be downloaded.
        ValueError: data are malformed (the message says where and how), or a
            fraction is not possible.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.lra import load_images
    >>> x, y = np.zeros((100, 28, 28), np.uint8), np.arange(100) % 10
    >>> np.savez("digits.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    >>> splits = load_images("digits.npz", image_size=28)
    >>> {name: split.pixels.shape for name, split in splits.items()}
    {'train': (90, 28, 28), 'validation': (10, 28, 28), 'test': (100, 28, 28)}
    """
    check_fractions(validation_fraction, test_fraction)
    if image_size is not None and image_size < 1:
        raise ValueError(
            "image_size must be at least 1, or None. "
            f"Received: image_size={image_size}."
        )
    size = None if image_size is None else (image_size, image_size)
    if path is None:
        return _cifar(load_keras(), validation_fraction, image_size)
    path = Path(path).expanduser()
    if path.is_file():
        return _hold_out(read_npz(path, size), validation_fraction)
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is nothing at {path.absolute()}. {_LAYOUTS}"
        )
    if any((path / file).is_file() for file in sum(BATCHES.values(), ())):
        return _cifar(read_batches(path), validation_fraction, image_size)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    parse = functools.partial(
        _load_folder, path, fractions, size, skip_malformed
    )
    options = {
        "fractions": fractions,
        "size": size,
        "skip_malformed": skip_malformed,
    }
    return load_or_parse(cache_dir, "image", [path], options, parse)


def _load_folder(
    path: Path,
    fractions: dict[str, float],
    size: Size | None,
    skip_malformed: bool,
) -> LabelledSplits[ImageSplit]:
    found = find_classes(path)
    if not found:
        raise FileNotFoundError(
            f"There are no folders in {path.absolute()}. {_LAYOUTS}"
        )
    if not {"train", "test"} <= set(found):
        whole = read_pictures(path, found, size, skip_malformed)
        parts = blocks(whole.labels, **fractions)
        return LabelledSplits(_take(whole, parts), found)
    classes = find_classes(path / "train")
    splits: dict[str, ImageSplit] = {}
    for name in ("train", "validation", "test"):
        if name not in found:
            continue
        unknown = set(find_classes(path / name)) ^ set(classes)
        if unknown:
            raise ValueError(
                f"{path / name} and {path / 'train'} must have the same "
                "classes. Only one of them has "
                f"{', '.join(map(repr, sorted(unknown)))}."
            )
        splits[name] = read_pictures(path / name, classes, size, skip_malformed)
        # All are as large as the first.
        _, height, width = splits[name].pixels.shape
        size = height, width
    return _hold_out(LabelledSplits(splits, classes), fractions["validation"])


def _hold_out(
    splits: LabelledSplits[ImageSplit], fraction: float
) -> LabelledSplits[ImageSplit]:
    if "validation" in splits:
        return splits
    train = splits["train"]
    parts = blocks(train.labels, fraction, 0.0)
    return LabelledSplits(
        {**_take(train, parts), "test": splits["test"]}, splits.class_names
    )


def _cifar(
    splits: LabelledSplits[ImageSplit], fraction: float, image_size: int | None
) -> LabelledSplits[ImageSplit]:
    train = splits["train"]
    size = train.pixels.shape[1]
    if image_size not in (None, size):
        raise ValueError(
            f"image_size must be {size}, the size of CIFAR-10, or None. "
            f"Received: image_size={image_size}."
        )
    # One block: as if all were of one class.
    parts = blocks(np.zeros(len(train)), fraction, 0.0)
    return LabelledSplits(
        {**_take(train, parts), "test": splits["test"]}, splits.class_names
    )


def _take(
    split: ImageSplit, parts: Mapping[str, np.ndarray]
) -> dict[str, ImageSplit]:
    return {
        name: ImageSplit(split.pixels[indices], split.labels[indices])
        for name, indices in parts.items()
    }
