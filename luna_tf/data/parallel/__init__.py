"""Parallel text: pairs of sentences that say the same in two languages.

Importing this does not import TensorFlow.
"""

from luna_tf.data.parallel.buckets import (
    Bucket,
    Filled,
    Shape,
    choose_shapes,
    fill,
    lengthen,
)
from luna_tf.data.parallel.corpus import (
    CorpusError,
    Pairs,
    read_aligned,
    read_tsv,
    split,
)
from luna_tf.data.parallel.sample import sample_path
from luna_tf.data.parallel.tokens import TokenLists
from luna_tf.data.parallel.vocabulary import (
    Vocabulary,
    VocabularyError,
    load,
    load_or_train,
    train_vocabulary,
)

__all__ = [
    "Bucket",
    "CorpusError",
    "Filled",
    "Pairs",
    "Shape",
    "TokenLists",
    "Vocabulary",
    "VocabularyError",
    "choose_shapes",
    "fill",
    "lengthen",
    "load",
    "load_or_train",
    "read_aligned",
    "read_tsv",
    "sample_path",
    "split",
    "train_vocabulary",
]
