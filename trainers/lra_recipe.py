"""The schema of an experiment on the Long Range Arena."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources

from luna_tf.training.recipes import setting

from . import flags, lra_tasks
from .machine import EvaluatingMachine
from .recipe_checks import check_recipe
from .recipe_fields import ModelFields, TrainingFields, changed, model

data = functools.partial(setting, group="Data")
generator = functools.partial(setting, group="Generated data")
text = functools.partial(setting, group="Tables")
picture = functools.partial(setting, group="Pictures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TaskFields:
    """Data: released or generated, texts or pictures."""

    task: str = data(
        "Task of the Long Range Arena.",
        default="listops",
        choices=lra_tasks.TASKS,
    )
    data_dir: str | None = data(
        "The data as released: a folder, for text also a CSV or TSV file, for "
        "image an .npz file. null: generated (listops, pathfinder, pathx) or "
        "downloaded (image).",
        default=None,
    )
    skip_malformed: bool = data(
        "Leave out malformed lines and pictures instead of stopping.",
        default=False,
    )
    cache_dir: str | None = data(
        "Folder that keeps generated and parsed data; null: data in "
        "--model_dir.",
        default=None,
    )
    num_classes: int | None = data(
        "Classes; null: as many as the task has.", default=None, minimum=2
    )
    sequence_length: int | None = data(
        "Tokens of a row, marks included; longer examples are cut. null: the "
        "longest of the task; text and retrieval need it.",
        default=None,
        minimum=1,
    )
    add_cls: bool = data("Start rows with a mark.", default=True)
    add_eos: bool = data("Put a mark behind the last token.", default=True)
    validation: str = data(
        "Where to choose the best weights: on a part held out of the training "
        "examples or, as was published for text, on the test set.",
        default="held_out",
        choices=("held_out", "test"),
    )
    validation_fraction: float = data(
        "Of the training examples, where the data have no validation set.",
        default=0.1,
        above=0.0,
        below=1.0,
    )
    test_fraction: float = data(
        "Of all examples, where the data have no test set.",
        default=0.2,
        above=0.0,
        below=1.0,
    )

    train_examples: int | None = generator(
        "Expressions to train on.",
        default=None,
        minimum=1,
    )
    validation_examples: int | None = generator(
        "Expressions to choose the best weights by.", default=None, minimum=1
    )
    test_examples: int | None = generator(
        "Expressions to report on.", default=None, minimum=1
    )
    pictures: int = generator(
        "Of all splits together; 80, 10 and 10 % are for training, validation "
        "and test, as in the release.",
        default=200_000,
        minimum=10,
    )
    contour_length: int | None = generator(
        "Paddles of a contour of Pathfinder; null: as the difficulty has it.",
        default=None,
        minimum=2,
        maximum=14,
    )
    distractors: bool = generator(
        "Other contours in the pictures of Pathfinder; without them it is "
        "easier.",
        default=True,
    )
    data_seed: int = generator("Seed of the generator.", default=0, minimum=0)
    min_length: int | None = generator(
        "Expressions are longer than this, in tokens.", default=None, minimum=0
    )
    max_length: int | None = generator(
        "Expressions are shorter than this, in tokens; released ones are cut.",
        default=None,
        minimum=3,
    )
    max_depth: int = generator("Deepest nesting.", default=10, minimum=1)
    max_args: int = generator(
        "Most arguments of an operator.", default=10, minimum=2
    )

    text_column: str = text("Column of a table with the text.", default="text")
    label_column: str = text(
        "Column of a table with the label.", default="label"
    )
    rows: str | None = text(
        "COLUMN=VALUE: only such rows of a table.", default=None
    )

    image_size: int | None = picture(
        "Pixels along a side; null: 32, for pathx 128.", default=None, minimum=8
    )
    difficulty: str = picture(
        "Length of Pathfinder's contours.",
        default="hard",
        choices=("easy", "intermediate", "hard"),
    )
    pixels: str = picture(
        "What a pixel is to the model: a token or a real number.",
        default="tokens",
        choices=("tokens", "values"),
    )
    pixel_mean: float = picture(
        "Grey level, 0 to 1, that becomes 0 as a value.", default=0.5
    )
    pixel_std: float = picture(
        "Distance of grey levels that becomes 1.", default=0.5, above=0.0
    )
    black_is_padding: bool = picture(
        "Mask black pixels, as the JAX code does.", default=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ClassifierFields(ModelFields):
    attention: str = model(
        "What mixes tokens: luna, softmax (the baseline) or another name of "
        "luna_tf.models.lra_mixers.",
        default="luna",
    )
    tie_key_value: bool = changed(ModelFields, "tie_key_value", False)
    attention_dropout: float | None = model(
        "Of attention weights; null: as dropout.",
        default=None,
        minimum=0.0,
        below=1.0,
    )
    share_layers: bool = model("The same weights in all blocks.", default=False)
    max_real_tokens: int | None = model(
        "Most tokens of a row without its padding, such as black pixels; that "
        "is then left out of computing, with the same result. null: it is "
        "computed too.",
        default=None,
        minimum=1,
    )
    pooling: str = model(
        "Vector that is classified.",
        default="cls",
        choices=("cls", "mean", "packed"),
    )
    head_hidden_dim: int | None = model(
        "Width of a hidden layer before the classes; null: none.",
        default=None,
        minimum=1,
    )
    head_dropout: float = model(
        "Before the classes; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    pair_features: str = model(
        "What the head sees of two documents: both vectors, or also their "
        "product and difference.",
        default="concatenation",
        choices=("concatenation", "interaction"),
    )
    initialization: str = model(
        "Initial weights: the habit of Keras or of an official recipe.",
        default="keras",
        choices=("keras", "bert", "fairseq"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRARecipe(TrainingFields, _ClassifierFields, _TaskFields):
    """Everything that defines an experiment on the Long Range Arena."""

    schedule: str = changed(TrainingFields, "schedule", dataclasses.MISSING)
    decay_norms_and_biases: bool = changed(
        TrainingFields, "decay_norms_and_biases", True
    )
    beta_2: float = changed(TrainingFields, "beta_2", 0.999)
    epsilon: float = changed(TrainingFields, "epsilon", 1e-7)
    clip_norm: float = changed(TrainingFields, "clip_norm", 0.0)

    def __post_init__(self) -> None:
        check_recipe(self)
        lra_tasks.check(self)

    @property
    def row_length(self) -> int:
        """Tokens or pixel values that the model sees of an example."""
        return lra_tasks.row_length(self)


PROGRAM = flags.Program(
    name="luna-lra",
    usage="""
luna-lra trains Luna on a task of the Long Range Arena, tests it and exports
it. Without flags it generates ListOps, trains a small model on a CPU and
prints a table of results within 15 minutes.

Usage: luna-lra [--task=TASK] [--config=NAME] [--FLAG=VALUE ...]
       luna-lra report RUN [RUN ...] [--output_dir=DIR]
       luna-lra generate --output_dir=DIR [--FLAG=VALUE ...]

  luna-lra
  luna-lra --config=quick --model_dir=/tmp/quick
  luna-lra --task=text --data_dir=aclImdb
  luna-lra --config=paper --data_dir=listops-1000 --packed_length=256
  luna-lra --task=pathfinder --config=paper
  luna-lra report runs/*
  luna-lra generate --output_dir=lra --image_size=128
""",
    schema=LRARecipe,
    folder=importlib.resources.files(__package__) / "recipes" / "lra",
    model_dir="runs/{}",
    machine=EvaluatingMachine,
    variant="task",
)
