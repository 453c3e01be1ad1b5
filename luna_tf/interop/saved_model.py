"""Export of a sequence classifier as a SavedModel."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging as absl_logging


def export_saved_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a classifier as a SavedModel with named inputs and outputs.

    The result needs TensorFlow alone: it loads where neither luna_tf nor
    Keras is installed. Its signature `serving_default` takes the input of the
    model by its name and in its shape, such as `token_ids`, int32 `(batch,
    length)`, both dynamic, and returns a dictionary of float32 tensors of
    shape `(batch, classes)`: `logits` and `probabilities`. Dropout is off.

    Args:
        model: functional model of one input that returns logits
            `(batch, classes)`. Build it in float32: other tools read a
            mixed-precision SavedModel badly or not at all.
        path: folder to write, created if need be.

    Raises:
        ValueError: when `model` computes in another type than float32.

    Example:

    >>> import keras
    >>> import tensorflow as tf
    >>> inputs = keras.Input([None], dtype="int32", name="token_ids")
    >>> x = keras.layers.Embedding(10, 4)(inputs)
    >>> x = keras.layers.GlobalAveragePooling1D()(x)
    >>> outputs = keras.layers.Dense(2, kernel_initializer="zeros")(x)
    >>> export_saved_model(keras.Model(inputs, outputs), "exported")
    >>> serve = tf.saved_model.load("exported").signatures["serving_default"]
    >>> serve(token_ids=tf.constant([[1, 5, 7, 2]]))["probabilities"].numpy()
    array([[0.5, 0.5]], dtype=float32)
    """
    check_float32(model)

    def serve(inputs: tf.Tensor) -> dict[str, Any]:
        logits = tf.cast(model(inputs, training=False), tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    (given,) = model.inputs
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        serve,
        input_signature=[
            tf.TensorSpec(given.shape, given.dtype, name=given.name)
        ],
    )
    with quiet():
        archive.write_out(os.fspath(path), verbose=False)


def check_float32(model: keras.Model) -> None:
    """Refuses a model that other tools would read badly or not at all.

    Args:
        model: the model to export.

    Raises:
        ValueError: when it computes in another type than float32.
    """
    # A functional model has the global policy; its layers may have another.
    for layer in (model, *model.layers):
        if layer.compute_dtype != "float32":
            raise ValueError(
                "`model` must compute in float32 to be exported: rebuild it "
                "with `dtype='float32'` and copy the weights with "
                "`set_weights(get_weights())`. Received: layer "
                f"{layer.name!r} that computes in {layer.compute_dtype}"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TensorFlow's notes on its progress off the terminal."""
    logger = logging.getLogger("tensorflow")
    level, verbosity = logger.level, absl_logging.get_verbosity()
    logger.setLevel(logging.WARNING)
    # Not by its logger: AutoGraph restores absl's verbosity, and with it the
    # level of the logger, after every function that it traces.
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        yield
    finally:
        absl_logging.set_verbosity(verbosity)
        logger.setLevel(level)
