"""What the tasks of the Long Range Arena ask of a recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from luna_tf.training import recipes
from luna_tf.training.recipes import RecipeError

if TYPE_CHECKING:
    from .lra_recipe import LRARecipe

_COUNTS = ("train_examples", "validation_examples", "test_examples")
_FRACTIONS = ("validation_fraction", "test_fraction")
_PICTURES = ("image_size", "pixels", "pixel_mean", "pixel_std")
_GROUPS = ("Data", "Generated data", "Tables", "Pictures")
# What every task reads.
_COMMON = (
    "task",
    "data_dir",
    "skip_malformed",
    "cache_dir",
    "sequence_length",
    "add_cls",
    "add_eos",
)


@dataclasses.dataclass(frozen=True)
class LRATask:
    """A task of the Long Range Arena.

    Args:
        title: for headings.
        num_classes: as published.
        fields: of a recipe's data groups, those that this task reads besides
            `_COMMON`.
        generated: those among them that files of the release leave nothing
            to decide.
        required: those that have no default.
        documents: sequences of an example.
        picture: side of the published pictures in pixels, or None.
    """

    title: str
    num_classes: int
    fields: tuple[str, ...]
    generated: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    documents: int = 1
    picture: int | None = None


_EXPRESSIONS = (*_COUNTS, "min_length", "max_depth", "max_args", "data_seed")
_DRAWING = ("pictures", "contour_length", "distractors", "data_seed")
_PATHFINDER = LRATask(
    "Pathfinder",
    2,
    (*_PICTURES, "black_is_padding", "difficulty", *_DRAWING),
    generated=_DRAWING,
    picture=32,
)
TASKS = {
    "listops": LRATask(
        "ListOps",
        10,
        (*_EXPRESSIONS, "max_length"),
        generated=_EXPRESSIONS,
        required=(*_COUNTS, "min_length", "max_length"),
    ),
    "text": LRATask(
        "Text",
        2,
        (
            "num_classes",
            "validation",
            *_FRACTIONS,
            *("text_column", "label_column", "rows"),
        ),
        required=("data_dir", "sequence_length"),
    ),
    "retrieval": LRATask(
        "Retrieval",
        2,
        (),
        required=("data_dir", "sequence_length"),
        documents=2,
    ),
    "image": LRATask(
        "Image",
        10,
        ("num_classes", *_PICTURES, "black_is_padding", *_FRACTIONS),
        picture=32,
    ),
    "pathfinder": _PATHFINDER,
    "pathx": dataclasses.replace(_PATHFINDER, title="Path-X", picture=128),
}


def check(recipe: LRARecipe) -> None:
    """Refuses a recipe whose fields do not suit its task.

    Args:
        recipe: the recipe.

    Raises:
        RecipeError: naming the field, its value and what is allowed.
    """
    task = TASKS[recipe.task]
    known = {*_COMMON, *task.fields}
    for group in _GROUPS:
        for field in recipes.grouped(type(recipe))[group]:
            value = getattr(recipe, field.name)
            if field.name not in known and value != field.default:
                readers = [
                    n for n, t in TASKS.items() if field.name in t.fields
                ]
                raise RecipeError(
                    f"{field.name}={value} is not possible with "
                    f"task={recipe.task}: it is for {', '.join(readers)}."
                )
    missing = [name for name in task.required if getattr(recipe, name) is None]
    if missing:
        raise RecipeError(
            f"task={recipe.task} needs {', '.join(missing)}: null is not "
            f"possible. {_HINTS.get(missing[0], '')}".rstrip()
        )
    if recipe.max_real_tokens is not None and task.picture is not None:
        if not recipe.black_is_padding:
            raise RecipeError(
                f"max_real_tokens={recipe.max_real_tokens} is not possible "
                "without black_is_padding: of pictures only black is padding."
            )
    if recipe.task == "listops":
        _check_expressions(recipe)
    elif task.picture is not None:
        _check_pictures(recipe)
    room = recipe.add_cls + recipe.add_eos + 1
    if row_length(recipe) < room:
        raise RecipeError(
            f"sequence_length={recipe.sequence_length} is not possible: "
            f"allowed is at least {room}, for the marks and a token."
        )


_HINTS = {
    "data_dir": "It says where the data lie; they cannot be generated. See "
    "the README for where to get them.",
    "sequence_length": "It counts bytes and marks; the paper has 4002.",
}


def _check_expressions(recipe: LRARecipe) -> None:
    assert recipe.min_length is not None and recipe.max_length is not None
    if recipe.max_length - recipe.min_length < 2:
        raise RecipeError(
            f"max_length={recipe.max_length} is not possible: allowed is "
            f"at least min_length + 2 = {recipe.min_length + 2}, as both "
            "bounds are excluded."
        )


def _check_pictures(recipe: LRARecipe) -> None:
    if recipe.task in ("pathfinder", "pathx") and image_size(recipe) not in (
        32,
        64,
        128,
        256,
    ):
        raise RecipeError(
            f"image_size={recipe.image_size} is not possible with "
            f"task={recipe.task}: allowed is 32, 64, 128 or 256."
        )
    if recipe.pixels == "values":
        _check_values(recipe)
    elif (recipe.pixel_mean, recipe.pixel_std) != (0.5, 0.5):
        raise RecipeError(
            f"pixel_mean={recipe.pixel_mean} and pixel_std={recipe.pixel_std} "
            "are not possible with pixels=tokens: they are for values."
        )
    whole = _picture_length(recipe)
    length = recipe.sequence_length
    if length is None:
        return
    if length > whole:
        raise RecipeError(
            f"sequence_length={length} is not possible: allowed is at most "
            f"{whole}, the pixels and marks of a picture."
        )


def _check_values(recipe: LRARecipe) -> None:
    if recipe.sequence_length is not None:
        raise RecipeError(
            f"sequence_length={recipe.sequence_length} is not possible with "
            "pixels=values: allowed is null, all pixels."
        )
    if recipe.black_is_padding:
        raise RecipeError(
            "black_is_padding=True is not possible with pixels=values: it is "
            "for tokens."
        )
    if recipe.pooling == "cls":
        raise RecipeError(
            "pooling=cls is not possible with pixels=values, as rows have no "
            "mark of the start: allowed is mean or packed."
        )


def image_size(recipe: LRARecipe) -> int:
    """Pixels along a side of the pictures.

    Args:
        recipe: of a task with pictures.
    """
    size = recipe.image_size or TASKS[recipe.task].picture
    assert size is not None
    return size


def row_length(recipe: LRARecipe) -> int:
    """Tokens or pixel values that the model sees of an example.

    Args:
        recipe: a recipe that passed `check`.
    """
    if recipe.sequence_length is not None:
        return recipe.sequence_length
    if recipe.task == "listops":
        assert recipe.max_length is not None
        return recipe.max_length - 1 + recipe.add_cls + recipe.add_eos
    return _picture_length(recipe)


def _picture_length(recipe: LRARecipe) -> int:
    pixels = image_size(recipe) ** 2
    if recipe.pixels == "values":
        return pixels
    return pixels + recipe.add_cls + recipe.add_eos


def num_classes(recipe: LRARecipe) -> int:
    """Classes that the model chooses from."""
    return recipe.num_classes or TASKS[recipe.task].num_classes
