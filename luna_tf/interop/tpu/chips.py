"""Published figures of TPU chips, and the bound they set on a step."""

from __future__ import annotations

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as JAX and libtpu count devices.

    Up to v4, and again with tpu7x, a chip holds two of them.

    Args:
        name: name as in a topology, such as `v5e`.
        dimensions: of a topology: 2 (`2x2`) or 3 (`2x2x1`).
        devices_per_chip: how many devices share a chip.
        hbm_bytes: memory that the compiler lets a program have: what libtpu
            0.0.52 names when a program is refused. A little below the
            published capacity.
        flops_per_second: peak of bfloat16 products.
        bytes_per_second: peak of the memory.
    """

    name: str
    dimensions: int
    devices_per_chip: int
    hbm_bytes: float
    flops_per_second: float
    bytes_per_second: float


def _chip(
    name: str,
    dimensions: int,
    devices_per_chip: int,
    hbm_gib: float,
    chip_teraflops: float,
    chip_gigabytes_per_second: float,
) -> Chip:
    return Chip(
        name=name,
        dimensions=dimensions,
        devices_per_chip=devices_per_chip,
        hbm_bytes=hbm_gib * 2**30,
        flops_per_second=chip_teraflops * 1e12 / devices_per_chip,
        bytes_per_second=chip_gigabytes_per_second * 1e9 / devices_per_chip,
    )


# name, dimensions, devices per chip, GiB of a device, TFLOP/s and GB/s of a
# chip. The sources give 16, 32, 32, 16, 95, 32 and 192 GB or GiB of a chip.
_CHIPS = (
    # docs.jax.dev/en/latest/pallas/tpu/hardware.html
    _chip("v2", 2, 2, 7.48, 46, 716),
    # cloud.google.com/tpu/docs/v3
    _chip("v3", 2, 2, 15.48, 123, 900),
    # cloud.google.com/tpu/docs/v4
    _chip("v4", 3, 2, 15.25, 275, 1200),
    # cloud.google.com/tpu/docs/v5e
    _chip("v5e", 2, 1, 15.75, 197, 819),
    # cloud.google.com/tpu/docs/v5p
    _chip("v5p", 3, 1, 95.73, 459, 2765),
    # cloud.google.com/tpu/docs/v6e
    _chip("v6e", 2, 1, 31.24, 918, 1638),
    # cloud.google.com/tpu/docs/tpu7x, which says that TensorFlow is not
    # supported there: compiling for it is all that can be done today.
    _chip("tpu7x", 3, 2, 94.74, 2307, 7380),
)
CHIPS = {chip.name: chip for chip in _CHIPS}


def parse_topology(topology: str) -> tuple[Chip, int]:
    """Reads a topology's name.

    Args:
        topology: chip and size of the grid, such as `v5e:2x2` or `v4:2x2x1`.

    Returns:
        The chip and the number of devices of the grid.

    Raises:
        ValueError: when no such chip is known, or the grid does not fit it.

    Example:

    >>> chip, devices = parse_topology("v4:2x2x1")
    >>> chip.name, devices
    ('v4', 8)
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", topology)
    chip = CHIPS.get(match[1].lower()) if match else None
    sizes = [int(size) for size in match[2].split("x")] if match else []
    if chip is None or len(sizes) != chip.dimensions:
        allowed = ", ".join(
            f"{c.name}:{'x'.join('ABC'[: c.dimensions])}" for c in _CHIPS
        )
        raise ValueError(
            f"`topology` must be one of {allowed}, such as v5e:2x2. "
            f"Received: topology={topology!r}"
        )
    return chip, math.prod(sizes) * chip.devices_per_chip


def roofline_seconds(flops: float, num_bytes: float, chip: Chip) -> float:
    """Time that a step takes at least, by arithmetic or by memory.

    Args:
        flops: operations of the step on one device.
        num_bytes: bytes that it reads and writes there.
        chip: the device.

    Returns:
        Seconds.

    Example:

    >>> chip, _ = parse_topology("v5e:2x2")
    >>> roofline_seconds(flops=197e12, num_bytes=0, chip=chip)
    1.0
    """
    return max(flops / chip.flops_per_second, num_bytes / chip.bytes_per_second)
