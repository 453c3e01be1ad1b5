"""Translates whole sets of sentences with the model of a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from luna_tf.data.parallel import TokenLists, Vocabulary

_TOKENS_PER_BATCH = 4096
_SHAPES = 4


@dataclasses.dataclass(frozen=True)
class Translated:
    """The hypotheses of one sentence, best first, with their scores."""

    texts: list[str]
    scores: list[float]


class Translator:
    """Translates sentences in batches of few shapes, on all replicas.

    Args:
        network: `LunaSeq2SeqLM`.
        vocabulary: its subwords.
        strategy: where the model is.
        max_length: sources are cut to so many subwords, their end included.
        beam_size: see `luna_tf.models.translation.translate`.
        length_penalty: see there.
        max_length_ratio: see there.
        jit_compile: whether XLA compiles the search on one CPU or GPU.

    Example:

    >>> import tensorflow as tf
    >>> from luna_tf.data import parallel
    >>> from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
    >>> pairs = parallel.read_tsv(parallel.sample_path(), "en", "es")
    >>> proto = parallel.train_vocabulary(pairs.sources[:300], size=400)
    >>> vocabulary = parallel.Vocabulary(proto)
    >>> network = LunaSeq2SeqLM(LunaSeq2SeqBackbone(
    ...     vocabulary_size=400, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> strategy = tf.distribute.get_strategy()
    >>> translator = Translator(network, vocabulary, strategy, max_length=16)
    >>> [found] = translator(vocabulary.encode(["Good morning."]))
    >>> len(found.texts), len(found.scores)
    (1, 1)
    """

    def __init__(
        self,
        network: keras.Model,
        vocabulary: Vocabulary,
        strategy: tf.distribute.Strategy,
        max_length: int,
        beam_size: int = 1,
        length_penalty: float = 1.0,
        max_length_ratio: float = 1.5,
        jit_compile: bool = False,
    ) -> None:
        from luna_tf.training.predicting import Predictor

        self._network = network
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._replicas = strategy.num_replicas_in_sync
        self._options: dict[str, Any] = {
            "beam_size": beam_size,
            "length_penalty": length_penalty,
            "max_length_ratio": max_length_ratio,
        }
        self._ratio = max_length_ratio
        self.predictor = Predictor(self._translate, strategy, jit_compile)

    def _translate(self, batch: Any) -> Any:
        import tensorflow as tf

        from luna_tf.data.parallel.vocabulary import EOS_ID, PAD_ID
        from luna_tf.interop.translation import longest_translation
        from luna_tf.models.translation import translate

        token_ids = batch["encoder_token_ids"]
        return translate(
            self._network,
            token_ids,
            tf.cast(token_ids != PAD_ID, tf.int32),
            EOS_ID,
            max_length=longest_translation(token_ids.shape[1], self._ratio),
            **self._options,
        )

    def __call__(self, sources: TokenLists) -> list[Translated]:
        """Translates sentences.

        Args:
            sources: their subwords, without special tokens.

        Returns:
            As many `Translated`, in order.
        """
        import numpy as np

        from luna_tf.data.parallel import choose_shapes, fill
        from luna_tf.data.parallel.batches import gather
        from luna_tf.training.sources import IndexedSource

        # The target has no part in it: every source is its own.
        lengths = np.minimum(sources.lengths, self._max_length - 1)
        shapes = choose_shapes(
            lengths,
            lengths,
            max(_TOKENS_PER_BATCH, self._replicas * self._max_length),
            self._max_length,
            self._max_length,
            _SHAPES,
            self._replicas,
        )
        found: dict[int, Translated] = {}
        for bucket in fill(shapes, lengths, lengths).buckets:
            source = IndexedSource(
                len(bucket.indices), gather(sources, sources, bucket)
            )
            rows = bucket.shape.rows
            hypotheses = self.predictor(source, min(rows, self._rows(source)))
            for index, *row in zip(bucket.indices, *hypotheses, strict=True):
                found[int(index)] = self._read(*row)
        return [found[index] for index in range(len(sources))]

    def _rows(self, source: Any) -> int:
        """No more rows than there are sentences."""
        return -(-source.size // self._replicas) * self._replicas

    def _read(self, token_ids: Any, lengths: Any, scores: Any) -> Translated:
        # A beam may finish fewer hypotheses than it has places.
        ids = [
            row[: length - 1]
            for row, length in zip(token_ids, lengths, strict=True)
            if length
        ]
        return Translated(
            self._vocabulary.decode(ids), [float(s) for s in scores[: len(ids)]]
        )
