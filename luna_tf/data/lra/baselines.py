"""What can be scored on a task without reading sequences in order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .listops import Split, reference_lines
from .splits import ImageSplit, TextSplit


def baselines(
    train: Split | TextSplit | ImageSplit, test: Any
) -> dict[str, float]:
    """Accuracies that a model must pass to have learnt anything.

    Args:
        train: where the answers come from.
        test: where they are scored; a split of the same kind.

    Returns:
        Name to accuracy, 0 to 1: `majority`, the most frequent label; for
        ListOps also `root_operator`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.data.lra import ImageSplit
    >>> train = ImageSplit(np.zeros((4, 8, 8)), [0, 1, 1, 2])
    >>> test = ImageSplit(np.zeros((2, 8, 8)), [1, 2])
    >>> baselines(train, test)
    {'majority': 0.5}
    """
    if isinstance(train, Split):
        return reference_lines(train, test)
    majority = np.bincount(train.labels).argmax()
    return {"majority": float(np.mean(test.labels == majority))}


def tf_idf(
    train: TextSplit, test: TextSplit, max_bytes: int | None = None
) -> float:
    """Accuracy of logistic regression on counts of words and word pairs.

    Needs scikit-learn. Logarithmic term frequencies, inverse document
    frequencies and L2 norm, of words and pairs of words that at least two
    documents have; the documents of an example are counted side by side.

    Args:
        train: examples to fit.
        test: examples to score.
        max_bytes: read the first so many bytes of a document only, as a
            model does that cuts it; None reads all.

    Returns:
        Accuracy, 0 to 1; 0.887 on the reviews of the Large Movie Review
        Dataset, split by films.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: no word is in two documents.

    Example:

    >>> from luna_tf.data.lra import Sequences, TextSplit
    >>> texts = Sequences.from_rows([b"a fine film", b"a dull film"] * 5)
    >>> split = TextSplit((texts,), [1, 0] * 5)
    >>> tf_idf(split, split)
    1.0
    """
    import scipy.optimize
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    parts: list[tuple[Any, Any]] = []
    for first, second in zip(train.documents, test.documents, strict=True):
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), min_df=2, sublinear_tf=True
        )
        parts.append(
            (
                vectorizer.fit_transform(_texts(first, max_bytes)),
                vectorizer.transform(_texts(second, max_bytes)),
            )
        )
    fitted, scored = (
        scipy.sparse.hstack(column).tocsr()
        for column in zip(*parts, strict=True)
    )
    model = LogisticRegression(C=10.0, max_iter=300)
    with warnings.catch_warnings():
        # An old scikit-learn passes options that a new SciPy lacks.
        warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)
        model.fit(fitted, train.labels)
    return float(model.score(scored, test.labels))


def _texts(sequences: Any, max_bytes: int | None) -> list[str]:
    return [
        sequences.example(i)[:max_bytes]
        .tobytes()
        .decode("utf-8", errors="replace")
        for i in range(len(sequences))
    ]
