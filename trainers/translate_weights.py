"""Which weights of a translation run are tested and exported."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from luna_tf.training import files, recipes
from luna_tf.training.recipes import RecipeError

from . import flags, session
from .translate_recipe import PROGRAM, TranslateRecipe
from .translate_report import MEAN_WEIGHTS

if TYPE_CHECKING:
    import keras

    from luna_tf.training.records import TrainingResult
    from luna_tf.training.sources import BucketedSource
    from luna_tf.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a model holds.

    Args:
        name: which weights these are, in words.
        validation_loss: theirs, None when not known.
    """

    name: str
    validation_loss: float | None = None


def read(network: keras.Model, folder: str) -> Weights:
    """Reads the weights that a finished run tested.

    Args:
        network: made by the same recipe; it gets them.
        folder: the model_dir.

    Raises:
        RecipeError: the weights are those of another model.
    """
    name = MEAN_WEIGHTS
    if not files.exists(files.join(folder, name)):
        name = session.BEST_WEIGHTS
    path = session.read_weights(network, folder, name)
    return Weights(f"read from {path}")


def num_positions(recipe: TranslateRecipe, folder: str) -> int:
    """Positions of the model whose weights a folder holds.

    Args:
        recipe: that of now; what it says of the search may have changed.
        folder: the model_dir.

    Returns:
        As many as were trained, where they are learned.

    Raises:
        RecipeError: the recipe of now needs more than were learned.
    """
    needed = recipe.num_positions()
    if recipe.position_embedding != "learned":
        return needed
    path = files.join(folder, "recipe.yaml")
    values = recipes.read_yaml(path, PROGRAM.folder)
    before = recipes.build(TranslateRecipe, values, path)
    trained = before.num_positions()
    if needed > trained:
        raise RecipeError(
            f"max_length_ratio={recipe.max_length_ratio:g} with max_length="
            f"{recipe.max_length} needs {needed:,} learned positions, but the "
            f"weights in --model_dir={folder} have {trained:,}: allowed is "
            f"what max_length_ratio={before.max_length_ratio:g} with "
            f"max_length={before.max_length} needs, or less."
        )
    return trained


def choose(
    trainer: Trainer,
    command: flags.Command,
    is_chief: bool,
    validation: BucketedSource,
    trained: TrainingResult,
) -> Weights:
    """Tries the mean of the last checkpoints; the model keeps what is better.

    Validations are made at the same steps however often a run was stopped or
    saved in between, so only checkpoints of validations have a part in it.

    Args:
        trainer: whose model holds the weights of the best validation.
        command: from `flags.parse`; a better mean is written to its folder.
        is_chief: whether this process writes.
        validation: what to compare by.
        trained: what training gave.

    Returns:
        What the model holds then.
    """
    best = trained.best_evaluation
    assert best is not None
    single = Weights("of the best validation", best.loss)
    recipe, folder = command.recipe, command.model_dir
    if not recipe.average_checkpoints:
        return single
    from luna_tf.training.averaging import average_checkpoints, last_steps

    network = trainer.loop.model
    before = network.get_weights()
    checkpoints = files.join(folder, session.CHECKPOINTS)
    steps = last_steps(
        checkpoints, recipe.average_checkpoints, recipe.eval_every
    )
    average_checkpoints(network, checkpoints, steps)
    loss = trainer.evaluate(validation).loss
    name = f"mean of steps {', '.join(f'{step:,}' for step in steps)}"
    print(
        f"{name.capitalize()}: validation loss {loss:.3f}, best single one "
        f"{best.loss:.3f}",
        flush=True,
    )
    if loss >= best.loss:
        network.set_weights(before)
        return single
    if is_chief:
        for file, save in (
            (MEAN_WEIGHTS, network.save_weights),
            ("model.keras", network.save),
        ):
            files.write_by(files.join(folder, file), save)
    return Weights(name, loss)
