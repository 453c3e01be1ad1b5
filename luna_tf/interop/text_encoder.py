"""Export of masked language models and text classifiers, from text on."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from luna_tf.interop.saved_model import check_float32, quiet

# What stands for the hidden word in a text, whatever the vocabulary calls it.
MASK = "[MASK]"


def export_text_model(
    task: Any,
    path: str | os.PathLike,
    top_k: int = 5,
    max_length: int | None = None,
) -> None:
    """Writes a SavedModel that takes strings.

    It holds the tokenizer, and needs TensorFlow and tensorflow_text to run,
    neither luna_tf nor KerasHub. Batch and length are dynamic; texts are cut
    to `max_length` tokens. Its signatures:

    - `fill_mask` of a `LunaMaskedLM`, which is `serving_default`: `text`,
      strings `(batch,)` with one `[MASK]` each, to `tokens`, strings
      `(batch, top_k)`, likeliest first, and `probabilities` of the same shape.
      A text without `[MASK]` gets empty strings and zeros.
    - `classify` of a `LunaTextClassifier`, which is `serving_default`: `text`
      to `logits` and `probabilities`, `(batch, classes)`, and `label`, int32
      `(batch,)`; with one class, the `score` `(batch,)` of a regressor.
      `classify_pair` takes `text` and `text_pair`.
    - `embed`: `text` to `first` and `mean`, `(batch, D)`, the vector of the
      first token and the mean of those of all tokens, and with Luna attention
      `packed` `(batch, D)`, the mean of the packed sequence.
    - `token_ids`: `token_ids`, int32 `(batch, length)`, padded, to the same as
      `classify`, or to the `logits` of all tokens.

    Args:
        task: `LunaMaskedLM` or `LunaTextClassifier` with a preprocessor, in
            float32.
        path: folder to write.
        top_k: candidates of `fill_mask`.
        max_length: tokens of the longest text. Defaults to the preprocessor's.

    Raises:
        ValueError: `task` has no preprocessor, computes in another type than
            float32, or has fewer positions or tokens than are asked for.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf import models
    >>> tokenizer = models.LunaWordPieceTokenizer(
    ...     ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "moon"])
    >>> task = models.LunaMaskedLM(
    ...     models.LunaBackbone(
    ...         vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=8,
    ...         intermediate_dim=16, packed_length=4),
    ...     models.LunaMaskedLMPreprocessor(tokenizer, sequence_length=16))
    >>> export_text_model(task, "exported", top_k=2)  # doctest: +SKIP
    >>> import tensorflow_text  # the subwords are its operations
    >>> exported = tf.saved_model.load("exported")  # doctest: +SKIP
    >>> serve = exported.signatures["fill_mask"]  # doctest: +SKIP
    >>> found = serve(text=tf.constant(["the [MASK]"]))  # doctest: +SKIP
    >>> found["tokens"].shape  # doctest: +SKIP
    TensorShape([1, 2])
    """
    check_float32(task)
    if task.preprocessor is None:
        raise ValueError(
            "`task` must have a preprocessor, or there is no tokenizer to "
            "export. Received: None"
        )
    server = _Server(task, max_length, top_k)
    archive = keras.export.ExportArchive()
    archive.track(task)
    archive.track(server.tokenizer)
    text = tf.TensorSpec([None], tf.string, name="text")
    pair = tf.TensorSpec([None], tf.string, name="text_pair")
    ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
    if server.is_masked_lm:
        archive.add_endpoint("fill_mask", server.fill_mask, [text])
        archive.add_endpoint("serving_default", server.fill_mask, [text])
    else:
        archive.add_endpoint("classify", server.classify, [text])
        archive.add_endpoint("serving_default", server.classify, [text])
        archive.add_endpoint(
            "classify_pair", server.classify_pair, [text, pair]
        )
    archive.add_endpoint("embed", server.embed, [text])
    archive.add_endpoint("token_ids", server.outputs, [ids])
    with quiet():
        archive.write_out(os.fspath(path), verbose=False)


class _Server:
    """The functions of the SavedModel."""

    def __init__(self, task: Any, max_length: int | None, top_k: int) -> None:
        from luna_tf.models import LunaByteTokenizer, LunaMaskedLM

        backbone, preprocessor = task.backbone, task.preprocessor
        self.task = task
        self.backbone = backbone
        self.tokenizer = preprocessor.tokenizer
        self.is_masked_lm = isinstance(task, LunaMaskedLM)
        self.max_length = max_length or preprocessor.sequence_length
        if backbone.num_segments:
            raise ValueError(
                "`task` must have a backbone without segments to be exported. "
                f"Received: num_segments={backbone.num_segments}"
            )
        if not self.is_masked_lm and task.num_classes > 1:
            known = keras.activations.linear, keras.activations.softmax
            if task.activation not in known:
                raise ValueError(
                    "`task` with several classes must have the activation None "
                    "or 'softmax' to be exported. Received: "
                    f"{keras.activations.serialize(task.activation)!r}"
                )
        backbone_limit = backbone.max_sequence_length
        if (
            backbone.position_embedding == "learned"
            and self.max_length > backbone_limit
        ):
            raise ValueError(
                f"`max_length` must be at most the {backbone_limit:,} learned "
                f"positions of `task`. Received: {self.max_length:,}"
            )
        if not 1 <= top_k <= backbone.vocabulary_size:
            raise ValueError(
                "`top_k` must be from 1 to the vocabulary's "
                f"{backbone.vocabulary_size:,}. Received: {top_k}"
            )
        self.top_k = top_k
        self.pad_id = self.tokenizer.pad_token_id
        self._words = None
        # Only bytes have a space as a token of its own: subwords would make
        # one of a space before the blank that no text has.
        self._has_spaces = isinstance(self.tokenizer, LunaByteTokenizer)
        if self.is_masked_lm:
            self._words = tf.constant(token_texts(self.tokenizer))
            allowed = np.zeros(backbone.vocabulary_size, "float32")
            allowed[self.tokenizer.unguessable_token_ids] = -np.inf
            self._allowed = tf.constant(allowed)

    def _tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        return tf.cast(self.tokenizer(text), tf.int32)

    def _column(self, rows: tf.Tensor, token: int) -> tf.Tensor:
        return tf.fill([rows, 1], token)

    def _framed(self, *parts: Any) -> tf.Tensor:
        """Dense ids of ragged parts, between start and end."""
        rows = parts[0].nrows()
        start = self._column(rows, self.tokenizer.start_token_id)
        end = self._column(rows, self.tokenizer.end_token_id)
        ragged = tf.concat([start, *parts, end], axis=1)
        return ragged.to_tensor(self.pad_id)

    def _inputs(self, token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        mask = tf.cast(token_ids != self.pad_id, tf.int32)
        return {"token_ids": token_ids, "padding_mask": mask}

    def _ids(self, text: tf.Tensor) -> tf.Tensor:
        return self._framed(self._tokens(text)[:, : self.max_length - 2])

    def fill_mask(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        place = tf.strings.regex_replace(
            text, r"(?s)\[MASK\].*", "", replace_global=False
        )
        has_mask = tf.strings.regex_full_match(text, r"(?s).*\[MASK\].*")
        # Only the first is hidden; what follows it is text.
        rest = tf.strings.substr(
            text,
            tf.minimum(
                tf.strings.length(place) + len(MASK), tf.strings.length(text)
            ),
            tf.fill(tf.shape(text), 2**30),
        )
        if not self._has_spaces:
            place = tf.strings.regex_replace(place, r"\s+$", "")
        before, after = self._tokens(place), self._tokens(rest)
        # The blank stays inside, however long the text is.
        room = self.max_length - 3
        sizes = tf.cast(before.row_lengths(), tf.int32)
        others = tf.cast(after.row_lengths(), tf.int32)
        kept = tf.minimum(sizes, tf.maximum(room - others, room // 2))
        before = _last(before, kept)
        after = _first(after, tf.minimum(others, room - kept))
        mask = self._column(before.nrows(), self.tokenizer.mask_token_id)
        ids = self._framed(before, mask, after)
        logits = self.task(
            {**self._inputs(ids), "mask_positions": kept[:, None] + 1},
            training=False,
        )[:, 0]
        shares = tf.nn.softmax(tf.cast(logits, tf.float32) + self._allowed)
        found = tf.math.top_k(shares, self.top_k)
        words = tf.gather(self._words, found.indices)
        is_there = has_mask[:, None]
        return {
            "tokens": tf.where(is_there, words, ""),
            "probabilities": tf.where(is_there, found.values, 0.0),
        }

    def classify(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.outputs(self._ids(text))

    def classify_pair(
        self, text: tf.Tensor, text_pair: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        first, second = self._tokens(text), self._tokens(text_pair)
        separators = self.task.preprocessor.num_separators
        room = self.max_length - 2 - separators
        sizes = tf.cast(first.row_lengths(), tf.int32)
        others = tf.cast(second.row_lengths(), tf.int32)
        if self.task.preprocessor.truncate == "waterfall":
            kept = tf.minimum(sizes, room)
        else:
            # Each may have half of the room, and what the other leaves.
            half = room - room // 2
            kept = tf.minimum(sizes, tf.maximum(room - others, half))
        first = _first(first, kept)
        second = _first(second, tf.minimum(others, room - kept))
        end = self._column(first.nrows(), self.tokenizer.end_token_id)
        middle = tf.repeat(end, separators, axis=1)
        return self.outputs(self._framed(first, middle, second))

    def outputs(self, token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = self._inputs(token_ids)
        if self.is_masked_lm:
            places = tf.range(tf.shape(token_ids)[1])[None]
            places = tf.broadcast_to(places, tf.shape(token_ids))
            logits = self.task(
                {**inputs, "mask_positions": places}, training=False
            )
            return {"logits": tf.cast(logits, tf.float32)}
        values = tf.cast(self.task(inputs, training=False), tf.float32)
        if self.task.num_classes == 1:
            return {"score": values[:, 0]}
        if self.task.activation is keras.activations.softmax:
            logits = tf.math.log(values)
        else:
            logits = values
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "label": tf.argmax(logits, axis=-1, output_type=tf.int32),
        }

    def embed(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = self._inputs(self._ids(text))
        found = self.backbone(inputs, training=False)
        x = tf.cast(found["sequence_output"], tf.float32)
        result = {"first": x[:, 0], "mean": _mean(x, inputs["padding_mask"])}
        if "packed_output" in found:
            p = tf.cast(found["packed_output"], tf.float32)
            result["packed"] = _mean(p, found["packed_padding_mask"])
        return result


def _mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    keep = tf.cast(mask, x.dtype)[..., None]
    count = tf.maximum(tf.reduce_sum(keep, axis=1), 1.0)
    return tf.reduce_sum(x * keep, axis=1) / count


def _first(ids: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """The first so many of each row."""
    places = tf.ragged.range(counts)
    return tf.gather(ids, places, batch_dims=1)


def _last(ids: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """The last so many of each row."""
    sizes = tf.cast(ids.row_lengths(), tf.int32)
    places = tf.ragged.range(sizes - counts, sizes)
    return tf.gather(ids, places, batch_dims=1)


def token_texts(tokenizer: Any) -> list[str]:
    """Returns the text of every token id, without space around it.

    Args:
        tokenizer: of `luna_tf.models`. What is no text by itself, such as one
            byte of several, shows U+FFFD.
    """
    size = tokenizer.vocabulary_size()
    texts = tokenizer.detokenize(tf.range(size)[:, None])
    return [_decoded(t).strip() for t in np.asarray(texts).ravel()]


def _decoded(text: Any) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
