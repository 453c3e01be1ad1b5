"""Which weights `luna-lra --mode=evaluate` tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError

from . import session

if TYPE_CHECKING:
    import keras

    from luna_tf.training.records import Evaluation
    from luna_tf.training.sources import IndexedSource

ALLOWED = (
    "best, the step of a checkpoint, or the path of a weights file, a .keras "
    "file or a SavedModel"
)


def is_saved_model(weights: str) -> bool:
    """Whether weights are the path of a SavedModel."""
    return files.exists(files.join(weights, "saved_model.pb"))


def check_predictions(path: str, mode: str) -> None:
    """Refuses answers without a place, or where nothing is answered.

    Args:
        path: what `--predictions` says.
        mode: what `--mode` says.

    Raises:
        RecipeError: saying what is allowed.
    """
    if mode not in ("train_and_evaluate", "evaluate"):
        raise RecipeError(
            f"--predictions={path} is not possible with --mode={mode}: it is "
            "for train_and_evaluate and evaluate."
        )
    folder = os.path.dirname(path)
    if not files.exists(folder or "."):
        raise RecipeError(
            f"--predictions={path} is not possible: there is no folder "
            f"{folder}."
        )


def check(weights: str, folder: str) -> None:
    """Refuses weights that are not there.

    Args:
        weights: what `--weights` says.
        folder: the model_dir, which is made if need be.

    Raises:
        RecipeError: saying what is allowed.
    """
    from luna_tf.training.checkpoints import Checkpoints

    checkpoints = files.join(folder, session.CHECKPOINTS)
    if weights == "best":
        session.check_trained(folder)
    elif weights.isdecimal():
        steps = Checkpoints(checkpoints, {}).steps()
        if int(weights) not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise RecipeError(
                f"--weights={weights} is not possible: there is no such "
                f"checkpoint in {checkpoints}. Those there: {there}."
            )
    elif not files.exists(weights):
        raise RecipeError(
            f"--weights={weights} is not possible: there is no such file. "
            f"Allowed is {ALLOWED}."
        )
    try:
        files.prepare_folder(folder)
    except OSError as error:
        raise RecipeError(
            f"--model_dir={folder} cannot be written to: {error}."
        ) from error


def load(network: keras.Model, weights: str, folder: str) -> None:
    """Gives a model the weights that a command asks for.

    Args:
        network: the model of the recipe.
        weights: what `--weights` says; a SavedModel is left alone.
        folder: the model_dir.

    Raises:
        RecipeError: they do not fit the recipe, or cannot be read.
    """
    from luna_tf.training.averaging import average_checkpoints
    from luna_tf.training.checkpoints import CheckpointError

    if is_saved_model(weights):
        return
    if weights.isdecimal():
        checkpoints = files.join(folder, session.CHECKPOINTS)
        try:
            average_checkpoints(network, checkpoints, [int(weights)])
        except CheckpointError as error:
            raise RecipeError(f"--weights={weights}: {error}") from error
        return
    path = weights
    if weights == "best":
        path = files.join(folder, session.BEST_WEIGHTS)
    try:
        if path.endswith(".keras"):
            files.read_by(path, lambda p: _copy_weights(p, network))
        else:
            files.read_by(path, network.load_weights)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"{path} does not fit the recipe: {reason}"
        ) from error


def _copy_weights(path: str, network: keras.Model) -> None:
    import keras

    model = keras.saving.load_model(path, compile=False)
    network.set_weights(model.get_weights())


def evaluate_saved_model(
    path: str, source: IndexedSource, batch_size: int, num_classes: int
) -> Evaluation:
    """Scores every example by the signature of a SavedModel.

    Args:
        path: folder of the SavedModel.
        source: the examples.
        batch_size: examples at a time.
        num_classes: of the recipe.

    Returns:
        As `Trainer.evaluate`.

    Raises:
        RecipeError: the SavedModel has no such signature, or is one of
            another recipe.
    """
    import tensorflow as tf

    from luna_tf.training.predicting import Predictor
    from luna_tf.training.records import Evaluation

    served = tf.saved_model.load(os.fspath(path))
    signature = served.signatures.get("serving_default")
    if signature is None or "logits" not in signature.structured_outputs:
        raise RecipeError(
            f"--weights={path} is not possible: allowed is a SavedModel whose "
            "signature serving_default returns logits."
        )
    classes = signature.structured_outputs["logits"].shape[-1]
    if classes != num_classes:
        raise RecipeError(
            f"--weights={path} is not possible: it has {classes} classes, the "
            f"recipe {num_classes}."
        )
    names = set(signature.structured_input_signature[1])

    def score(batch: Any) -> Any:
        if not names <= set(batch):
            raise RecipeError(
                f"--weights={path} is not possible: it wants "
                f"{', '.join(sorted(names))}, and the data have "
                f"{', '.join(sorted(batch))}."
            )
        inputs = {name: batch[name] for name in names}
        logits = signature(**inputs)["logits"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["labels"], logits
        )
        return losses, batch["labels"], tf.argmax(logits, -1, tf.int32)

    try:
        losses, labels, predictions = Predictor(score)(source, batch_size)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(
            f"--weights={path} does not fit the recipe, such as its "
            f"sequence_length: {str(error).partition(chr(10))[0]}"
        ) from error
    return Evaluation(
        float(np.mean(losses, dtype=np.float64)),
        {"accuracy": float(np.mean(predictions == labels))},
        float(len(labels)),
        predictions,
    )
