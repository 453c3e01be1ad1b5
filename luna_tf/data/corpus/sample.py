"""The text that is installed with the package."""

from __future__ import annotations

import importlib.resources


def sample_path() -> str:
    """Where the sample lies: English text in UTF-8, compressed by gzip.

    It has 1,189 documents, chapters of 66 books, with a verse on each line and
    a blank line between documents: 4 MB, 750,000 words. NOTICE says where it
    comes from.

    Returns:
        Path of a file.

    Example:

    >>> from luna_tf.data.corpus import find_files, read_documents, sample_path
    >>> documents = read_documents(find_files(sample_path()))
    >>> for document in documents.take(1):
    ...     print(document["text"].numpy()[:50].decode())
    Genesis 1
    In the beginning, God created the heaven
    """
    folder = importlib.resources.files("luna_tf.data.corpus")
    return str(folder.joinpath("verses_en.txt.gz"))
