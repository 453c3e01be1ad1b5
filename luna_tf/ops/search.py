"""Beam search with finished hypotheses set aside and a length penalty."""

from typing import NamedTuple

import keras
from keras import ops

# Finite: the difference of two infinities would be NaN.
_IMPOSSIBLE = -1e30


class Hypotheses(NamedTuple):
    """The best sequences found, best first.

    Attributes:
        token_ids: int32 `(batch, beams, max_length)`, without the start token;
            the end token and all after it are `end_id`.
        lengths: int32 `(batch, beams)`, tokens with the end token; 0 where
            fewer than `beams` hypotheses were finished.
        scores: float32 `(batch, beams)`, log probability over
            `length ** length_penalty`.
    """

    token_ids: object
    lengths: object
    scores: object


def beam_search(
    next_logits,
    cache,
    start_ids,
    end_id,
    beam_size,
    max_length,
    length_penalty=1.0,
    max_lengths=None,
):
    """Finds probable sequences, `beam_size` candidates at a time.

    A hypothesis that reaches the end token leaves the beam, so that its place
    goes to another one, and is ranked by

        log p(tokens) / length ** length_penalty,

    fairseq's rule. (Wu et al., 2016, section 7, divide by
    `((5 + length) / 6) ** length_penalty`.)
    A row is done when `beam_size` hypotheses are finished and none of those
    under way scores better at its present length; from then on its result is
    frozen, so that it does not depend on the other rows of the batch.

    Shapes are static and the loop is one `keras.ops.while_loop`: it runs in
    graphs, under XLA and inside of `strategy.run`. It has no gradient.

    Args:
        next_logits: `(token_ids, cache, index) -> (logits, cache)` for
            `batch * beam_size` rows: int32 `(rows, 1)` tokens at position
            `index` (int32 scalar) to logits `(rows, 1, vocabulary)`.
        cache: structure of tensors whose first axis is `batch`.
        start_ids: int32 `(batch,)`, the token at position 0.
        end_id: int, the token that ends a sequence.
        beam_size: int, candidates per row and hypotheses returned.
        max_length: int, most tokens of a hypothesis, end token included.
        length_penalty: float, 0 ranks by probability alone, which prefers
            short sequences.
        max_lengths: int32 `(batch,)`, a limit per row below `max_length`, or
            None.

    Returns:
        `Hypotheses`.

    Raises:
        ValueError: `beam_size` or `max_length` is below 1, or
            `length_penalty` below 0.

    Example:

    >>> import numpy as np
    >>> from luna_tf.ops import beam_search
    >>> # Whatever came before: token 2 with probability 0.6, the end with 0.4.
    >>> logits = np.log(np.array([[[1e-9, 0.4, 0.6]]], "float32"))
    >>> def next_logits(token_ids, cache, index):
    ...     return np.repeat(logits, token_ids.shape[0], axis=0), cache
    >>> found = beam_search(next_logits, {}, np.array([1]), end_id=1,
    ...                     beam_size=2, max_length=3, length_penalty=0.0)
    >>> np.array(found.token_ids).tolist()
    [[[1, 1, 1], [2, 1, 1]]]
    >>> print(np.exp(np.array(found.scores)).round(2))
    [[0.4  0.24]]
    """
    for name, value in (("beam_size", beam_size), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Got: {value}")
    if length_penalty < 0:
        raise ValueError(
            f"`length_penalty` must not be negative. Got: {length_penalty}"
        )
    start_ids = ops.cast(start_ids, "int32")
    batch = ops.shape(start_ids)[0]
    limits = ops.full((batch,), max_length, dtype="int32")
    if max_lengths is not None:
        limits = ops.minimum(limits, ops.cast(max_lengths, "int32"))
    # Python's own structure of the cache stays outside of the loop.
    template = cache
    cache = [
        ops.repeat(x, beam_size, axis=0) for x in keras.tree.flatten(template)
    ]
    positions = ops.arange(max_length, dtype="int32")

    # All beams begin alike: only the first counts.
    only_first = ops.where(
        ops.arange(beam_size, dtype="int32") == 0, 0.0, _IMPOSSIBLE
    )
    shape = (batch, beam_size)
    alive = (
        ops.full((*shape, max_length), end_id, dtype="int32"),
        ops.broadcast_to(only_first, shape),
        ops.broadcast_to(start_ids[:, None], shape),
    )
    finished = (
        ops.full((*shape, max_length), end_id, dtype="int32"),
        ops.zeros(shape, dtype="int32"),
        ops.full(shape, _IMPOSSIBLE, dtype="float32"),
    )
    done = ops.zeros((batch,), dtype="bool")

    def goes_on(index, done, alive, finished, cache):
        return ops.logical_not(ops.all(done))

    def step(index, done, alive, finished, cache):
        sequences, log_probs, last = alive
        logits, new_cache = next_logits(
            ops.reshape(last, (batch * beam_size, 1)),
            keras.tree.pack_sequence_as(template, list(cache)),
            index,
        )
        vocabulary = logits.shape[-1]
        steps = ops.log_softmax(ops.cast(logits[:, 0], "float32"), axis=-1)
        steps = ops.reshape(steps, (batch, beam_size, vocabulary))
        ends = ops.arange(vocabulary, dtype="int32") == end_id
        # At its limit a row can only end.
        full = (index + 1 >= limits)[:, None, None]
        steps = ops.where(
            ops.logical_and(full, ops.logical_not(ends)), _IMPOSSIBLE, steps
        )
        totals = ops.reshape(
            log_probs[:, :, None] + steps, (batch, beam_size * vocabulary)
        )
        # Twice as many as beams: at most one candidate of each beam ends.
        candidates = min(2 * beam_size, beam_size * vocabulary)
        totals, chosen = ops.top_k(totals, candidates)
        totals = ops.maximum(totals, _IMPOSSIBLE)
        parents = ops.cast(chosen // vocabulary, "int32")
        tokens = ops.cast(chosen % vocabulary, "int32")
        grown = ops.take_along_axis(sequences, parents[:, :, None], axis=1)
        grown = ops.where(positions == index, tokens[:, :, None], grown)
        ended = tokens == end_id

        length = index + 1
        penalty = ops.cast(length, "float32") ** length_penalty
        counts = ops.logical_and(ended, totals > 0.5 * _IMPOSSIBLE)
        counts = ops.logical_and(counts, ops.logical_not(done)[:, None])
        scores = ops.where(counts, totals / penalty, _IMPOSSIBLE)
        finished = _best(
            beam_size,
            (grown, finished[0]),
            (ops.full_like(tokens, 0) + length, finished[1]),
            (scores, finished[2]),
        )
        log_probs, places = ops.top_k(
            ops.where(ended, _IMPOSSIBLE, totals), beam_size
        )
        alive = (
            ops.take_along_axis(grown, places[:, :, None], axis=1),
            log_probs,
            ops.take_along_axis(tokens, places, axis=1),
        )
        done = ops.logical_or(
            ops.logical_or(done, length >= limits),
            finished[2][:, -1] >= log_probs[:, 0] / penalty,
        )
        rows = ops.arange(batch, dtype="int32")[:, None] * beam_size
        rows = rows + ops.take_along_axis(parents, places, axis=1)
        rows = ops.reshape(rows, (-1,))
        cache = [
            ops.take(x, rows, axis=0) for x in keras.tree.flatten(new_cache)
        ]
        return index + 1, done, alive, finished, cache

    state = (ops.zeros((), dtype="int32"), done, alive, finished, cache)
    state = ops.while_loop(goes_on, step, state, maximum_iterations=max_length)
    token_ids, lengths, scores = state[3]
    # A place that nothing filled has no tokens either.
    lengths = ops.where(scores > 0.5 * _IMPOSSIBLE, lengths, 0)
    return Hypotheses(token_ids, lengths, scores)


def _best(count, sequences, lengths, scores):
    """Merges new and old hypotheses and keeps the best."""
    scores, places = ops.top_k(ops.concatenate(scores, axis=1), count)
    lengths = ops.concatenate(lengths, axis=1)
    sequences = ops.concatenate(sequences, axis=1)
    return (
        ops.take_along_axis(sequences, places[:, :, None], axis=1),
        ops.take_along_axis(lengths, places, axis=1),
        scores,
    )
