"""Checks of versions, against the bounds that luna-tf itself declares."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from .doctor_findings import OK, PROBLEM, Finding

DISTRIBUTION = "luna-tf"
TPU_WHEEL = "tensorflow-tpu"
# Each of these wheels brings the package `tensorflow`.
TENSORFLOW = (
    TPU_WHEEL,
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "tensorflow-aarch64",
    "tf-nightly",
)
# Of our extras; tools for tests and notebooks are their users' own affair.
_REPORTED = ("jax", "libtpu")
# What several packages share, and break on when it is out of step.
_SHARED = ("protobuf", "numpy")


def by_name(
    distributions: Iterable[metadata.Distribution],
) -> dict[str, metadata.Distribution]:
    """Distributions by their canonical names.

    Args:
        distributions: such as `importlib.metadata.distributions()`.

    Returns:
        Name to distribution; the one that Python imports, of several.
    """
    found: dict[str, metadata.Distribution] = {}
    for distribution in distributions:
        name = distribution.metadata["Name"]
        if name:  # one that is half removed has none
            found.setdefault(canonicalize_name(name), distribution)
    return found


def install(*requirements: str) -> str:
    """The pip command that installs requirements such as `keras>=3.12`."""
    quoted = (f"'{r}'" if set(r) & set("<>!~*") else r for r in requirements)
    return f"pip install {' '.join(quoted)}"


def reinstall(name: str, version: str) -> str:
    """The pip command that puts a wheel's files where others' are now."""
    return f"pip install --force-reinstall --no-deps {name}=={version}"


def commands(requirements: Iterable[str]) -> dict[str, str]:
    """For each package that luna-tf needs, the command that installs it.

    Args:
        requirements: of luna-tf, as its metadata have them.
    """
    return {
        canonicalize_name(r.name): install(f"{r.name}{r.specifier}")
        for r in map(Requirement, requirements)
        if r.marker is None
    }


def install_for_tpu(requirements: Iterable[str]) -> str:
    """The commands that make an environment ready for a TPU VM.

    Args:
        requirements: of luna-tf, as its metadata have them.

    Returns:
        Two commands. The second must come last: the first also installs plain
        TensorFlow, which tensorflow-text depends on.
    """
    command = f"pip install '{DISTRIBUTION}[tpu]'"
    for requirement in map(Requirement, requirements):
        pin = _pin(requirement.specifier)
        if requirement.name == TPU_WHEEL and pin:
            command += f" && {reinstall(TPU_WHEEL, pin)}"
    return command


def check_python(version: str, bounds: str) -> Finding:
    """Whether luna-tf supports this Python.

    Args:
        version: as in `3.11.7`.
        bounds: as in `>=3.10,<3.14`.
    """
    if SpecifierSet(bounds).contains(version, prereleases=True):
        return Finding("Python", OK, version)
    return Finding(
        "Python",
        PROBLEM,
        f"{version}, but luna-tf needs {bounds}",
        "make an environment with such a Python",
    )


def check_versions(
    requirements: Iterable[str], installed: Mapping[str, str]
) -> list[Finding]:
    """Whether packages are there, in versions that luna-tf supports.

    What luna-tf cannot do without must be there. The bounds of an extra count
    when all of its packages are installed; those of `tpu` when tensorflow-tpu
    is, and then the others must be there too.

    Args:
        requirements: of luna-tf, as its metadata have them.
        installed: canonical name to version.

    Returns:
        One finding per package.
    """
    has_tpu_wheel = TPU_WHEEL in installed
    extras: dict[str, dict[str, SpecifierSet]] = {}
    for requirement in map(Requirement, requirements):
        extra = _extra(requirement)
        if extra is not None:
            package = canonicalize_name(requirement.name)
            extras.setdefault(extra, {})[package] = requirement.specifier
    bounds = extras.pop("", {})
    for extra, group in extras.items():
        for_tpu = extra == "tpu"
        if has_tpu_wheel if for_tpu else all(n in installed for n in group):
            for name, specifier in group.items():
                # A TPU's TensorFlow needs an older libtpu than our use of JAX,
                # which compiles for TPUs where there is none.
                yields = has_tpu_wheel and not for_tpu
                if (for_tpu or name in _REPORTED) and not yields:
                    bounds[name] = bounds.get(name, SpecifierSet()) & specifier
    return [
        _check_version(name, bounds[name], installed, bounds) for name in bounds
    ]


def _extra(requirement: Requirement) -> str | None:
    """The extra that asks for it, "" for none, None if not this Python."""
    text = str(requirement.marker or "")
    match = re.search(r'extra == "(.*?)"', text)
    extra = match[1] if match else ""
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return None
    return extra


def _check_version(
    name: str,
    bounds: SpecifierSet,
    installed: Mapping[str, str],
    all_bounds: Mapping[str, SpecifierSet],
) -> Finding:
    wheel = name
    if name == "tensorflow" and name not in installed:
        wheel = next((w for w in TENSORFLOW if w in installed), name)
    version = installed.get(wheel)
    seen = "missing"
    if version is not None:
        seen = version if wheel == name else f"{version}, from {wheel}"
        if bounds.contains(version, prereleases=True):
            return Finding(name, OK, seen)
    pin = _pin(bounds)
    wanted = f"=={pin}" if pin else str(bounds)
    if version is not None:
        seen += f", but luna-tf needs {wanted}"
    fix = install(f"{wheel}{wanted}")
    if TPU_WHEEL in installed and name.startswith("tensorflow"):
        # It brings plain TensorFlow, whose files would win.
        tpu = _pin(all_bounds.get(TPU_WHEEL, SpecifierSet()))
        fix += f" && {reinstall(TPU_WHEEL, tpu or installed[TPU_WHEEL])}"
    return Finding(name, PROBLEM, seen, fix)


def _pin(bounds: SpecifierSet) -> str | None:
    """The one version that bounds name, if they do."""
    exact = [s for s in bounds if s.operator == "=="]
    return exact[0].version if exact else None


def check_text(installed: Mapping[str, str]) -> Finding | None:
    """Whether TensorFlow and tensorflow-text are of the same minor version.

    Args:
        installed: canonical name to version.

    Returns:
        A problem, or None when they fit or one of them is missing.
    """
    wheel = next((w for w in TENSORFLOW if w in installed), None)
    text = installed.get("tensorflow-text")
    if wheel is None or text is None:
        return None
    minor = Version(installed[wheel]).release[:2]
    if Version(text).release[:2] == minor:
        return None
    return Finding(
        "tensorflow-text",
        PROBLEM,
        f"{text} does not load on {wheel} {installed[wheel]}: both must be of "
        "the same minor version",
        install(f"tensorflow-text=={'.'.join(map(str, minor))}.*"),
    )


def check_shared(
    needs: Mapping[str, Sequence[str]], installed: Mapping[str, str]
) -> list[Finding]:
    """Whether packages agree on the protobuf and numpy that they share.

    Args:
        needs: package to its requirements, as its metadata have them.
        installed: canonical name to version.

    Returns:
        One problem per shared package that does not suit all.
    """
    findings = []
    for name in _SHARED:
        bounds, unhappy = SpecifierSet(), []
        for package, requirements in needs.items():
            for text in requirements:
                requirement = Requirement(text)
                if canonicalize_name(requirement.name) != name:
                    continue
                marker = requirement.marker
                if marker and not marker.evaluate({"extra": ""}):
                    continue
                bounds &= requirement.specifier
                if name in installed and not requirement.specifier.contains(
                    installed[name], prereleases=True
                ):
                    unhappy.append(f"{package} needs {requirement.specifier}")
        if unhappy:
            findings.append(
                Finding(
                    name,
                    PROBLEM,
                    f"{installed[name]}, but {', '.join(unhappy)}",
                    install(f"{name}{bounds}"),
                )
            )
    return findings


def check_all(
    distributions: Mapping[str, metadata.Distribution],
) -> list[Finding]:
    """All checks of versions.

    Args:
        distributions: what is installed, by canonical name.

    Returns:
        The findings.
    """
    own = distributions.get(DISTRIBUTION)
    if own is None:
        return [
            Finding(
                DISTRIBUTION,
                PROBLEM,
                "not installed, so what it needs is not known",
                "pip install -e . in the checkout",
            )
        ]
    installed = {name: d.version for name, d in distributions.items()}
    sharing = {*TENSORFLOW, "tensorboard", "keras", "keras-hub", "jax"}
    needs = {
        name: d.requires or []
        for name, d in distributions.items()
        if name in sharing
    }
    versions = check_versions(own.requires or [], installed)
    told = {f.name for f in versions if f.status != OK}
    text = check_text(installed)
    return [
        Finding(DISTRIBUTION, OK, own.version),
        check_python(
            platform.python_version(), own.metadata["Requires-Python"]
        ),
        *versions,
        *([text] if text and text.name not in told else []),
        *check_shared(needs, installed),
    ]
