"""The order of the work: memory first, then time of what fits, size by size."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from luna_tf.benchmark import cases
from luna_tf.benchmark.cases import OK, Case, Row
from luna_tf.benchmark.parent import Runner

RULE_CONTENDERS = ("absorbed", "direct", *cases.MIXED)
# Longer sequences than the others get: this one is meant to grow.
GROWTH_CONTENDER = "auto"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run measures.

    Args:
        lengths: values of n for all contenders, ascending.
        growth_lengths: further, larger values of n for `GROWTH_CONTENDER`.
        packed_lengths: values of l.
        contenders: keys of `cases.CONTENDERS` or `cases.CAUSAL`.
        modes: keys of `cases.MODES`.
        repeats: rounds per length.
        seconds: time for the rounds of one length.
        memory: whether to measure memory.
        rule_length: n of the check of the cost rule.
        rule_packed_lengths: values of l of that check; empty: no check.
        isolate: whether every contender gets a process of its own to measure
            its memory, or all of one length share one.
        token_lengths: values of n at which one token is timed; empty: none.
    """

    lengths: tuple[int, ...]
    growth_lengths: tuple[int, ...]
    packed_lengths: tuple[int, ...]
    contenders: tuple[str, ...]
    modes: tuple[str, ...]
    repeats: int
    seconds: float
    memory: bool
    rule_length: int
    rule_packed_lengths: tuple[int, ...]
    isolate: bool = True
    token_lengths: tuple[int, ...] = ()

    def rows(self) -> dict[int, list[Row]]:
        """Empty rows of the comparison by length."""
        table = {n: self._rows(n, self.contenders) for n in self.lengths}
        if GROWTH_CONTENDER in self.contenders:
            for n in self.growth_lengths:
                table[n] = self._rows(n, (GROWTH_CONTENDER,))
        return table

    def _rows(self, length: int, contenders: Sequence[str]) -> list[Row]:
        return [
            Row(Case(contender, mode, length, slots))
            for contender in contenders
            for slots in (
                (0,) if contender in cases.SOFTMAX else self.packed_lengths
            )
            for mode in self.modes
        ]

    def rule_rows(self) -> list[Row]:
        """Empty rows of the check of the cost rule, in the best mode."""
        return [
            Row(Case(contender, self._best_mode, self.rule_length, slots))
            for slots in self.rule_packed_lengths
            for contender in RULE_CONTENDERS
        ]

    def token_rows(self) -> list[Row]:
        """Empty rows of one token at a position, in the best mode."""
        return [
            Row(Case(contender, self._best_mode, length, slots))
            for length in self.token_lengths
            for contender in cases.TOKEN
            for slots in (
                (0,) if contender in cases.SOFTMAX else self.packed_lengths[:1]
            )
        ]

    @property
    def _best_mode(self) -> str:
        return "xla" if "xla" in self.modes else self.modes[0]


class Program:
    """Runs a plan and keeps what it finds as it goes.

    Args:
        plan: what to measure.
        runner: measures it.
        csv: file that gets the rows of a length as soon as it is done.
        aside_csv: the same for the check of the cost rule, or for the tokens.
        say: gets one line per piece of work.
    """

    def __init__(
        self,
        plan: Plan,
        runner: Runner,
        csv: Path,
        aside_csv: Path,
        say: Callable[[str], None],
    ) -> None:
        self.rows: list[Row] = []
        self.rule_rows: list[Row] = []
        self.token_rows: list[Row] = []
        self._plan = plan
        self._runner = runner
        self._csv = csv
        self._aside_csv = aside_csv
        self._say = say
        self._gone: dict[tuple[str, str, int], int] = {}

    def run(self) -> None:
        """Measures everything. What an interrupt leaves is written too."""
        pieces: list[tuple[float, str, Callable[[], None]]] = []
        for length, rows in self._plan.rows().items():
            pieces += self._pieces_of_length(length, rows)
        for text, rows, found in (
            (
                f"n={self._plan.rule_length}  time  cost rule",
                self._plan.rule_rows(),
                self.rule_rows,
            ),
            ("time per token", self._plan.token_rows(), self.token_rows),
        ):
            if rows:
                pieces.append(
                    (
                        self._time_weight(rows),
                        f"{text}, {len(rows)} cases",
                        functools.partial(self._time_aside, rows, found),
                    )
                )
        started, done = time.monotonic(), 0.0
        total = sum(weight for weight, _, _ in pieces)
        for number, (weight, text, work) in enumerate(pieces, 1):
            elapsed = time.monotonic() - started
            left = "--"
            if done:
                left = f"{elapsed / done * (total - done) / 60:.0f} min"
            self._say(f"[{number}/{len(pieces)}] {text}  ETA {left}")
            work()
            done += weight

    def _pieces_of_length(
        self, length: int, rows: list[Row]
    ) -> list[tuple[float, str, Callable[[], None]]]:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            case = row.case
            label = case.contender
            if case.packed_length:
                label += f" l={case.packed_length}"
            if not self._plan.isolate:
                label = "all"
            groups.setdefault(label, []).append(row)
        pieces: list[tuple[float, str, Callable[[], None]]] = []
        if self._plan.memory:
            for label, group in groups.items():
                pieces.append(
                    (
                        12 + length / 2000,
                        f"n={length}  memory  {label}",
                        functools.partial(self._measure_memory, group),
                    )
                )
        pieces.append(
            (
                self._time_weight(rows),
                f"n={length}  time  {len(rows)} cases in turn",
                lambda: self._measure_time(rows),
            )
        )
        return pieces

    def _time_weight(self, rows: Sequence[Row]) -> float:
        """Rough seconds, for the estimate of the time left alone."""
        a_round = 0.0
        for row in rows:
            if row.case.contender in cases.TOKEN:
                a_round += 0.1
                continue
            scale = row.case.length / 4096
            is_softmax = "softmax" in row.case.contender
            a_round += 1.8 * scale**2 if is_softmax else 0.2 * scale
        timed = min(self._plan.seconds, a_round * self._plan.repeats)
        return 5 + 3 * len(rows) + 2 * a_round + timed

    def _skip(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.case.line in self._gone:
                length = self._gone[row.case.line]
                row.status = f"skipped: did not fit at n={length}"

    def _note_what_does_not_fit(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.status == self._runner.does_not_fit:
                self._gone.setdefault(row.case.line, row.case.length)
                self._say(f"    {row.case.label}: {row.status}")
            elif row.status.startswith("failed"):
                self._say(f"    {row.case.label}: {row.status}")

    def _measure_memory(self, rows: list[Row]) -> None:
        self._skip(rows)
        # The compiled form needs least, so it has its answer in any case.
        ordered = sorted(rows, key=lambda row: row.case.mode != "xla")
        self._runner.measure_memory(ordered)
        self._note_what_does_not_fit(rows)

    def _measure_time(self, rows: list[Row]) -> None:
        self._skip([row for row in rows if row.status == OK])
        try:
            self._time(rows)
        finally:
            self.rows += rows
            cases.append_csv(self._csv, rows)

    def _time_aside(self, rows: list[Row], found: list[Row]) -> None:
        try:
            self._time(rows)
        finally:
            found += rows
            cases.append_csv(self._aside_csv, rows)

    def _time(self, rows: list[Row]) -> None:
        fitting = [row for row in rows if row.status == OK]
        try:
            self._runner.measure_time(
                rows, self._plan.repeats, self._plan.seconds
            )
        finally:
            for row in rows:
                if row.status == OK and not row.samples:
                    row.status = "interrupted"
        self._note_what_does_not_fit(fitting)
