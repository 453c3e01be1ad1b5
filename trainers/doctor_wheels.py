"""Whose files the folder of the package `tensorflow` holds.

Several wheels bring that one package, and pip lets the last one installed
overwrite the others without a word. Plain TensorFlow comes along with
tensorflow-text, and over tensorflow-tpu it takes the TPU away.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from .doctor_findings import OK, PROBLEM, WARNING, Finding
from .doctor_packages import TENSORFLOW, TPU_WHEEL, reinstall

NAME = "tensorflow files"


@dataclasses.dataclass(frozen=True)
class _File:
    """What a wheel says of one of its files."""

    digest: str
    size: int


def check(distributions: Mapping[str, metadata.Distribution]) -> Finding | None:
    """Whether the files are those of the wheel that is to be used.

    That is tensorflow-tpu where it is installed. Only files that differ
    between the wheels count; of a single wheel, its libraries.

    Args:
        distributions: what is installed, by canonical name.

    Returns:
        A finding, or None when there is no TensorFlow at all.
    """
    wheels = {
        name: distributions[name]
        for name in TENSORFLOW
        if name in distributions
    }
    records = {name: _record(wheel) for name, wheel in wheels.items()}
    records = {name: record for name, record in records.items() if record}
    if not records:
        return None
    wanted = next(iter(records))  # the order of TENSORFLOW
    here = f"{wanted} {wheels[wanted].version}"
    fix = reinstall(wanted, wheels[wanted].version)
    owners = _owners(records, wheels)
    others = ", ".join(
        f"{n} of {name or 'no wheel'}"
        for name, n in owners.most_common()
        if name != wanted
    )
    if others:
        return Finding(
            NAME,
            PROBLEM,
            f"of {owners.total()} files that tell wheels apart, "
            f"{owners[wanted]} are of {here}, {others}",
            fix,
        )
    if len(records) == 1:
        return Finding(NAME, OK, f"of {here}")
    rest = " and ".join(name for name in records if name != wanted)
    if wanted == TPU_WHEEL:
        return Finding(NAME, OK, f"of {here}, which lies over {rest}")
    return Finding(
        NAME,
        WARNING,
        f"of {here}, but {rest} owns the same folder",
        f"pip uninstall -y {rest.replace(' and ', ' ')} && {fix}",
    )


def _record(wheel: metadata.Distribution) -> dict[str, _File]:
    """Path to what `RECORD` says of it; empty for a wheel without one."""
    lines = csv.reader((wheel.read_text("RECORD") or "").splitlines())
    return {
        path: _File(digest, int(size))
        for path, digest, size in lines
        if path.startswith("tensorflow/") and digest and size
    }


def _owners(
    records: Mapping[str, Mapping[str, _File]],
    wheels: Mapping[str, metadata.Distribution],
) -> Counter[str]:
    """How many telling files are of which wheel, and of none: ""."""
    first = next(iter(records))
    if len(records) == 1:
        paths = [p for p in records[first] if ".so" in Path(p).suffixes]
    else:
        paths = [
            path
            for path in records[first]
            if len({r[path].digest for r in records.values() if path in r}) > 1
        ]
    owners: Counter[str] = Counter()
    for path in paths:
        said = {n: r[path] for n, r in records.items() if path in r}
        owners[_owner(Path(str(wheels[first].locate_file(path))), said)] += 1
    return owners


def _owner(path: Path, said: Mapping[str, _File]) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return ""
    # Libraries have hundreds of megabytes: read only what sizes leave open.
    fitting = [name for name, file in said.items() if file.size == size]
    if len(fitting) < 2:
        return fitting[0] if fitting else ""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    text = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    matching = [n for n in fitting if said[n].digest == f"sha256={text}"]
    return matching[0] if matching else ""
