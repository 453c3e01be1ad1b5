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

    >>> from luna_tf.data.parallel import read_tsv, sample_path, split
    >>> pairs = read_tsv(sample_path(), "en", "es", "book")
    >>> [len(part) for part in split(pairs, ["Ruth"], ["Mark"])]
    [4527, 85, 678]
    >>> pairs.sources[-1][:25], pairs.targets[-1][:25]
    ('There are also many other', 'Y hay también otras mucha')
    """
    folder = importlib.resources.files("luna_tf.data.parallel")
    return str(folder.joinpath("verses_en_es.tsv.gz"))
