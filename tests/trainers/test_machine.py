"""Flags that say where a run is made."""

import dataclasses

import pytest
from luna_tf.trainers import machine
from luna_tf.trainers.machine import Machine

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError
from luna_tf.training.strategy import CHOICES


def build(**values):
    return recipes.build(Machine, values, "flags")


def test_strategies_are_those_that_can_be_chosen():
    assert machine.STRATEGIES == CHOICES


def test_defaults_ask_for_nothing():
    assert build() == Machine()
    assert build().distribution_strategy == "auto"
    for name in ("tpu", "logical_cpus", "profile_steps", "data_service"):
        assert getattr(build(), name) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [(None, None), ("100,110", (100, 110)), (" 0, 3 ", (0, 3))],
)
def test_profile_steps(text, steps):
    assert build(profile_steps=text).profile_range() == steps


@pytest.mark.parametrize(
    "values",
    [
        *(
            {"profile_steps": text}
            for text in ("", "5", "1,2,3", "a,b", "-1,5", "1.5,2", "1,", "²,3")
        ),
        {"data_service": "localhost:5000"},
        {"data_service": ""},
        {"distribution_strategy": "gpu"},
        {"logical_cpus": 0},
        {"checkpoint_every": 0},
        {"keep_checkpoints": 0},
    ],
)
def test_what_cannot_be_names_the_flag_the_value_and_what_is_allowed(values):
    ((name, value),) = values.items()
    with pytest.raises(RecipeError) as error:
        build(**values)
    assert f"{name}={value!r} is not possible: allowed is" in str(error.value)


def test_no_flag_of_a_machine_is_a_field_of_a_recipe():
    # Both are flags of the same program.
    from luna_tf.trainers.lra_recipe import LRARecipe

    names = [
        {field.name for field in dataclasses.fields(schema)}
        for schema in (Machine, LRARecipe)
    ]
    assert not names[0] & names[1]
