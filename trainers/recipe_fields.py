"""Fields that recipes share: models, and how they are trained.

A recipe inherits them and sets the defaults that differ (`changed`).
Dataclasses take fields from the last base first, and a field that is changed
keeps its place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from luna_tf.training.recipes import setting

model = functools.partial(setting, group="Model")
training = functools.partial(setting, group="Training")


def changed(base: type, name: str, default: Any, **others: Any) -> Any:
    """Declares a field of a base class again, with another default.

    Args:
        base: recipe fields.
        name: field of `base`.
        default: its new default; `dataclasses.MISSING`: every recipe gives it.
        **others: arguments of `setting` that change too.

    Returns:
        A `dataclasses.field`.
    """
    fields = {field.name: field for field in dataclasses.fields(base)}
    return setting(default=default, **{**fields[name].metadata, **others})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFields:
    """Blocks of Luna attention."""

    attention: str = model(
        "What mixes tokens; softmax is the baseline.",
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
        "One projection for keys and values.", default=True
    )
    dropout: float = model("Dropout; 0: off.", minimum=0.0, below=1.0)
    activation_dropout: float = model(
        "Inside feed-forward; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    position_embedding: str = model(
        "Position embedding.",
        default="learned",
        choices=("learned", "sinusoidal"),
    )
    normalize_first: bool = model("Pre-norm blocks.", default=False)
    contraction: str = model(
        "Order of the attention's products; same result.",
        default="auto",
        choices=("auto", "direct", "absorbed"),
    )
    remat: bool = model("Recompute blocks to save memory.", default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneFields(ModelFields):
    """What makes a `LunaBackbone`, by the names of its arguments."""

    attention_dropout: float = model(
        "Of attention weights; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    normalize_embeddings: bool = model(
        "Layer norm on the embeddings.", default=True
    )
    dynamic_packing: bool = model(
        "As many slots as tokens, if these are fewer.", default=True
    )


def backbone_arguments(recipe: Any, names: Iterable[str]) -> dict[str, Any]:
    """The values of fields that are named as arguments of a backbone.

    Args:
        recipe: has `BackboneFields`.
        names: of the fields.

    Returns:
        Name to value; what softmax attention has no use for is left to the
        default of the model.
    """
    unused: tuple[str, ...] = ()
    if recipe.attention == "softmax":
        unused = (
            "num_pack_heads",
            "tie_key_value",
            "dynamic_packing",
            "contraction",
        )
    return {name: getattr(recipe, name) for name in names if name not in unused}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFields:
    """Optimizer, learning rate and what is done how often."""

    accumulation_steps: int = training(
        "Parts into which a replica divides its rows to save memory.",
        default=1,
        minimum=1,
    )
    train_steps: int = training("Steps in all.", minimum=1)
    train_minutes: float | None = training(
        "Stop after so many minutes of training steps (compiling, validation "
        "and restarts not counted); null: never.",
        default=None,
        above=0.0,
    )
    learning_rate: float = training("Peak learning rate.", above=0.0)
    schedule: str = training(
        "Course after the warm-up.",
        default="polynomial",
        choices=("polynomial", "inverse_sqrt", "cosine"),
    )
    warmup_steps: int = training("Steps of linear warm-up.", minimum=0)
    initial_learning_rate: float = training(
        "Start of the warm-up; cosine and polynomial start at 0.",
        default=1e-7,
        minimum=0.0,
    )
    weight_decay: float = training(
        "Decoupled, times the learning rate; 0: off.", minimum=0.0
    )
    decay_norms_and_biases: bool = training(
        "Let weight decay act on layer norms and biases too, as the official "
        "code does.",
        default=False,
    )
    beta_1: float = training(
        "Memory of AdamW's mean gradient.", default=0.9, minimum=0.0, below=1.0
    )
    beta_2: float = training(
        "Memory of its mean squared gradient.",
        default=0.98,
        minimum=0.0,
        below=1.0,
    )
    epsilon: float = training(
        "Smallest divisor of AdamW.", default=1e-6, above=0.0
    )
    clip_norm: float = training(
        "Largest norm of all gradients together; 0: off.",
        default=1.0,
        minimum=0.0,
    )
    precision: str = training(
        "Number format of the layers; auto: mixed_bfloat16 on a TPU.",
        default="auto",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    seed: int = training(
        "Of weights, data order and whatever else is drawn.",
        default=0,
        minimum=0,
    )
    eval_every: int = training("Steps between validations.", minimum=1)
    steps_per_loop: int = training(
        "Steps between readings of the loss.", default=25, minimum=1
    )
    jit_compile: bool = training(
        "Compile with XLA where one CPU or GPU trains; a TPU always does.",
        default=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BatchFields:
    batch_size: int = training("Rows per step, over all replicas.", minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFields(StepFields, _BatchFields):
    """Training on batches with the same number of rows each."""
