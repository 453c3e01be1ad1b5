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
USAGE = """
luna-benchmark attention times one attention layer, forward and backward: Luna
in both orders and as a textbook has it, against softmax attention. It measures
memory too, each case in a process of its own, and leaves CSV, Markdown and a
figure. Let nothing else run on the machine meanwhile.

luna-benchmark causal does so for causal attention: Luna in chunks, the official
formula (from a checkout only) and softmax attention. It times generated tokens
too, after short and long sequences.

Usage: luna-benchmark COMMAND [--FLAG=VALUE ...]

  luna-benchmark attention
  luna-benchmark attention --quick
  luna-benchmark attention --lengths=1024,4096 --packed_lengths=16 --nomemory
  luna-benchmark causal
"""

sizes = functools.partial(setting, group="Sizes")
what = functools.partial(setting, group="What is measured")
effort = functools.partial(setting, group="Effort and limits")


@dataclasses.dataclass(frozen=True)
class CommonFlags:
    """Flags of all commands; the help describes them."""

    lengths: str = sizes(
        "Values of n, tokens per sequence.",
        default="512,1024,2048,4096,8192,16384",
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
    dropout: float = sizes(
        "Rate on attention weights.", default=0.0, minimum=0.0, below=1.0
    )
    precision: str = sizes(
        "Number format of the layers.",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )

    modes: str = what(
        "Any of eager, graph (tf.function without XLA), xla.",
        default="eager,xla",
    )
    memory: bool = what("Measure memory too.", default=True)

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
        from luna_tf.benchmark import cases

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
        values = {n: getattr(self, n) for n in names if hasattr(self, n)}
        if self.quick:
            values.update(width=32, heads=4)
        return Settings(**values)

    def _plan(
        self, contenders: tuple[str, ...], **others: Any
    ) -> dict[str, Any]:
        """Arguments of a plan that the commands have in common."""
        from luna_tf.benchmark import cases

        common: dict[str, Any] = {
            "contenders": contenders,
            "modes": self._words("modes", tuple(cases.MODES)),
            "memory": self.memory,
            "growth_lengths": (),
            "rule_length": 64,
            "rule_packed_lengths": (),
        }
        if self.quick:
            common.update(
                lengths=(64, 256),
                packed_lengths=(4,),
                repeats=min(self.repeats, 3),
                seconds=5.0,
                isolate=False,
            )
        else:
            common.update(
                lengths=self._numbers("lengths"),
                packed_lengths=self._numbers("packed_lengths"),
                repeats=self.repeats,
                seconds=self.seconds_per_case,
            )
        return {**common, **others}

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


@dataclasses.dataclass(frozen=True)
class AttentionFlags(CommonFlags):
    """Flags of `luna-benchmark attention`; the help describes them."""

    growth_to: int = sizes(
        "Double n up to here for Luna (auto) alone; 0: off.",
        default=65536,
        minimum=0,
    )
    masked: bool = sizes("Pad to random lengths.", default=False)
    contenders: str = what(
        "Any of absorbed, direct, auto, textbook, softmax.",
        default="absorbed,direct,auto,textbook,softmax",
    )
    rule_packed_lengths: str = what(
        "Values of l for the check of the cost rule of contraction='auto'; "
        "empty: off.",
        default="16,32,48,64,96,128,256",
    )
    rule_length: int = what("Its n.", default=2048, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("rule_packed_lengths", may_be_empty=True)
        from luna_tf.benchmark import cases

        self._words("contenders", tuple(cases.CONTENDERS))

    def plan(self) -> Plan:
        """What to measure, in which order."""
        from luna_tf.benchmark import cases
        from luna_tf.benchmark.program import Plan

        contenders = self._words("contenders", tuple(cases.CONTENDERS))
        if self.quick:
            wanted = {"direct", "auto", "softmax"}
            few = [name for name in contenders if name in wanted]
            few = few or list(contenders)
            return Plan(**self._plan(tuple(few), rule_packed_lengths=(4,)))
        lengths = self._numbers("lengths")
        growth: list[int] = []
        while 2 * max(*lengths, *growth, 0) <= self.growth_to:
            growth.append(2 * max(*lengths, *growth, 0))
        return Plan(
            **self._plan(
                contenders,
                growth_lengths=tuple(growth),
                rule_length=self.rule_length,
                rule_packed_lengths=self._numbers(
                    "rule_packed_lengths", may_be_empty=True
                ),
            )
        )


@dataclasses.dataclass(frozen=True)
class CausalFlags(CommonFlags):
    """Flags of `luna-benchmark causal`; the help describes them."""

    packed_lengths: str = sizes("Values of l, packed slots.", default="16")
    contenders: str = what(
        "Any of chunked, official, causal_softmax.",
        default="chunked,official,causal_softmax",
    )
    token_lengths: str = what(
        "Values of n after which one token is timed, at the smallest l; "
        "empty: off.",
        default="128,512,2048,8192",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("token_lengths", may_be_empty=True)
        from luna_tf.benchmark import cases

        self._words("contenders", tuple(cases.CAUSAL))

    def plan(self) -> Plan:
        """What to measure, in which order."""
        from luna_tf.benchmark import cases
        from luna_tf.benchmark.program import Plan

        tokens = self._numbers("token_lengths", may_be_empty=True)
        if self.quick:
            tokens = (16, 64)
        contenders = self._words("contenders", tuple(cases.CAUSAL))
        return Plan(**self._plan(contenders, token_lengths=tokens))


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of `luna-benchmark`.

    Args:
        summary: what it measures.
        flags: class of its flags.
    """

    summary: str
    flags: type[AttentionFlags] | type[CausalFlags]


COMMANDS = {
    "attention": Command(
        "one attention layer, forward and backward", AttentionFlags
    ),
    "causal": Command(
        "one causal layer, forward and backward, and its tokens", CausalFlags
    ),
}


def help_text() -> str:
    """The whole help: usage, commands, flags by group."""
    lines = [USAGE.strip(), "", "Commands"]
    for name, command in COMMANDS.items():
        lines += flags.entry(name, command.summary)
    for name, command in COMMANDS.items():
        lines += ["", f"Flags of {name}"]
        default = command.flags()
        lines += flags.field_help(command.flags, default, "the default")
    return "\n".join(lines)
