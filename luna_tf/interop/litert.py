"""Export of the part from token ids on as a LiteRT (TFLite) file."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from luna_tf.interop.saved_model import check_float32, quiet


@dataclasses.dataclass(frozen=True)
class LiteRTReport:
    """What was written, and how it compares.

    Args:
        size: of the file, in bytes.
        largest_difference: between an output of the file and of the model, for
            random token ids.
        largest_output: of the model, for scale.
    """

    size: int
    largest_difference: float
    largest_output: float


def export_litert(
    task: Any, path: str | os.PathLike, length: int, seed: int = 0
) -> LiteRTReport:
    """Writes a LiteRT file, and runs it beside the model.

    Its input is `token_ids`, int32 `(1, length)`, padded with the tokenizer's
    padding; its output what the model returns for them: `logits` of all tokens
    of a `LunaMaskedLM`, `(1, length, V)`, or those of a `LunaTextClassifier`,
    `(1, classes)`.

    Args:
        task: one of the two, in float32. Without a preprocessor, 0 is padding.
        path: file to write.
        length: tokens of a row.
        seed: of the token ids that are tried.

    Returns:
        Size and differences.

    Raises:
        ValueError: `task` computes in another type than float32, or has fewer
            learned positions.

    Example:

    >>> from luna_tf.models import LunaBackbone, LunaTextClassifier
    >>> backbone = LunaBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4)
    >>> task = LunaTextClassifier(backbone, num_classes=2)
    >>> path = "model.tflite"
    >>> report = export_litert(task, path, length=16)  # doctest: +SKIP
    >>> report.largest_difference < 1e-5  # doctest: +SKIP
    True
    """
    from luna_tf.models import LunaMaskedLM

    check_float32(task)
    backbone = task.backbone
    limit = backbone.max_sequence_length
    if backbone.position_embedding == "learned" and length > limit:
        raise ValueError(
            f"`length` must be at most the {limit:,} learned positions of "
            f"`task`. Received: {length:,}"
        )
    pad_id = 0
    if task.preprocessor is not None:
        pad_id = task.preprocessor.tokenizer.pad_token_id

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {
            "token_ids": token_ids,
            "padding_mask": tf.cast(token_ids != pad_id, tf.int32),
        }
        if isinstance(task, LunaMaskedLM):
            inputs["mask_positions"] = tf.range(length)[None]
        return {"logits": task(inputs, training=False)}

    # By way of a SavedModel, which makes constants of the weights.
    archive = keras.export.ExportArchive()
    archive.track(task)
    spec = tf.TensorSpec([1, length], tf.int32, name="token_ids")
    archive.add_endpoint("token_ids", serve, [spec])
    with tempfile.TemporaryDirectory() as folder, quiet():
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["token_ids"]
        )
        content = converter.convert()
    # A kill leaves the old file or the new one.
    with open(f"{path}.unfinished", "wb") as file:
        file.write(content)
    os.replace(f"{path}.unfinished", path)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, backbone.vocabulary_size, (1, length), "int32")
    ids[:, length * 3 // 4 :] = pad_id
    expected = serve(tf.constant(ids))["logits"].numpy()
    with warnings.catch_warnings():
        # TensorFlow would rather have its successor, another package, used.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    got = next(iter(runner(token_ids=ids).values()))
    return LiteRTReport(
        len(content),
        float(np.abs(got - expected).max()),
        float(np.abs(expected).max()),
    )
