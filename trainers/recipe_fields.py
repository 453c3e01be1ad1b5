"""Fields that several recipes share: encoders, and how they are trained."""

from __future__ import annotations

import dataclasses
import functools

from luna_tf.training.recipes import setting

encoder = functools.partial(setting, group="Model")
training = functools.partial(setting, group="Training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderFields:
    """What makes a `LunaBackbone`, by the names of its arguments."""

    attention: str = encoder(
        "What mixes tokens; softmax is the baseline.",
        default="luna",
        choices=("luna", "softmax"),
    )
    packed_length: int = encoder(
        "Slots of the packed sequence; softmax has none.", minimum=1
    )
    num_layers: int = encoder("Blocks.", minimum=1)
    hidden_dim: int = encoder("Width.", minimum=1)
    intermediate_dim: int = encoder("Width inside feed-forward.", minimum=1)
    num_heads: int = encoder("Heads that unpack.", minimum=1)
    num_pack_heads: int | None = encoder(
        "Heads that pack; null: as many as unpack.", default=None, minimum=1
    )
    tie_key_value: bool = encoder(
        "One projection for keys and values.", default=True
    )
    dropout: float = encoder("Dropout; 0: off.", minimum=0.0, below=1.0)
    attention_dropout: float = encoder(
        "Of attention weights; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    activation_dropout: float = encoder(
        "Inside feed-forward; 0: off.", default=0.0, minimum=0.0, below=1.0
    )
    position_embedding: str = encoder(
        "Position embedding.",
        default="learned",
        choices=("learned", "sinusoidal"),
    )
    normalize_first: bool = encoder("Pre-norm blocks.", default=False)
    normalize_embeddings: bool = encoder(
        "Layer norm on the embeddings.", default=True
    )
    dynamic_packing: bool = encoder(
        "As many slots as tokens, if these are fewer.", default=True
    )
    contraction: str = encoder(
        "Order of the attention's products; same result.",
        default="auto",
        choices=("auto", "direct", "absorbed"),
    )
    remat: bool = encoder("Recompute blocks to save memory.", default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFields:
    """Batches, optimizer, learning rate and what is done how often."""

    batch_size: int = training("Rows per step, over all replicas.", minimum=1)
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
        "Start of the warm-up, inverse_sqrt only.", default=1e-7, minimum=0.0
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
        "Of weights, dropout, data order and masks.", default=0, minimum=0
    )
    eval_every: int = training("Steps between validations.", minimum=1)
    steps_per_loop: int = training(
        "Steps between readings of the loss.", default=25, minimum=1
    )
    jit_compile: bool = training(
        "Compile with XLA where one CPU or GPU trains; a TPU always does.",
        default=True,
    )
