"""Recipes: a frozen dataclass is the schema of its YAML files and its flags.

A trainer declares one frozen dataclass whose fields are made by `setting`.
From that schema follow the absl flags (`define_flags`), the reading of recipe
files (`read_yaml`), type and range checks (`build`) and the written record of
what was run (`to_yaml`). Nothing here knows any trainer.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from absl import flags

from . import files

if TYPE_CHECKING:  # Python 3.10 keeps it elsewhere
    from importlib.resources.abc import Traversable

Schema = TypeVar("Schema")
_REQUIRED: Any = dataclasses.MISSING
NULL = object()  # `--name=null`


class RecipeError(ValueError):
    """A recipe or a flag that cannot be run, told in one readable line."""


def setting(
    description: str,
    *,
    group: str,
    default: Any = _REQUIRED,
    choices: Iterable[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declares one field of a schema: `width: int = setting("…", group="…")`.

    Args:
        description: what the field means and how to switch it off.
        group: heading under which help and YAML show the field.
        default: value where recipe and flags are silent. Without it the
            field is required in every recipe.
        choices: allowed words of a string field.
        minimum, maximum: allowed range of a number, ends included.
        above, below: the same, ends excluded.

    Returns:
        A `dataclasses.field`.
    """
    metadata = {
        "description": description,
        "group": group,
        "choices": tuple(choices) if choices is not None else None,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
    }
    return dataclasses.field(default=default, metadata=metadata)


def value_type(schema: type, name: str) -> tuple[type, bool]:
    """The type of a field and whether it may be None.

    Args:
        schema: dataclass whose fields are bool, int, float or str, each
            possibly `| None`.
        name: name of the field.

    Returns:
        `(type, optional)`.

    Raises:
        TypeError: when the schema declares another type.
    """
    hint = typing.get_type_hints(schema)[name]
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else hint
    if hint not in (bool, int, float, str):
        raise TypeError(
            f"{schema.__name__}.{name} must be bool, int, float or str, "
            f"possibly | None. Received: {hint}"
        )
    return hint, optional


def allowed(schema: type, field: dataclasses.Field) -> str:
    """Describes the values that a field takes, as in "a number above 0"."""
    kind, optional = value_type(schema, field.name)
    limits = field.metadata
    if limits["choices"]:
        text = "one of " + ", ".join(limits["choices"])
    else:
        text = {
            bool: "true or false",
            int: "an integer",
            float: "a number",
            str: "a text",
        }[kind]
    words = {
        "minimum": "at least {:g}",
        "above": "above {:g}",
        "maximum": "at most {:g}",
        "below": "below {:g}",
    }
    bounds = [
        phrase.format(limits[key])
        for key, phrase in words.items()
        if limits[key] is not None
    ]
    text = " ".join([text, " and ".join(bounds)]).strip()
    return f"{text}, or null" if optional else text


def convert(schema: type, field: dataclasses.Field, value: Any) -> Any:
    """Checks one value against its field and returns it in the field's type.

    Numbers may come as text: a flag is text, and YAML reads `1e-4` (without
    a point) as text too.

    Args:
        schema: the dataclass.
        field: one of its fields.
        value: what YAML or a flag gave.

    Returns:
        The value as bool, int, float, str or None.

    Raises:
        ValueError: naming what is allowed.
    """
    kind, optional = value_type(schema, field.name)
    if value is None and optional:
        return None
    try:
        number = _as_type(kind, value)
    except (TypeError, ValueError):
        number = None
    limits = field.metadata
    if number is None or (
        (limits["choices"] and number not in limits["choices"])
        or (limits["minimum"] is not None and number < limits["minimum"])
        or (limits["maximum"] is not None and number > limits["maximum"])
        or (limits["above"] is not None and number <= limits["above"])
        or (limits["below"] is not None and number >= limits["below"])
    ):
        raise ValueError(f"allowed is {allowed(schema, field)}")
    return number


def _as_type(kind: type, value: Any) -> Any:
    if kind in (bool, str):
        return value if isinstance(value, kind) else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if kind is int:
        return None if isinstance(value, float) else int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def build(
    schema: type[Schema], values: Mapping[str, Any], origin: str
) -> Schema:
    """Makes a schema's instance from loose values, or says what is wrong.

    Args:
        schema: frozen dataclass with fields made by `setting`. Checks that
            span fields belong into its `__post_init__`, as `RecipeError`.
        values: field name to value.
        origin: where the values come from, for messages.

    Returns:
        The checked instance.

    Raises:
        RecipeError: for an unknown field, naming the closest known one; for
            a missing one; for a value of wrong type or out of range.

    Example:

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Recipe:
    ...     num_layers: int = setting("Blocks.", group="model", minimum=1)
    >>> build(Recipe, {"num_layers": "2"}, origin="my.yaml")
    Recipe(num_layers=2)
    >>> build(Recipe, {"layers": 2}, origin="my.yaml")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    luna_tf.training.recipes.RecipeError: my.yaml: unknown field `layers`. ...
    """
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, schema))}
    for name in values:
        if name not in fields:
            raise RecipeError(
                f"{origin}: unknown field `{name}`.{closest(name, fields)}"
            )
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{origin}: missing fields: {', '.join(missing)}.")
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = convert(schema, fields[name], value)
        except ValueError as error:
            raise RecipeError(
                f"{origin}: {name}={value!r} is not possible: {error}."
            ) from None
    return schema(**checked)


def closest(name: str, known: Iterable[str]) -> str:
    """A " Did you mean …?" for a mistyped name, or an empty text."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{match[0]}`?" if match else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key written twice; plain YAML silently keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"`{repeated[0]}` appears twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def names(folder: Traversable) -> list[str]:
    """Names of the recipes in a folder, sorted, without `.yaml`."""
    files = [entry.name for entry in folder.iterdir()]
    return sorted(n[: -len(".yaml")] for n in files if n.endswith(".yaml"))


def read_yaml(name_or_path: str, folder: Traversable) -> dict[str, Any]:
    """Reads a recipe file into loose values.

    Args:
        name_or_path: the name of a file in `folder` without `.yaml`, or the
            path of a file (anything with a `/` or ending in `.yaml`).
        folder: where the named recipes lie, such as
            `importlib.resources.files(package) / "recipes"`.

    Returns:
        Field name to value, unchecked.

    Raises:
        RecipeError: when the file is not there or is no flat mapping.
    """
    is_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    text = None
    if "://" in name_or_path:
        if files.exists(name_or_path):
            text = files.read_text(name_or_path)
    else:
        file = (
            Path(name_or_path) if is_path else folder / f"{name_or_path}.yaml"
        )
        if file.is_file():
            text = file.read_bytes().decode("utf-8", errors="replace")
    if text is None:
        known = names(folder)
        raise RecipeError(
            f"no recipe {name_or_path!r}. Allowed: {', '.join(known)}, or "
            f"the path of a YAML file.{closest(name_or_path, known)}"
        )
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name_or_path}: not readable: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{name_or_path}: a recipe holds lines like `num_layers: 4`. "
            f"Received: {type(values).__name__}."
        )
    return {str(name): value for name, value in values.items()}


def grouped(schema: type) -> dict[str, list[dataclasses.Field]]:
    """The fields of a schema by group, both in order of declaration."""
    groups: dict[str, list[dataclasses.Field]] = {}
    for field in dataclasses.fields(schema):
        groups.setdefault(field.metadata["group"], []).append(field)
    return groups


def differences(before: Mapping[str, Any], recipe: Any) -> dict[str, tuple]:
    """Where a recipe differs from the loose values of an earlier run.

    Args:
        before: what `read_yaml` gave; fields that the schema got later count
            as their default.
        recipe: instance of a schema.

    Returns:
        Field name to `(before, now)`.
    """
    found = {}
    for field in dataclasses.fields(recipe):
        old = before.get(field.name, field.default)
        if old is not dataclasses.MISSING:
            try:
                old = convert(type(recipe), field, old)
            except ValueError:
                pass  # no longer allowed, hence different
        now = getattr(recipe, field.name)
        if old != now:
            found[field.name] = (
                None if old is dataclasses.MISSING else old,
                now,
            )
    return found


def to_yaml(recipe: Any) -> str:
    """Writes a recipe as YAML that `read_yaml` and `build` read back.

    Args:
        recipe: instance of a schema.

    Returns:
        One line per field, with a comment line per group.
    """
    lines = []
    for group, fields in grouped(type(recipe)).items():
        values = {f.name: getattr(recipe, f.name) for f in fields}
        lines.append(f"# {group}\n" + yaml.safe_dump(values, sort_keys=False))
    return "\n".join(lines)


class _FieldParser(flags.ArgumentParser):
    """Reads a flag by the rules of its field, with the same messages."""

    def __init__(self, schema: type, field: dataclasses.Field) -> None:
        super().__init__()
        self._schema = schema
        self._field = field

    def parse(self, argument: Any) -> Any:
        _, optional = value_type(self._schema, self._field.name)
        if argument == "null" and optional:
            return NULL  # None would mean that the flag was not given
        return convert(self._schema, self._field, argument)

    def flag_type(self) -> str:
        return value_type(self._schema, self._field.name)[0].__name__


def define_flags(schema: type, flag_values: flags.FlagValues) -> None:
    """Defines one absl flag per field.

    Every flag defaults to None, "not given", so that `given_flags` can tell
    an override from silence; defaults live in the schema and in recipes.

    Args:
        schema: the dataclass.
        flag_values: registry that receives the flags.
    """
    for field in dataclasses.fields(schema):
        text = field.metadata["description"]
        kind, _ = value_type(schema, field.name)
        if kind is bool:
            flags.DEFINE_boolean(
                field.name, None, text, flag_values=flag_values
            )
        elif field.metadata["choices"]:
            flags.DEFINE_enum(
                field.name,
                None,
                field.metadata["choices"],
                text,
                flag_values=flag_values,
            )
        else:
            flags.DEFINE(
                _FieldParser(schema, field),
                field.name,
                None,
                text,
                flag_values=flag_values,
                serializer=flags.ArgumentSerializer(),
            )


def given_flags(schema: type, flag_values: flags.FlagValues) -> dict[str, Any]:
    """The fields of a schema that were given as flags, with their values."""
    values = {
        field.name: flag_values[field.name].value
        for field in dataclasses.fields(schema)
    }
    return {
        name: None if value is NULL else value
        for name, value in values.items()
        if value is not None
    }
