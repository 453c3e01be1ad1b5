"""Beam search with a translation model."""

from typing import Any

from keras import ops

from luna_tf.ops.search import Hypotheses, beam_search


def translate(
    model: Any,
    encoder_token_ids: Any,
    encoder_padding_mask: Any,
    end_id: int,
    beam_size: int = 4,
    max_length: int = 128,
    length_penalty: float = 1.0,
    max_length_ratio: float | None = None,
    start_id: int | None = None,
) -> Hypotheses:
    """Translates token ids to token ids.

    `LunaSeq2SeqLM.generate` works with KerasHub's samplers, whose beam search
    goes on after the end of a hypothesis and knows no length penalty. This one
    does both right, for BLEU and for export. It runs eagerly, in graphs, under
    XLA and on every replica inside of `strategy.run`.

    Args:
        model: `LunaSeq2SeqLM`, or whatever has its `initial_cache` and
            `next_logits`.
        encoder_token_ids: int32 `(batch, source_length)`.
        encoder_padding_mask: `(batch, source_length)`, nonzero = keep.
        end_id: int, the token that ends a translation.
        beam_size: int, candidates; 1 is a greedy search.
        max_length: int, most tokens of a translation, its end included.
        length_penalty: float, see `luna_tf.ops.beam_search`.
        max_length_ratio: float, a further limit per row: this many times the
            tokens of its source, plus ten. None: no such limit.
        start_id: int, the token that decoding starts from; `end_id`, as in
            fairseq, when None.

    Returns:
        `Hypotheses`: token ids `(batch, beam_size, max_length)`, lengths and
        scores `(batch, beam_size)`, best first.

    Raises:
        ValueError: see `luna_tf.ops.beam_search`.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
    >>> model = LunaSeq2SeqLM(LunaSeq2SeqBackbone(
    ...     vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, packed_length=4))
    >>> ids = np.array([[5, 6, 2, 1]])
    >>> found = translate(model, ids, ids != 1, 2, beam_size=3, max_length=6)
    >>> tuple(found.token_ids.shape), tuple(found.scores.shape)
    ((1, 3, 6), (1, 3))
    """
    batch = ops.shape(encoder_token_ids)[0]
    limits = None
    if max_length_ratio is not None:
        tokens = ops.sum(ops.cast(encoder_padding_mask, "float32"), axis=1)
        limits = ops.cast(tokens * max_length_ratio, "int32") + 10
    cache = model.initial_cache(
        encoder_token_ids, encoder_padding_mask, max_length
    )
    return beam_search(
        model.next_logits,
        cache,
        ops.full((batch,), end_id if start_id is None else start_id, "int32"),
        end_id,
        beam_size,
        max_length,
        length_penalty,
        limits,
    )
