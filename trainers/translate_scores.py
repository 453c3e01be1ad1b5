"""BLEU and chrF, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[str]
) -> dict[str, Any]:
    """Scores translations against one reference each.

    Args:
        hypotheses: translations, plain text.
        references: as many references.

    Returns:
        `bleu` and `chrf`, both from 0 to 100, and their signatures,
        `bleu_signature` and `chrf_signature`, which say exactly what was
        computed.

    Raises:
        ValueError: they are not as many, or none.

    Example:

    >>> scores = corpus_scores(
    ...     ["Buenos días a todos los amigos."],
    ...     ["Buenos días a todos ustedes, amigos."],
    ... )
    >>> round(scores["bleu"], 1), round(scores["chrf"], 1)
    (42.4, 65.5)
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            "hypotheses and references must be as many, and at least one. "
            f"Received: {len(hypotheses)} and {len(references)}"
        )
    from sacrebleu.metrics import BLEU, CHRF

    scores: dict[str, Any] = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result = metric.corpus_score(list(hypotheses), [list(references)])
        scores[name] = float(result.score)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores
