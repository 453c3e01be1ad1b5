from __future__ import annotations

import dataclasses

import pytest
from absl import flags

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    width: int = setting("Width.", group="Model", minimum=1)
    heads: int | None = setting("Heads.", group="Model", default=None)
    kind: str = setting(
        "Kind.", group="Model", default="a", choices=("a", "bee")
    )
    rate: float = setting("Rate.", group="Training", above=0.0)
    dropout: float = setting(
        "Dropout.", group="Training", default=0.1, minimum=0.0, below=1.0
    )
    fast: bool = setting("Fast.", group="Training", default=True)
    folder: str | None = setting("Folder.", group="Data", default=None)

    def __post_init__(self):
        if self.heads and self.width % self.heads:
            raise RecipeError(f"heads={self.heads} does not divide the width.")


VALUES = {"width": 8, "rate": 0.5}


def build(**values):
    return recipes.build(Recipe, {**VALUES, **values}, origin="here")


def test_builds_with_defaults():
    assert build() == Recipe(width=8, rate=0.5)
    assert build().dropout == 0.1


def test_numbers_may_be_text_as_yaml_reads_1e_minus_4(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("width: 8\nrate: 1e-4\n")
    values = recipes.read_yaml(str(path), tmp_path)
    assert values["rate"] == "1e-4"
    assert recipes.build(Recipe, values, "here").rate == 1e-4
    assert build(rate=2) == build(rate=2.0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("width", 0, "an integer at least 1"),
        ("width", "wide", "an integer at least 1"),
        ("width", 2.0, "an integer at least 1"),
        ("width", True, "an integer at least 1"),
        ("width", None, "an integer at least 1"),
        ("heads", "2.5", "an integer, or null"),
        ("kind", "bees", "one of a, bee"),
        ("kind", 3, "one of a, bee"),
        ("rate", 0, "a number above 0"),
        ("rate", "nan", "a number above 0"),
        ("rate", float("inf"), "a number above 0"),
        ("dropout", 1.0, "a number at least 0 and below 1"),
        ("fast", "yes", "true or false"),
        ("fast", 1, "true or false"),
        ("folder", 7, "a text, or null"),
    ],
)
def test_an_error_names_argument_given_and_allowed(name, value, allowed):
    with pytest.raises(RecipeError) as error:
        build(**{name: value})
    assert str(error.value) == (
        f"here: {name}={value!r} is not possible: allowed is {allowed}."
    )


def test_an_unknown_field_names_the_closest():
    with pytest.raises(RecipeError, match="`widht`. Did you mean `width`"):
        build(widht=3)
    with pytest.raises(RecipeError, match="unknown field `zzz`.$"):
        build(zzz=3)


def test_missing_fields_are_named():
    with pytest.raises(RecipeError, match="here: missing fields: width, rate"):
        recipes.build(Recipe, {}, origin="here")


def test_checks_across_fields_are_recipe_errors():
    with pytest.raises(RecipeError, match="heads=3"):
        build(heads=3)


def test_yaml_round_trip(tmp_path):
    recipe = build(heads=2, rate=1e-8, kind="bee", fast=False)
    text = recipes.to_yaml(recipe)
    assert text.startswith("# Model\nwidth: 8\nheads: 2\n")
    (tmp_path / "x.yaml").write_text(text)
    values = recipes.read_yaml("x", tmp_path)
    assert recipes.build(Recipe, values, "x") == recipe


def test_reads_by_name_or_by_path(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "small.yaml").write_text("width: 1\n")
    (tmp_path / "own.yaml").write_text("width: 2\n")
    assert recipes.names(folder) == ["small"]
    assert recipes.read_yaml("small", folder) == {"width": 1}
    path = str(tmp_path / "own.yaml")
    assert recipes.read_yaml(path, folder) == {"width": 2}
    with pytest.raises(RecipeError) as error:
        recipes.read_yaml("smal", folder)
    assert "no recipe 'smal'. Allowed: small, or" in str(error.value)
    assert "Did you mean `small`?" in str(error.value)


def test_reads_from_any_file_system(tmp_path):
    path = f"ram://{tmp_path.name}/recipe.yaml"
    with pytest.raises(RecipeError, match="no recipe 'ram://"):
        recipes.read_yaml(path, tmp_path)
    files.write_text(path, "kind: bee\nfolder: Zürich\n")
    values = recipes.read_yaml(path, tmp_path)
    assert values == {"kind": "bee", "folder": "Zürich"}


class TestDifferences:
    def test_none_to_what_was_written(self, tmp_path):
        recipe = build(heads=2, rate=1e-8, kind="bee", fast=False)
        (tmp_path / "x.yaml").write_text(recipes.to_yaml(recipe))
        before = recipes.read_yaml("x", tmp_path)
        # YAML reads 1.0e-08 back as a number and 1e-8 as text.
        assert recipes.differences(before, recipe) == {}
        assert recipes.differences({**before, "rate": "1e-8"}, recipe) == {}

    def test_are_named_with_both_values(self):
        before = {**VALUES, "heads": 4, "fast": False}
        found = recipes.differences(before, build(rate=1, folder="x"))
        assert found == {
            "heads": (4, None),
            "rate": (0.5, 1.0),
            "fast": (False, True),
            "folder": (None, "x"),
        }
        assert list(found) == ["heads", "rate", "fast", "folder"]

    def test_a_field_that_came_later_had_its_default(self):
        assert recipes.differences(VALUES, build(dropout=0.1)) == {}
        found = recipes.differences(VALUES, build(dropout=0.2))
        assert found == {"dropout": (0.1, 0.2)}

    def test_a_field_that_was_not_there_and_has_no_default(self):
        found = recipes.differences({"rate": 0.5}, build())
        assert found == {"width": (None, 8)}

    def test_a_value_that_is_no_longer_allowed(self):
        found = recipes.differences({**VALUES, "kind": "sea"}, build())
        assert found == {"kind": ("sea", "a")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "Received: list"),
        ("", "Received: NoneType"),
        ("a: [1\n", "not readable"),
        ("width: 1\nwidth: 2\n", "`width` appears twice"),
    ],
)
def test_refuses_files_that_are_no_flat_mapping(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipes.read_yaml(str(path), tmp_path)


class TestFlags:
    def parse(self, *arguments):
        values = flags.FlagValues()
        recipes.define_flags(Recipe, values)
        values(["program", *arguments])
        return recipes.given_flags(Recipe, values)

    def test_only_what_was_given(self):
        assert self.parse() == {}
        given = self.parse("--width=3", "--nofast", "--rate", "1e-3")
        assert given == {"width": 3, "fast": False, "rate": 1e-3}
        assert self.parse("--kind=bee", "--folder=x") == {
            "kind": "bee",
            "folder": "x",
        }

    def test_null_switches_off_what_may_be_off(self):
        given = self.parse("--heads=null", "--folder=null")
        assert given == {"heads": None, "folder": None}
        with pytest.raises(flags.Error, match="allowed is an integer"):
            self.parse("--width=null")

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("--width=0", "--width=0: allowed is an integer at least 1"),
            ("--rate=fast", "--rate=fast: allowed is a number above 0"),
            ("--kind=c", "--kind=c: value should be one of <a|bee>"),
            ("--widht=3", "widht"),
        ],
    )
    def test_bad_flags_are_flag_errors(self, argument, message):
        with pytest.raises(flags.Error, match=message):
            self.parse(argument)


def test_a_schema_of_other_types_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Bad:
        sizes: list = setting("Sizes.", group="Model")

    with pytest.raises(TypeError, match="Bad.sizes must be bool, int"):
        recipes.build(Bad, {"sizes": [1]}, "here")
