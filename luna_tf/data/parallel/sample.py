"""The verse pairs that are installed with the package."""

from __future__ import annotations

import importlib.resources


def sample_path() -> str:
    """Where the sample lies: a gzipped TSV file with a header.

    Columns are `book`, `chapter`, `verse`, `en` and `es`; verses of seven
    books, of which Mark and Ruth are meant to be held out. NOTICE says where
    the text comes from.

    Returns:
        Path of a file.

    Example:

    ```python
    pairs = read_tsv(sample_path(), "en", "es", "book")
    train, validation, test = split(pairs, ["Ruth"], ["Mark"])
    ```
    """
    folder = importlib.resources.files("luna_tf.data.parallel")
    return str(folder.joinpath("verses_en_es.tsv.gz"))
