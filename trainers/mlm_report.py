"""What a pretraining leaves behind: its files and its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import session, tables

if TYPE_CHECKING:
    import keras

    from luna_tf.training.records import Evaluation, TrainingResult

# What a run writes, besides its subwords and rows, which follow from its data.
FILES = {
    **session.TRAINING_FILES,
    "results.json": "accuracy, perplexity and bits per byte, for programs",
    "results.md": "the same for readers",
    "preset": "for keras_hub: to fine-tune (luna-finetune), to go on",
    "saved_model": "for serving: fill-mask and embeddings of texts",
}
SHOWN_FILES = {**FILES, "tokenizer": "the subwords"}


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """Perplexity and, where bytes were counted, bits per byte.

    Bits per byte are those of the hidden tokens: their cross-entropy, divided
    by the bytes of text that they stand for.

    Args:
        evaluation: of `MaskedTokens`.
    """
    found = {"perplexity": math.exp(min(evaluation.loss, 100.0))}
    size = evaluation.metrics.get("bytes")
    if size:
        found["bits_per_byte"] = evaluation.loss / math.log(2) / size
    return found


def results(
    network: keras.Model,
    test: Evaluation,
    trained: TrainingResult | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        network: the model that was tested.
        test: result on the test rows.
        trained: what training gave, or None when weights were read.
        about: further entries.

    Returns:
        A dictionary fit for JSON.
    """
    rates = trained.rates if trained else None
    validated = trained.best_evaluation if trained else None
    return {
        "test": {
            "hidden_tokens": round(test.weight),
            "loss": test.loss,
            **test.metrics,
            **metrics(test),
        },
        "parameters": network.count_params(),
        "steps_per_second": rates.steps_per_second if rates else None,
        "tokens_per_second": rates.tokens_per_second if rates else None,
        "steps": trained.step if trained else None,
        "best_step": trained.best_step if trained else None,
        "training_seconds": trained.seconds if trained else None,
        "best_validation_loss": validated.loss if validated else None,
        **about,
    }


def rows(results: Mapping[str, Any]) -> tables.Rows:
    """Lays out results as lines of label, value and remark, under headings."""
    from luna_tf.training.progress import format_duration

    test = results["test"]
    heading = f"Test text, {test['hidden_tokens']:,} hidden tokens"
    table: tables.Rows = {
        heading: [
            ("accuracy", f"{100 * test['accuracy']:6.2f} %", "of the tokens"),
            (
                "most frequent token",
                f"{100 * results['majority']:6.2f} %",
                "what guessing it each time gives",
            ),
            ("cross-entropy", f"{test['loss']:6.3f}", "nats per token"),
            (
                "entropy of the tokens",
                f"{results['entropy']:6.3f}",
                "nats, what guessing by frequency gives at best",
            ),
            ("perplexity", f"{test['perplexity']:6.1f}", ""),
        ]
    }
    if "bits_per_byte" in test:
        table[heading].append(
            (
                "bits per byte",
                f"{test['bits_per_byte']:6.3f}",
                f"of hidden text; {test['bytes']:.2f} bytes per token",
            )
        )
    run = [("parameters", f"{results['parameters']:,}", "")]
    if results["steps"] is not None:
        run.append(("steps", f"{results['steps']:,}", ""))
        spent = format_duration(results["training_seconds"])
        run.append(("time of steps", spent, results["device"]))
    if results["steps_per_second"] is not None:
        run.append(
            (
                "speed",
                f"{results['steps_per_second']:.3g} steps/s",
                f"{results['tokens_per_second']:,.0f} tokens/s",
            )
        )
    if results.get("peak_memory_mib"):
        peak = f"{results['peak_memory_mib']:,.0f} MiB"
        run.append(("largest memory", peak, "of the process"))
    table["Run"] = run
    return table


def without_context(table: np.ndarray, tokenizer: Any) -> dict[str, float]:
    """What guesses come to that do not look at the text.

    Args:
        table: integers `(rows, length)`, what is tested on.
        tokenizer: of these ids.

    Returns:
        "majority", the share of the most frequent token, which is the accuracy
        of guessing it each time; and "entropy" of the tokens in nats, below
        which no cross-entropy can come without context. Special tokens, which
        are never hidden, do not count.
    """
    counts = np.bincount(table.ravel(), minlength=tokenizer.vocabulary_size())
    counts[tokenizer.special_token_ids] = 0
    total = max(counts.sum(), 1)
    shares = counts[counts > 0] / total
    return {
        "majority": float(counts.max() / total),
        "entropy": float(-(shares * np.log(shares)).sum()),
    }


def blanks_text(blanks: Sequence[Any]) -> str:
    """Texts with a hidden word, and what the model puts there.

    Args:
        blanks: from `mlm_blanks.fill`.
    """
    lines = ["Fill in the blank"]
    for blank in blanks:
        guesses = ", ".join(
            f"{word!r} {100 * share:.0f} %" for word, share in blank.guesses
        )
        lines += [
            "",
            f"  {blank.before}[ ? ]{blank.after}",
            f"    was {blank.hidden!r}; guessed {guesses}",
        ]
    return "\n".join(lines)
