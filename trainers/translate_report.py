"""What a translation run leaves behind: its files and its results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luna_tf.training import files

from . import session, tables
from .translate_recipe import ALIGNED

if TYPE_CHECKING:
    import keras

    from luna_tf.training.records import TrainingResult

    from .translate_decoding import Translated
    from .translate_recipe import TranslateRecipe
    from .translate_weights import Weights

VOCABULARY = "vocabulary.model"
MEAN_WEIGHTS = "mean.weights.h5"
# What a run writes, besides its vocabulary, which follows from its data.
FILES = {
    **session.TRAINING_FILES,
    MEAN_WEIGHTS: "mean of the last checkpoints, where it validates better",
    "results.json": "BLEU and chrF, for programs",
    "results.md": "the same for readers",
    "translations.tsv": "every test sentence with its translation",
    "saved_model": "for serving: text to text",
    "preset": "for LunaSeq2SeqLM.from_preset, to generate or to fine-tune",
}
# What would end a field or a line, in text spelt in bytes by a model.
_SPACES = str.maketrans("\t\n\r", "   ")
# All that a folder holds.
SHOWN_FILES = {**FILES, VOCABULARY: "subwords, a SentencePiece model"}


def title(recipe: TranslateRecipe) -> str:
    """What is translated into what, as far as a recipe names it."""
    data = recipe.train_data or ""
    if ALIGNED in data:
        # The languages are the endings of the files, as in train.en.gz.
        sides = [_endings(side) for side in data.split(ALIGNED, 1)]
        names = [side.pop() if len(side) == 1 else "" for side in sides]
    else:
        names = [recipe.source_column, recipe.target_column]
        names = ["" if name.isdecimal() else name for name in names]
    if not all(names) or names[0] == names[1]:
        return "source to target"
    return " to ".join(names)


def _endings(paths: str) -> set[str]:
    names = [path.strip().removesuffix(".gz") for path in paths.split(",")]
    return {os.path.splitext(name)[1].lstrip(".") for name in names}


def results(
    network: keras.Model,
    sources: Sequence[str],
    references: Sequence[str],
    translated: Sequence[Translated],
    trained: TrainingResult | None,
    weights: Weights,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers what a run found out.

    Args:
        network: the model that was tested.
        sources: test sentences.
        references: their translations.
        translated: what the model made of them.
        trained: what training gave, or None when weights were read.
        weights: those that were tested.
        about: further entries.

    Returns:
        A dictionary fit for JSON.
    """
    from .translate_scores import corpus_scores

    copied = corpus_scores(sources, references)
    rates = trained.rates if trained else None
    validated = trained.best_evaluation if trained else None
    return {
        "test": {
            "sentences": len(sources),
            **corpus_scores([t.texts[0] for t in translated], references),
        },
        "copy_of_the_source": {k: copied[k] for k in ("bleu", "chrf")},
        "parameters": network.count_params(),
        "examples_per_second": rates.examples_per_second if rates else None,
        "tokens_per_second": rates.tokens_per_second if rates else None,
        "best_step": trained.best_step if trained else None,
        "steps": trained.step if trained else None,
        "training_seconds": trained.seconds if trained else None,
        "best_validation_loss": validated.loss if validated else None,
        "weights": weights.name,
        "validation_loss": weights.validation_loss,
        **about,
    }


def rows(results: Mapping[str, Any]) -> tables.Rows:
    """Lays out results as lines of label, value and remark, under headings."""
    from luna_tf.training.progress import format_duration

    test, copied = results["test"], results["copy_of_the_source"]
    table: tables.Rows = {
        f"Test set, {test['sentences']:,} sentences": [
            ("BLEU", f"{test['bleu']:5.2f}", test["bleu_signature"]),
            ("chrF", f"{test['chrf']:5.2f}", test["chrf_signature"]),
            (
                "copy of the source",
                f"{copied['bleu']:5.2f}",
                f"BLEU, chrF {copied['chrf']:.2f}",
            ),
        ]
    }
    run = [("parameters", f"{results['parameters']:,}", "")]
    if results["tokens_per_second"] is not None:
        run.append(
            (
                "training speed",
                tables.speed(results["tokens_per_second"], "tokens"),
                tables.speed(results["examples_per_second"])
                + ", without compiling",
            )
        )
    if results["best_step"] is not None:
        run.append(
            (
                "best validation",
                f"step {results['best_step']:,} of {results['steps']:,}",
                f"loss {results['best_validation_loss']:.3f} nats per subword",
            )
        )
        run.append(
            ("training", format_duration(results["training_seconds"]), "")
        )
    loss = results["validation_loss"]
    remark = "" if loss is None else f"validation loss {loss:.3f}"
    run.append(("weights tested", results["weights"], remark))
    run.append(("search", results["search"], ""))
    run.append(("wall time", format_duration(results["wall_time_seconds"]), ""))
    run.append(("device", results["device"], results["precision"]))
    table["Run"] = run
    return table


def examples_text(
    sources: Sequence[str],
    references: Sequence[str],
    translated: Sequence[Translated],
    count: int,
) -> str:
    """A few sentences with all their hypotheses.

    Args:
        sources: test sentences.
        references: their translations.
        translated: what the model made of them.
        count: how many, taken evenly from the whole set.
    """
    lines = []
    stride = max(1, len(sources) // max(count, 1))
    for index in range(0, len(sources), stride)[:count]:
        lines += ["", f"source     {sources[index]}"]
        lines.append(f"reference  {references[index]}")
        found = translated[index]
        for text, score in zip(found.texts, found.scores, strict=True):
            lines.append(f"{score:9.3f}  {text.translate(_SPACES)}")
    return "\n".join(lines)


def write_translations(
    folder: str,
    sources: Sequence[str],
    references: Sequence[str],
    translated: Sequence[Translated],
) -> None:
    """Writes `translations.tsv`: source, reference, translation and score."""
    lines = [("source", "reference", "translation", "score")]
    for source, reference, found in zip(
        sources, references, translated, strict=True
    ):
        score = f"{found.scores[0]:.4f}"
        lines.append((source, reference, found.texts[0], score))
    text = "".join(
        "\t".join(field.translate(_SPACES) for field in line) + "\n"
        for line in lines
    )
    files.write_text(files.join(folder, "translations.tsv"), text)
