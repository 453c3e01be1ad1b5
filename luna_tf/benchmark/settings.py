"""What settings of the layers cost: the figures of the README's table.

Usage: python -m luna_tf.benchmark.settings [LENGTH [SETTING ...]]

Settings are chunk_size, tie_key_value, dtype and remat.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import luna_tf
from luna_tf.benchmark import memory, stepping, timing

WIDTH, HEADS, SLOTS, ROUNDS = 512, 8, 16, 7


# The first value is the one that others are compared with.
VALUES: dict[str, tuple[Any, ...]] = {
    "chunk_size": (64, 16, 256, 1024),
    "tie_key_value": (False, True),
    "dtype": ("float32", "mixed_bfloat16"),
    "remat": (False, True),
}


def layers(setting: str, value: Any) -> list[Any]:
    """What is measured: one causal layer, one layer, one block, four blocks.

    Args:
        setting: a key of `VALUES`.
        value: of this argument.
    """
    given = {setting: value}
    if setting == "chunk_size":
        return [luna_tf.LunaCausalAttention(HEADS, **given)]
    if setting == "tie_key_value":
        return [luna_tf.LunaAttention(HEADS, **given)]
    return [
        luna_tf.LunaTransformerBlock(4 * WIDTH, HEADS, **given)
        for _ in range(4 if setting == "remat" else 1)
    ]


def make_step(setting: str, value: Any, length: int) -> stepping.Step:
    """Forward and backward of one row, under XLA.

    Args:
        setting: a key of `VALUES`.
        value: of this argument.
        length: tokens of the row.
    """
    rng = np.random.default_rng(0)
    x, p = (
        keras.ops.convert_to_tensor(
            rng.standard_normal((1, rows, WIDTH), "float32")
        )
        for rows in (length, SLOTS)
    )
    stack = layers(setting, value)

    def loss(x: Any) -> Any:
        packed = p
        for layer in stack:
            found = layer(x, packed, training=True)
            x, packed = found if isinstance(found, tuple) else (found, p)
        return keras.ops.mean(keras.ops.square(keras.ops.cast(x, "float32")))

    loss(x[:, : 2 * SLOTS])  # builds
    variables = [v for layer in stack for v in layer.trainable_variables]
    return stepping.make_step(loss, variables, [x], "xla")


def main(arguments: Sequence[str]) -> None:
    """Prints time and extra memory of each value, over the first one's.

    Args:
        arguments: the length, and the settings; 4096 and all by default.
    """
    length = int(arguments[0]) if arguments else 4096
    for setting in arguments[1:] or VALUES:
        print(f"{setting}, n = {length:,}")
        steps = {
            str(value): make_step(setting, value, length)
            for value in VALUES[setting]
        }
        extra = {name: memory.extra_bytes(step) for name, step in steps.items()}
        found = list(timing.rounds(steps, ROUNDS, seconds=600.0))
        first = next(iter(steps))
        for name in steps:
            samples = [measured[name] for measured in found]
            low, middle, high = timing.paired_ratio(
                samples, [measured[first] for measured in found]
            )
            print(
                f"  {name:15} {np.median(samples):8.3f} s  "
                f"time {middle:.2f} ({low:.2f} to {high:.2f})  "
                f"extra memory {extra[name] / 2**20:,.0f} MiB, "
                f"{extra[name] / max(extra[first], 1):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    if not memory.ENVIRONMENT.items() <= os.environ.items():
        # The C library reads its part when a process starts.
        command = [sys.executable, "-m", "luna_tf.benchmark.settings"]
        os.execve(
            sys.executable,
            [*command, *sys.argv[1:]],
            {**os.environ, **memory.ENVIRONMENT},
        )
    main(sys.argv[1:])
