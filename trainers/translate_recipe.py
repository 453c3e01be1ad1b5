"""The schema of a translation experiment."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources

from luna_tf.training.recipes import RecipeError, setting

from . import flags
from .recipe_checks import check_recipe
from .recipe_fields import BackboneFields, StepFields, changed, model, training

data = functools.partial(setting, group="Data")
decoding = functools.partial(setting, group="Decoding")

# Between two aligned files.
ALIGNED = "::"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PairFields:
    """Pairs of sentences, and their subwords."""

    train_data: str | None = data(
        "TSV files with a header (names, globs, .gz, gs://; commas between "
        "them), or SOURCE::TARGET, two aligned text files; null: the verses "
        "inside of the package.",
        default=None,
    )
    validation_data: str | None = data(
        "Pairs to choose the best weights by, like train_data; null: "
        "validation_groups of train_data, which it goes before.",
        default=None,
    )
    test_data: str | None = data(
        "Pairs to report on, like train_data; null: test_groups of train_data, "
        "which it goes before.",
        default=None,
    )
    source_column: str = data(
        "Column to translate from: a name in the header, or a number from 1 "
        "where there is no header.",
        default="en",
    )
    target_column: str = data("Column to translate into.", default="es")
    group_column: str | None = data(
        "Column of the group that a pair belongs to, such as its document; "
        "groups are held out as a whole.",
        default="book",
    )
    validation_groups: str | None = data(
        "Groups to choose the best weights by, commas between them.",
        default=None,
    )
    test_groups: str | None = data(
        "Groups to report on, commas between them.", default=None
    )
    max_train_pairs: int | None = data(
        "Train on the first so many pairs only.", default=None, minimum=1
    )
    skip_malformed: bool = data(
        "Leave out lines without a source or target, or with other columns "
        "than the first, instead of stopping.",
        default=False,
    )
    vocabulary_size: int = data(
        "Subwords, one vocabulary for both languages.", minimum=8
    )
    vocabulary_type: str = data(
        "How SentencePiece finds them.",
        default="unigram",
        choices=("unigram", "bpe"),
    )
    character_coverage: float = data(
        "Share of the characters that get ids of their own; the rest is spelt "
        "in bytes. 0.9995 for scripts with thousands of characters.",
        default=1.0,
        minimum=0.98,
        maximum=1.0,
    )
    max_length: int = data(
        "Longest sentence in subwords, its end included, a multiple of 8; "
        "longer ones are not trained on, and are cut when translated.",
        minimum=8,
    )
    num_buckets: int = data(
        "Lengths to which sentences are padded; each is compiled once.",
        default=4,
        minimum=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SequenceToSequenceFields(BackboneFields):
    hidden_dim: int = changed(
        BackboneFields, "hidden_dim", dataclasses.MISSING, minimum=4
    )
    position_embedding: str = changed(
        BackboneFields, "position_embedding", "sinusoidal"
    )
    normalize_embeddings: bool = changed(
        BackboneFields, "normalize_embeddings", False
    )
    num_decoder_layers: int | None = model(
        "Decoder blocks; null: as many.", default=None, minimum=1
    )
    share_embeddings: str = model(
        "Which tables are one: all, decoder (its input and output) or none.",
        default="all",
        choices=("all", "decoder", "none"),
    )
    initialization: str = model(
        "Initial weights: the habit of Keras or the official one.",
        default="keras",
        choices=("keras", "fairseq"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BatchFields:
    tokens_per_batch: int = training(
        "Source or target tokens per step, whichever are more, with padding, "
        "over all replicas.",
        minimum=8,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TeachingFields(StepFields, _BatchFields):
    label_smoothing: float = training(
        "Share of the target spread over all subwords.",
        default=0.1,
        minimum=0.0,
        below=1.0,
    )
    schedule: str = changed(
        StepFields,
        "schedule",
        "inverse_sqrt",
        choices=("polynomial", "inverse_sqrt", "milestone", "cosine"),
    )
    milestones: str | None = training(
        "Steps at which the rate is multiplied, commas between them; "
        "milestone only.",
        default=None,
    )
    decay_factor: float = training(
        "What it is multiplied by; milestone only.",
        default=0.1,
        above=0.0,
        below=1.0,
    )
    weight_decay: float = changed(StepFields, "weight_decay", 0.0)
    decay_norms_and_biases: bool = changed(
        StepFields, "decay_norms_and_biases", True
    )
    epsilon: float = changed(StepFields, "epsilon", 1e-8)
    clip_norm: float = changed(StepFields, "clip_norm", 0.0)
    average_checkpoints: int = training(
        "Take the mean of the weights at the last so many validations where "
        "it validates better than the best single ones; 0: off.",
        default=0,
        minimum=0,
    )
    validation_bleu_pairs: int = training(
        "Pairs of the validation set that are also translated greedily at "
        "every validation; 0: none.",
        default=0,
        minimum=0,
    )
    steps_per_loop: int = training(
        "Steps between readings of the loss, all of one length.",
        default=10,
        minimum=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _DecodingFields:
    beam_size: int = decoding(
        "Candidates of the beam search; 1: greedy.", default=4, minimum=1
    )
    length_penalty: float = decoding(
        "Hypotheses are ranked by log probability over length to this power.",
        default=1.0,
        minimum=0.0,
    )
    max_length_ratio: float = decoding(
        "A translation has at most this many times the subwords of its "
        "source, and ten more.",
        default=1.5,
        above=0.0,
    )
    num_shown: int = decoding(
        "Test sentences that are printed with their hypotheses.",
        default=3,
        minimum=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateRecipe(
    _DecodingFields, _TeachingFields, _SequenceToSequenceFields, _PairFields
):
    """Everything that defines a translation experiment."""

    def __post_init__(self) -> None:
        check_recipe(self)
        if self.eval_every % self.steps_per_loop:
            raise RecipeError(
                f"eval_every={self.eval_every} is not possible: allowed is a "
                f"multiple of steps_per_loop={self.steps_per_loop}."
            )
        if self.max_length % 8:
            raise RecipeError(
                f"max_length={self.max_length} is not possible: allowed is a "
                "multiple of 8."
            )
        if self.max_length > self.tokens_per_batch:
            raise RecipeError(
                f"max_length={self.max_length} is not possible: allowed is at "
                f"most tokens_per_batch={self.tokens_per_batch}."
            )
        self._check_data()
        self.milestone_steps()

    def num_positions(self) -> int:
        """Positions that the model must have, for every search too."""
        from luna_tf.interop.translation import longest_translation

        longest = longest_translation(self.max_length, self.max_length_ratio)
        return max(2 * self.max_length, longest)

    def _check_data(self) -> None:
        for kind in ("validation", "test"):
            name, groups = f"{kind}_groups", getattr(self, f"{kind}_groups")
            if getattr(self, f"{kind}_data") is not None:
                continue
            if groups is None:
                raise RecipeError(
                    f"{kind}_data=null with {name}=null is not possible: one "
                    "of the two is needed."
                )
            if self.group_column is None:
                raise RecipeError(
                    f"{name}={groups} is not possible without group_column."
                )
            if self.train_data is not None and ALIGNED in self.train_data:
                raise RecipeError(
                    f"{name}={groups} is not possible with "
                    f"train_data={self.train_data}, as aligned files have no "
                    f"groups: give {kind}_data."
                )

    def milestone_steps(self) -> list[int]:
        """The numbers of `milestones`."""
        if self.schedule != "milestone":
            return []
        words = (self.milestones or "").split(",")
        if not all(word.strip().isdecimal() for word in words):
            raise RecipeError(
                f"milestones={self.milestones!r} is not possible with "
                "schedule=milestone: allowed are steps with commas between "
                "them, such as 300000,450000."
            )
        steps = [int(word) for word in words]
        if steps != sorted(set(steps)):
            raise RecipeError(
                f"milestones={self.milestones!r} is not possible: allowed are "
                "rising steps."
            )
        first = max(self.warmup_steps, 1)
        if steps[0] < first:
            raise RecipeError(
                f"milestones={self.milestones!r} is not possible with "
                f"warmup_steps={self.warmup_steps}: allowed are steps from "
                f"{first} on."
            )
        return steps


PROGRAM = flags.Program(
    name="luna-translate",
    usage="""
luna-translate learns to translate from pairs of sentences, reports BLEU and
chrF on held-out ones and exports a SavedModel from text to text. Without flags
it learns English to Spanish from a few books of verses inside the package, on a
CPU, within 15 minutes.

Usage: luna-translate [--config=NAME] [--FLAG=VALUE ...]

  luna-translate
  luna-translate --train_data='pairs-*.tsv.gz' --source_column=en \\
    --target_column=de --validation_data=dev.tsv --test_data=test.tsv
  luna-translate --config=wmt14 --train_data=train.en::train.de \\
    --validation_data=dev.en::dev.de --test_data=test.en::test.de
""",
    schema=TranslateRecipe,
    folder=importlib.resources.files(__package__) / "recipes" / "translate",
    model_dir="runs/translate",
)
