"""What is measured: names, sizes and the row that a measurement ends in.

Plain data, free of Keras: the parent process only plans and reports.
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CONTENDERS = {
    "absorbed": "Luna, projections folded into the packed side",
    "direct": "Luna, keys, values and queries formed",
    "auto": "Luna, the order chosen by the cost rule",
    "textbook": "Luna as the paper writes it, heads split by transposes",
    "softmax": "keras.layers.MultiHeadAttention",
}
# The two mixtures of orders that only the check of the cost rule needs.
MIXED = {
    "absorbed_direct": "Luna, pack absorbed, unpack direct",
    "direct_absorbed": "Luna, pack direct, unpack absorbed",
}
# Contenders of `luna-benchmark causal`.
CAUSAL = {
    "chunked": "LunaCausalAttention",
    "official": "causal Luna as the official code has it",
    "causal_softmax": "keras.layers.MultiHeadAttention, causal mask",
}
# One token at position n, with what the tokens before it left.
TOKEN = {
    "chunked_token": "LunaCausalAttention with its cache",
    "softmax_token": "keras_hub.layers.CachedMultiHeadAttention",
}
# They read no packed sequence.
SOFTMAX = ("softmax", "causal_softmax", "softmax_token")
# The official formula is not in the package but in its tests.
OFFICIAL_FILE = (
    Path(__file__).resolve().parents[2] / "tests/layers/official_causal.py"
)
MODES = {
    "eager": "operation by operation",
    "graph": "tf.function without XLA (TensorFlow only)",
    "xla": "compiled by XLA",
}
OK = "ok"


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        contender: key of `CONTENDERS`, `MIXED`, `CAUSAL` or `TOKEN`.
        mode: key of `MODES`.
        length: n, tokens per sequence.
        packed_length: l, packed slots; 0 for softmax attention, which has none.
    """

    contender: str
    mode: str
    length: int
    packed_length: int

    @property
    def label(self) -> str:
        """Short name for progress lines, such as `auto l=16 xla`."""
        slots = f" l={self.packed_length}" if self.packed_length else ""
        return f"{self.contender}{slots} {self.mode}"

    @property
    def line(self) -> tuple[str, str, int]:
        """What stays the same along a growth curve."""
        return self.contender, self.mode, self.packed_length


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cases of a run have in common.

    Args:
        width: d, width of the tokens.
        heads: H, heads of both attentions.
        batch: sequences per step.
        tie_key_value: whether Luna's keys and values share a projection.
        masked: whether the sequences are padded to random lengths, n/2 to n.
        dropout: rate on the attention weights, 0 to 1 (excluded).
        precision: Keras dtype policy.
    """

    width: int = 512
    heads: int = 8
    batch: int = 2
    tie_key_value: bool = True
    masked: bool = False
    dropout: float = 0.0
    precision: str = "float32"


@dataclasses.dataclass
class Row:
    """A case with what was found: one line of the CSV file.

    Args:
        case: what was measured.
        samples: seconds per step (per token for a key of `TOKEN`), one per
            round, in the order of the rounds; equal positions of two rows of
            one length belong to one round.
        extra_bytes: peak memory of a step above its inputs and weights, or
            None when not measured.
        cache_bytes: size of the cache of a key of `TOKEN`, else None.
        status: `ok`, or why there is no time.
    """

    case: Case
    samples: list[float] = dataclasses.field(default_factory=list)
    extra_bytes: int | None = None
    cache_bytes: int | None = None
    status: str = OK

    @property
    def median(self) -> float | None:
        """Median seconds of a step, None without samples."""
        return statistics.median(self.samples) if self.samples else None


COLUMNS = (
    "contender",
    "mode",
    "length",
    "packed_length",
    "median_seconds",
    "q1_seconds",
    "q3_seconds",
    "repeats",
    "extra_bytes",
    "cache_bytes",
    "status",
    "samples_seconds",
)


def append_csv(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows to a CSV file and writes the heading of a new one.

    Args:
        path: the file.
        rows: what to add; each is on disk when this returns.
    """
    from luna_tf.benchmark.timing import quartiles

    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            values: dict[str, Any] = {
                **dataclasses.asdict(row.case),
                "repeats": len(row.samples),
                "extra_bytes": row.extra_bytes,
                "cache_bytes": row.cache_bytes,
                "status": row.status,
                "samples_seconds": ";".join(f"{s:.6g}" for s in row.samples),
            }
            if row.samples:
                names = ("q1_seconds", "median_seconds", "q3_seconds")
                values.update(
                    (name, f"{value:.6g}")
                    for name, value in zip(
                        names, quartiles(row.samples), strict=True
                    )
                )
            writer.writerow(values)


def read_csv(path: Path) -> list[Row]:
    """Reads what `append_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(record) for record in csv.DictReader(file)]


def _row(record: Mapping[str, str]) -> Row:
    samples = record["samples_seconds"]
    return Row(
        Case(
            record["contender"],
            record["mode"],
            int(record["length"]),
            int(record["packed_length"]),
        ),
        [float(sample) for sample in samples.split(";")] if samples else [],
        int(record["extra_bytes"]) if record["extra_bytes"] else None,
        int(record["cache_bytes"]) if record["cache_bytes"] else None,
        record["status"],
    )
