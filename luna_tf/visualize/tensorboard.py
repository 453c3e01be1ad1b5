"""Figures in TensorBoard while a Keras model trains."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf
from matplotlib.figure import Figure


class FigureLogger(keras.callbacks.Callback):
    """Draws figures of a model while `fit` runs, for TensorBoard's Images.

    It draws before the first epoch and after every `every`-th one, with the
    number of finished epochs as the step, and writes beside what
    `keras.callbacks.TensorBoard` writes.

    Args:
        log_dir: folder that TensorBoard reads, gs:// included.
        draw: takes the model, returns figures by name. What it costs is added
            to the epoch.
        every: epochs between two drawings.

    Raises:
        ValueError: `every` is below 1, or `draw` returns something else.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from luna_tf.visualize import comparison_curves
    >>> def draw(model):
    ...     bias = model.get_weights()[1]
    ...     curves = {"bias": (range(len(bias)), bias)}
    ...     return {"bias": comparison_curves(curves, "unit", "bias")}
    >>> model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    >>> model.compile("sgd", "mse", jit_compile=False)
    >>> x, y = np.ones((8, 8)), np.ones((8, 4))
    >>> logger = FigureLogger("logs", draw)
    >>> _ = model.fit(x, y, callbacks=[logger], verbose=0)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        draw: Callable[[keras.Model], Mapping[str, Figure]],
        every: int = 1,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: {every}")
        self.log_dir = os.fspath(log_dir)
        self.draw = draw
        self.every = every
        self._writer: tf.summary.SummaryWriter | None = None

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.log_dir)
            self._log(epoch)  # not 0 where training goes on

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        if (epoch + 1) % self.every == 0:
            self._log(epoch + 1)

    def on_train_end(self, logs: object = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _log(self, step: int) -> None:
        figures = self.draw(self.model)
        if not isinstance(figures, Mapping):
            raise ValueError(
                "`draw` must return figures by name, as in {'attention': "
                f"figure}}. Received: {figures!r}"
            )
        assert self._writer is not None
        with self._writer.as_default():
            for name, figure in figures.items():
                tf.summary.image(name, _pixels(figure), step=step)
            self._writer.flush()


def _pixels(figure: Figure) -> tf.Tensor:
    """uint8 `(1, height, width, 4)`."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return tf.io.decode_png(file.getvalue(), channels=4)[tf.newaxis]
