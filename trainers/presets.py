"""Presets: folders that KerasHub reads, with tokenizer and weights."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError


def check(path: str) -> None:
    """Refuses what is not the folder of a preset, without opening it.

    Args:
        path: a folder; on another file system (gs://) that takes seconds.

    Raises:
        RecipeError: it is none.
    """
    name = files.join(path, "config.json")
    if files.is_remote(path):
        # It knows all file systems, and takes seconds to import.
        import tensorflow as tf

        try:
            found = files.exists(name)
        except tf.errors.OpError as error:
            raise RecipeError(
                f"preset={path} cannot be read: {error.message}"
            ) from error
    else:
        found = os.path.isfile(name)
    if not found:
        raise RecipeError(
            f"preset={path} is not possible: allowed is the folder of a "
            "preset, with a config.json."
        )


def load_task(path: str, task: str | None = None, **arguments: Any) -> Any:
    """Opens a preset.

    Args:
        path: a folder, gs:// included.
        task: name of a class of `keras_hub.models`, such as
            `"TextClassifier"`; None opens it as what it was saved.
        **arguments: of `from_preset`.

    Returns:
        A task of `luna_tf.models`.

    Raises:
        RecipeError: the folder is not a preset of ours, or is damaged.
    """

    def load(folder: str) -> Any:
        return _load(folder, path, task, arguments)

    try:
        return files.read_folder_by(path, load)
    except OSError as error:
        raise RecipeError(f"preset={path} cannot be read: {error}") from error


def _load(
    folder: str, name: str, task: str | None, arguments: dict[str, Any]
) -> Any:
    import keras_hub
    import tensorflow as tf

    from luna_tf import models
    from luna_tf.models._task import check_vocabulary

    models.import_all()
    if task is None:
        task = _saved_as(folder, name)
    try:
        with warnings.catch_warnings():
            # Weights of a task come without their optimizer, of which Keras
            # warns.
            warnings.filterwarnings("ignore", "Skipping variable loading")
            cls = getattr(keras_hub.models, task)
            loaded = cls.from_preset(folder, **arguments)
        check_vocabulary(loaded.backbone, loaded.preprocessor)
        return loaded
    except (
        *(ValueError, OSError, KeyError, TypeError),
        tf.errors.OpError,
    ) as error:
        first = str(error).strip().partition("\n")[0]
        raise RecipeError(f"preset={name} is not usable: {first}") from error


_TASKS = {
    "luna_tf>LunaMaskedLM": "MaskedLM",
    "luna_tf>LunaTextClassifier": "TextClassifier",
}


def _saved_as(folder: str, preset: str) -> str:
    file = os.path.join(folder, "task.json")
    if not os.path.exists(file):
        raise RecipeError(
            f"preset={preset} holds no task.json: allowed is the folder of a "
            "LunaMaskedLM or LunaTextClassifier."
        )
    try:
        with open(file) as opened:
            name = json.load(opened)["registered_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"preset={preset}: task.json is damaged: {error}"
        ) from error
    # KerasHub would leave the head untrained.
    weights = os.path.join(folder, "task.weights.h5")
    if not os.path.exists(weights):
        raise RecipeError(f"preset={preset} holds no task.weights.h5.")
    if name not in _TASKS:
        raise RecipeError(
            f"preset={preset} holds a {name}: allowed are "
            f"{' and '.join(_TASKS)}."
        )
    return _TASKS[name]
