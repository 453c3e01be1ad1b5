"""The schema of an experiment on the Long Range Arena."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources

from luna_tf.training.recipes import RecipeError, setting

from . import flags
from .recipe_checks import check_recipe

data = functools.partial(setting, group="Data")
model = functools.partial(setting, group="Model")
training = functools.partial(setting, group="Training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRARecipe:
    """Everything that defines an experiment on the Long Range Arena."""

    task: str = data(
        "Task of the Long Range Arena.", default="listops", choices=("listops",)
    )
    train_examples: int = data("Expressions to train on.", minimum=1)
    validation_examples: int = data(
        "Expressions to choose the best weights by.", minimum=1
    )
    test_examples: int = data("Expressions to report on.", minimum=1)
    min_length: int = data(
        "Expressions are longer than this, in tokens.", minimum=0
    )
    max_length: int = data(
        "Expressions are shorter than this, in tokens; released ones are cut.",
        minimum=3,
    )
    max_depth: int = data("Deepest nesting.", default=10, minimum=1)
    max_args: int = data(
        "Most arguments of an operator.", default=10, minimum=2
    )
    data_seed: int = data("Seed of the generator.", default=0, minimum=0)
    data_dir: str | None = data(
        "Folder with the released basic_train.tsv, basic_val.tsv and "
        "basic_test.tsv, to use them in place of generated expressions.",
        default=None,
    )
    skip_malformed: bool = data(
        "Leave out malformed lines of these files instead of stopping.",
        default=False,
    )
    cache_dir: str | None = data(
        "Folder that keeps generated data; null: data in --model_dir.",
        default=None,
    )

    attention: str = model(
        "Attention of the blocks; softmax is the baseline.",
        default="luna",
        choices=("luna", "softmax"),
    )
    packed_length: int = model(
        "Slots of the packed sequence; softmax has none.", minimum=1
    )
    num_layers: int = model("Encoder blocks.", minimum=1)
    hidden_dim: int = model("Width.", minimum=1)
    intermediate_dim: int = model("Width inside feed-forward.", minimum=1)
    num_heads: int = model("Heads that unpack.", minimum=1)
    num_pack_heads: int | None = model(
        "Heads that pack; null: as many as unpack.", default=None, minimum=1
    )
    tie_key_value: bool = model(
        "One projection for keys and values.", default=False
    )
    share_layers: bool = model("The same weights in all blocks.", default=False)
    dropout: float = model("Dropout; 0: off.", minimum=0.0, below=1.0)
    attention_dropout: float | None = model(
        "Of attention weights; null: as dropout.",
        default=None,
        minimum=0.0,
        below=1.0,
    )
    activation_dropout: float = model(
        "Inside feed-forward; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    position_embedding: str = model(
        "Position embedding.",
        default="learned",
        choices=("learned", "sinusoidal"),
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
    initialization: str = model(
        "Initial weights: the habit of Keras or of an official recipe.",
        default="keras",
        choices=("keras", "bert", "fairseq"),
    )
    contraction: str = model(
        "Order of the attention's products; same result.",
        default="auto",
        choices=("auto", "direct", "absorbed"),
    )
    normalize_first: bool = model("Pre-norm blocks.", default=False)
    remat: bool = model("Recompute blocks to save memory.", default=False)

    batch_size: int = training("Examples per step.", minimum=1)
    accumulation_steps: int = training(
        "Parts into which a replica divides its examples to save memory.",
        default=1,
        minimum=1,
    )
    train_steps: int = training("Steps in all.", minimum=1)
    learning_rate: float = training("Peak learning rate.", above=0.0)
    schedule: str = training(
        "Course after the warm-up.", choices=("cosine", "inverse_sqrt")
    )
    warmup_steps: int = training("Steps of linear warm-up.", minimum=0)
    initial_learning_rate: float = training(
        "Start of the warm-up, inverse_sqrt only.", default=1e-7, minimum=0.0
    )
    weight_decay: float = training(
        "Decoupled, times the learning rate; 0: off.", minimum=0.0
    )
    beta_1: float = training(
        "Memory of AdamW's mean gradient.", default=0.9, minimum=0.0, below=1.0
    )
    beta_2: float = training(
        "Memory of its mean squared gradient.",
        default=0.999,
        minimum=0.0,
        below=1.0,
    )
    epsilon: float = training(
        "Smallest divisor of AdamW.", default=1e-7, above=0.0
    )
    clip_norm: float = training(
        "Largest norm of all gradients together; 0: off.",
        default=0.0,
        minimum=0.0,
    )
    precision: str = training(
        "Number format of the layers; auto: mixed_bfloat16 on a TPU.",
        default="auto",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    seed: int = training(
        "Of weights, dropout and data order.", default=0, minimum=0
    )
    eval_every: int = training("Steps between validations.", minimum=1)
    steps_per_loop: int = training(
        "Steps between readings of the loss.", default=25, minimum=1
    )
    jit_compile: bool = training(
        "Compile with XLA where one CPU or GPU trains; a TPU always does.",
        default=True,
    )

    def __post_init__(self) -> None:
        check_recipe(self)
        if self.max_length - self.min_length < 2:
            raise RecipeError(
                f"max_length={self.max_length} is not possible: allowed is "
                f"at least min_length + 2 = {self.min_length + 2}, as both "
                "bounds are excluded."
            )

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest expression with its first and last mark."""
        return self.max_length + 1


# What the generator is told; files of the release are as they are.
GENERATOR_FIELDS = (
    "train_examples",
    "validation_examples",
    "test_examples",
    "min_length",
    "max_depth",
    "max_args",
    "data_seed",
)

PROGRAM = flags.Program(
    name="luna-lra",
    usage="""
luna-lra trains Luna on ListOps of the Long Range Arena, tests it and exports
it. Without flags it generates the data, trains a small model on a CPU and
prints a table of results within 15 minutes.

Usage: luna-lra [--config=NAME] [--FLAG=VALUE ...]

  luna-lra
  luna-lra --config=quick --model_dir=/tmp/quick
  luna-lra --config=paper --data_dir=listops-1000 --packed_length=256
""",
    schema=LRARecipe,
    folder=importlib.resources.files(__package__) / "recipes" / "lra",
    model_dir="runs/listops",
)
