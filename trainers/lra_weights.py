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


def check(weights: str, folder: str) -> None:
    """Refuses weights that are not there.

    Args:
        weights: what `--weights` says.
        folder: the model_dir.

    Raises:
        RecipeError: saying what is allowed.
    """
    if weights == "best":
        session.check_trained(folder)
    elif not weights.isdecimal() and not files.exists(weights):
        raise RecipeError(
            f"--weights={weights} is not possible: there is no such file. "
            f"Allowed is {ALLOWED}."
        )


def load(network: keras.Model, weights: str, folder: str) -> None:
    """Gives a model the weights that a command asks for.

    Args:
        network: the model of the recipe.
        weights: what `--weights` says, but no SavedModel.
        folder: the model_dir.

    Raises:
        RecipeError: they do not fit the recipe, or cannot be read.
    """
    from luna_tf.training.averaging import average_checkpoints
    from luna_tf.training.checkpoints import CheckpointError

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
        raise RecipeError(f"{path} does not fit the recipe: {error}") from error


def _copy_weights(path: str, network: keras.Model) -> None:
    import keras

    model = keras.saving.load_model(path, compile=False)
    network.set_weights(model.get_weights())


def evaluate_saved_model(
    path: str, source: IndexedSource, batch_size: int
) -> Evaluation:
    """Scores every example by the signature of a SavedModel.

    Args:
        path: folder of the SavedModel.
        source: the examples.
        batch_size: examples at a time.

    Returns:
        As `Trainer.evaluate`.

    Raises:
        RecipeError: the SavedModel has no such signature.
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

    losses, labels, predictions = Predictor(score)(source, batch_size)
    return Evaluation(
        float(np.mean(losses, dtype=np.float64)),
        {"accuracy": float(np.mean(predictions == labels))},
        float(len(labels)),
        predictions,
    )
