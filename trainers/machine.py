"""Flags that say where and how a run is made, but not what it computes."""

from __future__ import annotations

import dataclasses
import functools

from luna_tf.training.recipes import RecipeError, setting

machine = functools.partial(setting, group="Machine")

# As in luna_tf.training.strategy, which takes seconds to import.
STRATEGIES = (
    "auto",
    "tpu",
    "mirrored",
    "multi_worker_mirrored",
    "one_device",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices, checkpoints and profiling. A resumed run may change them."""

    distribution_strategy: str = machine(
        "Devices to use; auto picks and says why.",
        default="auto",
        choices=STRATEGIES,
    )
    tpu: str | None = machine(
        "local (TPU VM, Colab), the name of a TPU, or grpc://host:port.",
        default=None,
    )
    logical_cpus: int | None = machine(
        "Divide the CPU into so many devices, to try several replicas.",
        default=None,
        minimum=1,
    )
    checkpoint_every: int | None = machine(
        "Steps between checkpoints; null: one with every validation.",
        default=None,
        minimum=1,
    )
    keep_checkpoints: int = machine(
        "Newest checkpoints that are kept.", default=3, minimum=1
    )
    profile_steps: str | None = machine(
        "FIRST,LAST: profile from step FIRST to LAST for TensorBoard.",
        default=None,
    )
    data_service: str | None = machine(
        "Address of a tf.data service that makes training batches, "
        "grpc://host:port; its order is exact with one worker only.",
        default=None,
    )

    def __post_init__(self) -> None:
        self.profile_range()
        if self.data_service is not None and "://" not in self.data_service:
            raise RecipeError(
                f"data_service={self.data_service!r} is not possible: "
                "allowed is grpc://host:port."
            )

    def profile_range(self) -> tuple[int, int] | None:
        """The two numbers of `profile_steps`."""
        if self.profile_steps is None:
            return None
        words = self.profile_steps.split(",")
        if len(words) != 2 or not all(
            word.strip().isdecimal() for word in words
        ):
            raise RecipeError(
                f"profile_steps={self.profile_steps!r} is not possible: "
                "allowed is FIRST,LAST, such as 100,110."
            )
        return int(words[0]), int(words[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatingMachine(Machine):
    """Also what a trainer tests, and where it writes its answers."""

    weights: str = machine(
        "With --mode=evaluate: best, the step of a checkpoint, or the path of "
        "a weights file, a .keras file or a SavedModel.",
        default="best",
    )
    predictions: str | None = machine(
        "CSV file that receives the answers to the test examples; null: "
        "predictions.csv of a run that trains.",
        default=None,
    )
