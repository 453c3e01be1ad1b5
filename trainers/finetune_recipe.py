"""The schema of a fine-tuning."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources

from luna_tf.training.recipes import RecipeError, setting

from . import flags
from .recipe_checks import check_schedule
from .recipe_fields import TrainingFields, training

data = functools.partial(setting, group="Data")
model = functools.partial(setting, group="Model")


# Those of `finetune_report.scores`.
CLASS_SCORES = ("accuracy", "f1", "matthews")
NUMBER_SCORES = ("pearson", "spearman")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TableFields:
    """Labelled texts in tables."""

    train_data: str | None = data(
        "CSV or TSV file of labelled texts.", default=None
    )
    validation_data: str | None = data(
        "Like train_data, to choose the best weights by; null: "
        "validation_fraction of train_data.",
        default=None,
    )
    test_data: str | None = data(
        "Like train_data, to report on; null: test_fraction of train_data, or "
        "the validation data where that is 0.",
        default=None,
    )
    validation_fraction: float = data(
        "Of each class, the part in front of the test part; not with "
        "validation_data.",
        default=0.1,
        minimum=0.0,
        below=1.0,
    )
    test_fraction: float = data(
        "Of each class, the last part; not with test_data.",
        default=0.1,
        minimum=0.0,
        below=1.0,
    )
    text_column: str = data(
        "Column of the text: a name in the first line, or a number from 1 "
        "without has_header.",
        default="text",
    )
    pair_column: str | None = data(
        "Column of a second text; null: single texts.", default=None
    )
    label_column: str = data("Column of the label.", default="label")
    has_header: bool = data("The first line names the columns.", default=True)
    rows: str | None = data("COLUMN=VALUE: only such rows.", default=None)
    skip_malformed: bool = data(
        "Leave out malformed rows instead of stopping.", default=False
    )
    objective: str = data(
        "What a label is: a class, or a number to come close to.",
        default="classification",
        choices=("classification", "regression"),
    )
    sequence_length: int | None = data(
        "Tokens of a row, special ones included; longer texts are cut. null: "
        "as in the preset.",
        default=None,
        minimum=3,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _HeadFields:
    """Where the encoder comes from, and what is put on it."""

    preset: str | None = model(
        "Preset to start from, such as runs/mlm/preset.", default=None
    )
    load_weights: bool = model(
        "Take its weights too, not only its sizes and subwords.", default=True
    )
    pooling: str = model(
        "Vector that is classified: of the first token, of the packed "
        "sequence, or of the first token looking at it.",
        default="first",
        choices=("first", "packed", "attention"),
    )
    head_hidden_dim: int | None = model(
        "Width of the head's hidden layer; null: the encoder's.",
        default=None,
        minimum=1,
    )
    head_dropout: float = model(
        "In the head; 0: off.", default=0.1, minimum=0.0, below=1.0
    )
    dropout: float | None = model(
        "In the encoder; null: as in the preset.",
        default=None,
        minimum=0.0,
        below=1.0,
    )
    attention_dropout: float | None = model(
        "Of attention weights; null: as in the preset.",
        default=None,
        minimum=0.0,
        below=1.0,
    )
    activation_dropout: float | None = model(
        "Inside feed-forward; null: as in the preset.",
        default=None,
        minimum=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(TrainingFields, _HeadFields, _TableFields):
    """Everything that defines a fine-tuning."""

    best_by: str = training(
        "Score of the validation that the best weights are chosen by; auto: "
        "accuracy, or the squared error of numbers.",
        default="auto",
        choices=("auto", *CLASS_SCORES, *NUMBER_SCORES),
    )

    def check_given(self) -> None:
        """Refuses to run without what no recipe can know.

        Raises:
            RecipeError: preset or train_data is null.
        """
        for name, example in (
            ("preset", "runs/mlm/preset"),
            ("train_data", "reviews.csv"),
        ):
            if getattr(self, name) is None:
                raise RecipeError(
                    f"{name}=null is not possible: give --{name}=PATH, such "
                    f"as --{name}={example}."
                )

    def __post_init__(self) -> None:
        if self.validation_data is None and not self.validation_fraction:
            raise RecipeError(
                "validation_fraction=0.0 with validation_data=null is not "
                "possible: one of the two is needed."
            )
        fitting: tuple[str, ...] = CLASS_SCORES
        if self.objective == "regression":
            fitting = NUMBER_SCORES
        if self.best_by not in ("auto", *fitting):
            raise RecipeError(
                f"best_by={self.best_by} is not possible with "
                f"objective={self.objective}: allowed are auto and "
                f"{', '.join(fitting)}."
            )
        check_schedule(self)


PROGRAM = flags.Program(
    name="luna-finetune",
    usage="""
luna-finetune teaches a pretrained encoder to classify texts or pairs of texts,
or to give them a number, from a table of labelled ones.

Usage: luna-finetune --preset=DIR --train_data=FILE [--FLAG=VALUE ...]

  luna-finetune --preset=runs/mlm/preset --train_data=reviews.csv
  luna-finetune --preset=luna_base --config=glue_sst2 \\
    --train_data=SST-2/train.tsv --validation_data=SST-2/dev.tsv
""",
    schema=FinetuneRecipe,
    folder=importlib.resources.files(__package__) / "recipes" / "finetune",
    model_dir="runs/finetune",
)
