"""Export of a translation model as a SavedModel from text to text."""

from __future__ import annotations

import os
from typing import Any

import keras
import sentencepiece
import tensorflow as tf
import tensorflow_text as tf_text

from luna_tf.interop.saved_model import check_float32, quiet
from luna_tf.models.translation import translate


def longest_translation(max_source_length: int, ratio: float) -> int:
    """Tokens of the longest translation that a search may come to.

    Learned positions must cover so many.

    Args:
        max_source_length: tokens of the longest source, its end included.
        ratio: `max_length_ratio` of `luna_tf.models.translation.translate`.

    Returns:
        The limit that `translate` sets for the longest source, in tokens, the
        end of the translation included.

    Example:

    >>> longest_translation(64, 1.5)
    106
    """
    return int(max_source_length * ratio) + 10


def export_translator(
    model: keras.Model,
    vocabulary: bytes,
    path: str | os.PathLike,
    max_source_length: int,
    beam_size: int = 4,
    length_penalty: float = 1.0,
    max_length_ratio: float = 1.5,
) -> None:
    """Writes a SavedModel that takes sentences and returns translations.

    It holds the vocabulary and the beam search, and needs TensorFlow and
    tensorflow_text to run, neither luna_tf nor KerasHub. Its signature
    `serving_default` takes `text`, strings of shape `(batch,)`, and returns
    `translation`, strings `(batch,)`, and all hypotheses, best first:
    `hypotheses`, strings `(batch, beam_size)`, and `scores`, float32 of the
    same shape. Empty text gives an empty translation.

    Args:
        model: `LunaSeq2SeqLM`, in float32.
        vocabulary: SentencePiece model with ids for the end of a sentence and
            for padding.
        path: folder to write.
        max_source_length: longer sentences are cut to so many subwords, their
            end included.
        beam_size: see `luna_tf.models.translation.translate`.
        length_penalty: see there.
        max_length_ratio: see there.

    Raises:
        ValueError: `model` computes in another type than float32, its
            vocabulary has another size, or `vocabulary` lacks a special id.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.data import parallel
    >>> from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
    >>> pairs = parallel.read_tsv(parallel.sample_path(), "en", "es")
    >>> proto = parallel.train_vocabulary(pairs.sources[:300], size=400)
    >>> model = LunaSeq2SeqLM(LunaSeq2SeqBackbone(
    ...     vocabulary_size=400, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> export_translator(
    ...     model, proto, "exported", max_source_length=16)  # doctest: +SKIP
    >>> import tensorflow_text  # the subwords are its operations
    >>> exported = tf.saved_model.load("exported")  # doctest: +SKIP
    >>> serve = exported.signatures["serving_default"]  # doctest: +SKIP
    >>> found = serve(text=tf.constant(["Good morning."]))  # doctest: +SKIP
    >>> sorted(found)  # doctest: +SKIP
    ['hypotheses', 'scores', 'translation']
    """
    check_float32(model)
    tokenizer = tf_text.SentencepieceTokenizer(model=vocabulary)
    size = int(tokenizer.vocab_size())
    expected = model.backbone.vocabulary_size
    if size != expected:
        raise ValueError(
            f"`vocabulary` must have the {expected:,} subwords of `model`. "
            f"Received: {size:,}"
        )
    # By their roles: the pieces may have any names.
    special = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    end_id, padding_id = int(special.eos_id()), int(special.pad_id())
    if min(end_id, padding_id) < 0:
        raise ValueError(
            "`vocabulary` must have ids for the end of a sentence and for "
            f"padding. Received: {end_id} and {padding_id} (-1: none)"
        )
    max_length = longest_translation(max_source_length, max_length_ratio)

    def serve(text: tf.Tensor) -> dict[str, Any]:
        tokens = tokenizer.tokenize(tf.strings.strip(text))
        tokens = tokens[:, : max_source_length - 1]
        has_text = tokens.row_lengths() > 0
        ends = tf.fill([tf.shape(text)[0], 1], end_id)
        ids = tf.concat([tokens, ends], axis=1).to_tensor(padding_id)
        found = translate(
            model,
            ids,
            tf.cast(ids != padding_id, tf.int32),
            end_id,
            beam_size,
            max_length,
            length_penalty,
            max_length_ratio,
        )
        # Without the end token; the library would keep it as a word.
        lengths = tf.maximum(tf.reshape(found.lengths, [-1]) - 1, 0)
        ragged = tf.RaggedTensor.from_tensor(
            tf.reshape(found.token_ids, [-1, max_length]), lengths
        )
        hypotheses = tf.reshape(tokenizer.detokenize(ragged), [-1, beam_size])
        hypotheses = tf.where(has_text[:, None], hypotheses, "")
        return {
            "translation": hypotheses[:, 0],
            "hypotheses": hypotheses,
            "scores": found.scores,
        }

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(tokenizer)
    archive.add_endpoint(
        "serve",
        serve,
        input_signature=[tf.TensorSpec([None], tf.string, name="text")],
    )
    with quiet():
        archive.write_out(os.fspath(path), verbose=False)
