"""The schema of a masked-language-model pretraining."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources

from luna_tf.training.recipes import RecipeError, setting

from . import flags
from .recipe_checks import check_recipe
from .recipe_fields import BackboneFields, TrainingFields, model

data = functools.partial(setting, group="Data")
masks = functools.partial(setting, group="Masks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CorpusFields:
    """Text, subwords and rows."""

    train_data: str | None = data(
        "Files (names, globs, gs://; commas between them): text, JSON lines "
        "(.jsonl) or TFRecord, also with .gz; null: the verses inside of the "
        "package.",
        default=None,
    )
    validation_data: str | None = data(
        "Text to choose the best weights by, like train_data; null: "
        "validation_fraction of train_data.",
        default=None,
    )
    test_data: str | None = data(
        "Text to report on, like train_data; null: test_fraction of "
        "train_data.",
        default=None,
    )
    validation_fraction: float = data(
        "Of the documents of train_data, without validation_data.",
        default=0.02,
        minimum=0.0,
        maximum=0.5,
    )
    test_fraction: float = data(
        "Of the documents of train_data, without test_data.",
        default=0.02,
        minimum=0.0,
        maximum=0.4,
    )
    document_separator: str = data(
        "What ends a document of a text file: a blank line, every line, or "
        "the file.",
        default="blank_line",
        choices=("blank_line", "line", "file"),
    )
    text_field: str = data(
        "Field of JSON objects, or feature of TFRecord examples, that holds "
        "the text.",
        default="text",
    )
    skip_malformed: bool = data(
        "Leave out documents that are not UTF-8 or lack the field, instead of "
        "stopping.",
        default=False,
    )
    vocabulary: str | None = data(
        "A SentencePiece .model, a WordPiece .txt, or a folder with a "
        "tokenizer; null: learned from train_data.",
        default=None,
    )
    vocabulary_type: str = data(
        "What is learned: pieces of words by SentencePiece (unigram, bpe) or "
        "as in BERT (wordpiece; slow to learn); bytes need no learning.",
        default="unigram",
        choices=("unigram", "bpe", "wordpiece", "bytes"),
    )
    vocabulary_size: int = data(
        "Token ids to learn, special ones included.", default=8000, minimum=16
    )
    vocabulary_bytes: int = data(
        "Text to learn them from, in bytes.", default=50_000_000, minimum=1
    )
    lowercase: bool = data("Fold case.", default=False)
    sequence_length: int = data(
        "Tokens of a row, start and end token included.", minimum=3
    )
    packing: str = data(
        "document: rows hold tokens of one document, long ones give several; "
        "full: documents follow each other without padding, and the packed "
        "sequence mixes those of a row.",
        default="document",
        choices=("document", "full"),
    )
    source: str = data(
        "Where rows come from in training: memory; files, tokenized once "
        "before; or text, tokenized while training. The last two are for "
        "corpora larger than memory.",
        default="memory",
        choices=("memory", "files", "text"),
    )
    shuffled_rows: int = data(
        "Rows among which the next is drawn; not with source=memory, which "
        "shuffles all.",
        default=10_000,
        minimum=1,
    )
    max_evaluation_rows: int | None = data(
        "Rows to validate on, and to test on, spread evenly; null: all.",
        default=2_000,
        minimum=1,
    )
    cache_dir: str | None = data(
        "Folder that keeps tokenized rows, gs:// included; null: data in "
        "--model_dir.",
        default=None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MaskFields:
    """Which tokens are hidden, and how."""

    mask_fraction: float = masks(
        "Of the tokens of a row, to be predicted.",
        default=0.15,
        above=0.0,
        below=1.0,
    )
    mask_token_fraction: float = masks(
        "Of these, replaced by the mask token.",
        default=0.8,
        minimum=0.0,
        maximum=1.0,
    )
    random_token_fraction: float = masks(
        "Of these, replaced by some other token; the rest stays.",
        default=0.1,
        minimum=0.0,
        maximum=1.0,
    )
    whole_words: bool = masks(
        "Hide all pieces of a word together.", default=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MlmModelFields(BackboneFields):
    initialization: str = model(
        "Initial weights: the habit of Keras or an official one.",
        default="bert",
        choices=("keras", "bert", "fairseq"),
    )
    share_embeddings: bool = model(
        "The table of the tokens is that of the output too.", default=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLMRecipe(TrainingFields, _MlmModelFields, _MaskFields, _CorpusFields):
    """Everything that defines a pretraining."""

    def __post_init__(self) -> None:
        check_recipe(self)
        if self.mask_token_fraction + self.random_token_fraction > 1 + 1e-6:
            raise RecipeError(
                f"mask_token_fraction={self.mask_token_fraction} with "
                f"random_token_fraction={self.random_token_fraction} is not "
                "possible: allowed is at most 1 together."
            )
        for kind in ("validation", "test"):
            given = getattr(self, f"{kind}_data")
            if given is None and not getattr(self, f"{kind}_fraction"):
                raise RecipeError(
                    f"{kind}_fraction=0.0 with {kind}_data=null is not "
                    "possible: one of the two is needed."
                )


PROGRAM = flags.Program(
    name="luna-mlm",
    usage="""
luna-mlm learns subwords and pretrains a Luna encoder on text, by guessing
hidden words. Without flags it learns from a book inside the package, on a CPU,
within 15 minutes.

Usage: luna-mlm [--config=NAME] [--FLAG=VALUE ...]

  luna-mlm
  luna-mlm --train_data='texts/*.txt.gz' --sequence_length=2048
  luna-mlm --mode=vocab --train_data='texts/*.txt.gz' --vocabulary_size=32000
  luna-mlm --train_data='gs://bucket/*.jsonl.gz' --source=files \\
    --cache_dir=gs://bucket/rows --model_dir=gs://bucket/run --tpu=local
""",
    schema=MLMRecipe,
    folder=importlib.resources.files(__package__) / "recipes" / "mlm",
    model_dir="runs/mlm",
    modes={"vocab": "learn the subwords, no more"},
)
