"""What the recipes of all trainers must agree on with themselves."""

from __future__ import annotations

from typing import Any

from luna_tf.training.recipes import RecipeError


def check_recipe(recipe: Any) -> None:
    """Refuses heads and warm-up that cannot be.

    Args:
        recipe: has the fields of a Luna model and of a schedule, by the names
            that all recipes use.

    Raises:
        RecipeError: naming the field, its value and what is allowed.
    """
    for name in ("num_heads", "num_pack_heads"):
        heads = getattr(recipe, name)
        if heads is not None and recipe.hidden_dim % heads:
            raise RecipeError(
                f"{name}={heads} is not possible: allowed is a divisor of "
                f"hidden_dim={recipe.hidden_dim}."
            )
    check_schedule(recipe)


def check_schedule(recipe: Any) -> None:
    """Refuses warm-up that cannot be.

    Args:
        recipe: has the fields of a schedule.

    Raises:
        RecipeError: naming the field, its value and what is allowed.
    """
    if recipe.warmup_steps > recipe.train_steps:
        raise RecipeError(
            f"warmup_steps={recipe.warmup_steps} is not possible: allowed "
            f"is at most train_steps={recipe.train_steps}."
        )
    if recipe.schedule == "inverse_sqrt" and not recipe.warmup_steps:
        raise RecipeError(
            "warmup_steps=0 is not possible with schedule=inverse_sqrt: "
            "allowed is 1 or more."
        )
