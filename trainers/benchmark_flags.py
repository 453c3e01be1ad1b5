"""The flags of `luna-benchmark`, and its help."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from luna_tf.training.recipes import RecipeError, setting

from . import flags

if TYPE_CHECKING:
    from luna_tf.benchmark.cases import Settings
    from luna_tf.benchmark.program import Plan

NAME = "luna-benchmark"
COMMANDS = {"attention": "one attention layer, forward and backward"}
USAGE = """
luna-benchmark attention times one attention layer, forward and backward: Luna
in both orders and as a textbook has it, against softmax attention. It measures
memory too, each case in a process of its own, and leaves CSV, Markdown and a
figure. Let nothing else run on the machine meanwhile.

Usage: luna-benchmark attention [--FLAG=VALUE ...]

  luna-benchmark attention
  luna-benchmark attention --quick
  luna-benchmark attention --lengths=1024,4096 --packed_lengths=16 --nomemory
"""

sizes = functools.partial(setting, group="Sizes")
what = functools.partial(setting, group="What is measured")
effort = functools.partial(setting, group="Effort and limits")


@dataclasses.dataclass(frozen=True)
class AttentionFlags:
    """Flags of `luna-benchmark attention`; the help describes them."""

    lengths: str = sizes(
        "Values of n, tokens per sequence.",
        default="512,1024,2048,4096,8192,16384",
    )
    growth_to: int = sizes(
        "Double n up to here for Luna (auto) alone; 0: off.",
        default=65536,
        minimum=0,
    )
    packed_lengths: str = sizes(
        "Values of l, packed slots.", default="16,64,256"
    )
    width: int = sizes("d, width of a token.", default=512, minimum=1)
    heads: int = sizes("H, attention heads.", default=8, minimum=1)
    batch: int = sizes("Sequences per step.", default=2, minimum=1)
    tie_key_value: bool = sizes(
        "One projection for Luna's key and value.", default=True
    )
    masked: bool = sizes("Pad to random lengths.", default=False)
    dropout: float = sizes(
        "Rate on attention weights.", default=0.0, minimum=0.0, below=1.0
    )
    precision: str = sizes(
        "Number format of the layers.",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )

    contenders: str = what(
        "Any of absorbed, direct, auto, textbook, softmax.",
        default="absorbed,direct,auto,textbook,softmax",
    )
    modes: str = what(
        "Any of eager, graph (tf.function without XLA), xla.",
        default="eager,xla",
    )
    memory: bool = what("Measure memory too.", default=True)
    rule_packed_lengths: str = what(
        "Values of l for the check of the cost rule of contraction='auto'; "
        "empty: off.",
        default="16,32,48,64,96,128,256",
    )
    rule_length: int = what("Its n.", default=2048, minimum=1)

    repeats: int = effort(
        "Rounds per length; every round times all cases once.",
        default=7,
        minimum=1,
    )
    seconds_per_case: float = effort(
        "Time for the rounds of one length; at least three are made.",
        default=120.0,
        above=0.0,
    )
    memory_limit_gib: float | None = effort(
        "Resident memory above which a case does not fit; null: 75 % of the "
        "machine's.",
        default=None,
        above=0.0,
    )
    output_dir: str = effort(
        "Folder that receives everything.", default="runs/benchmark"
    )
    quick: bool = effort(
        "A trial of a minute at most: tiny sizes, few contenders.",
        default=False,
    )

    def __post_init__(self) -> None:
        for name in ("lengths", "packed_lengths"):
            self._numbers(name)
        self._numbers("rule_packed_lengths", may_be_empty=True)
        from luna_tf.benchmark import cases

        self._words("contenders", tuple(cases.CONTENDERS))
        self._words("modes", tuple(cases.MODES))
        if self.width % self.heads:
            raise RecipeError(
                f"--heads={self.heads} is not possible: allowed is a divisor "
                f"of --width={self.width}."
            )

    def settings(self) -> Settings:
        """What all cases have in common."""
        from luna_tf.benchmark.cases import Settings

        names = [field.name for field in dataclasses.fields(Settings)]
        values = {name: getattr(self, name) for name in names}
        if self.quick:
            values.update(width=32, heads=4)
        return Settings(**values)

    def plan(self) -> Plan:
        """What to measure, in which order."""
        from luna_tf.benchmark import cases
        from luna_tf.benchmark.program import Plan

        contenders = self._words("contenders", tuple(cases.CONTENDERS))
        modes = self._words("modes", tuple(cases.MODES))
        common: dict[str, Any] = {
            "contenders": contenders,
            "modes": modes,
            "memory": self.memory,
        }
        if self.quick:
            few = [n for n in ("direct", "auto", "softmax") if n in contenders]
            common["contenders"] = tuple(few) or contenders
            return Plan(
                lengths=(64, 256),
                growth_lengths=(),
                packed_lengths=(4,),
                repeats=min(self.repeats, 3),
                seconds=5.0,
                rule_length=64,
                rule_packed_lengths=(4,),
                isolate=False,
                **common,
            )
        lengths = self._numbers("lengths")
        growth: list[int] = []
        while 2 * max(*lengths, *growth, 0) <= self.growth_to:
            growth.append(2 * max(*lengths, *growth, 0))
        return Plan(
            lengths=lengths,
            growth_lengths=tuple(growth),
            packed_lengths=self._numbers("packed_lengths"),
            repeats=self.repeats,
            seconds=self.seconds_per_case,
            rule_length=self.rule_length,
            rule_packed_lengths=self._numbers(
                "rule_packed_lengths", may_be_empty=True
            ),
            **common,
        )

    def _numbers(
        self, name: str, may_be_empty: bool = False
    ) -> tuple[int, ...]:
        given = getattr(self, name)
        if not given and may_be_empty:
            return ()
        words = given.split(",")
        if not all(w.strip().isdecimal() and int(w) for w in words):
            raise RecipeError(
                f"--{name}={given} is not possible: allowed are integers "
                "above 0 with commas between them."
            )
        return tuple(sorted({int(word) for word in words}))

    def _words(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        given = getattr(self, name)
        words = tuple(dict.fromkeys(w.strip() for w in given.split(",")))
        if not set(words) <= set(allowed):
            raise RecipeError(
                f"--{name}={given} is not possible: allowed are "
                f"{', '.join(allowed)} with commas between them."
            )
        return words


def help_text() -> str:
    """The whole help: usage, commands, flags by group."""
    lines = [USAGE.strip(), "", "Commands"]
    for name, does in COMMANDS.items():
        lines += flags.entry(name, does)
    lines += flags.field_help(AttentionFlags, AttentionFlags(), "the default")
    return "\n".join(lines)
