"""Beam search against an exhaustive search and a search in plain Python."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from luna_tf.ops.search import beam_search

VOCABULARY, END, LONGEST = 5, 1, 4


@pytest.fixture(scope="module")
def tables():
    """Log probabilities by (row, token, position, next token)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, VOCABULARY, LONGEST, VOCABULARY)) * 2
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def model(tables):
    """A model whose cache says in which row of the tables a beam looks."""
    rows = len(tables)
    flat = np.reshape(tables, (-1, VOCABULARY)).astype("float32")

    def next_logits(token_ids, cache, index):
        place = cache["row"] * VOCABULARY + token_ids[:, 0]
        logits = ops.take(flat, place * LONGEST + cache["index"], axis=0)
        in_step = ops.equal(cache["index"], index)[:, None]
        logits = ops.where(in_step, logits, float("nan"))
        return logits[:, None], {
            "row": cache["row"],
            "index": cache["index"] + 1,
        }

    cache = {
        "row": ops.arange(rows, dtype="int32"),
        "index": ops.zeros(rows, "int32"),
    }
    return next_logits, cache


def search(tables, beam_size, **kwargs):
    next_logits, cache = model(tables)
    start = ops.zeros(len(tables), "int32")
    kwargs = {"max_length": LONGEST, **kwargs}
    found = beam_search(next_logits, cache, start, END, beam_size, **kwargs)
    return [ops.convert_to_numpy(x) for x in found]


def log_prob(table, tokens):
    last, total = 0, 0.0
    for index, token in enumerate(tokens):
        total += table[last, index, token]
        last = token
    return total


def all_hypotheses(table, penalty, longest=LONGEST):
    """Every finished sequence with its score, best first."""
    others = [t for t in range(VOCABULARY) if t != END]
    found = []
    for length in range(longest):
        for body in itertools.product(others, repeat=length):
            tokens = (*body, END)
            score = log_prob(table, tokens) / len(tokens) ** penalty
            found.append((score, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(tables, penalty):
    # Wide enough that no prefix is ever lost; it stops at the limit only.
    beams = 4**3
    token_ids, lengths, scores = search(tables, beams, length_penalty=penalty)
    for row, table in enumerate(tables):
        expected = all_hypotheses(table, penalty)[:20]
        for rank, (score, tokens) in enumerate(expected):
            assert scores[row, rank] == pytest.approx(score, abs=1e-5)
            assert lengths[row, rank] == len(tokens)
            padded = [*tokens] + [END] * (LONGEST - len(tokens))
            assert token_ids[row, rank].tolist() == padded


def plain_search(table, beam_size, penalty, longest):
    """The same rules with lists."""
    alive, finished = [(0.0, ())], []
    for length in range(1, longest + 1):
        grown = []
        for _, tokens in alive:
            for token in range(VOCABULARY):
                if length == longest and token != END:
                    continue
                new = (*tokens, token)
                grown.append((log_prob(table, new), new))
        grown = sorted(grown, reverse=True)[: 2 * beam_size]
        finished += [
            (total / length**penalty, tokens)
            for total, tokens in grown
            if tokens[-1] == END
        ]
        finished = sorted(finished, reverse=True)[:beam_size]
        alive = [g for g in grown if g[1][-1] != END][:beam_size]
        if not alive or (
            len(finished) == beam_size
            and finished[-1][0] >= alive[0][0] / length**penalty
        ):
            break
    return finished


@pytest.mark.parametrize("beam_size", [1, 2, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_agrees_with_the_same_rules_in_python(tables, beam_size, penalty):
    limits = np.array([4, 2, 3], "int32")
    token_ids, lengths, scores = search(
        tables, beam_size, length_penalty=penalty, max_lengths=limits
    )
    for row, table in enumerate(tables):
        expected = plain_search(table, beam_size, penalty, limits[row])
        for rank in range(beam_size):
            if rank >= len(expected):
                assert lengths[row, rank] == 0
                continue
            score, tokens = expected[rank]
            assert scores[row, rank] == pytest.approx(score, abs=1e-5)
            got = token_ids[row, rank, : lengths[row, rank]]
            assert tuple(got) == tokens


def test_a_row_does_not_depend_on_the_others(tables):
    together = search(tables, 2)
    for row in range(3):
        alone = search(tables[row : row + 1], 2)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compiles with TensorFlow"
)
def test_compiles_and_takes_a_batch_of_unknown_size(tables):
    expected = search(tables, 3)

    @tf.function(jit_compile=True)
    def compiled(rows):
        tensor = tf.gather(tf.constant(tables, tf.float32), rows)

        def next_logits(token_ids, cache, index):
            logits = tf.gather(cache[0], index, axis=2)
            logits = tf.gather(logits, token_ids, axis=1, batch_dims=1)
            return logits, cache

        return tuple(
            beam_search(
                next_logits, (tensor,), tf.zeros_like(rows), END, 3, LONGEST
            )
        )

    for given in (
        compiled.get_concrete_function(tf.TensorSpec([3], tf.int32)),
        compiled.get_concrete_function(tf.TensorSpec([None], tf.int32)),
    ):
        for a, b in zip(given(tf.range(3)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("beam_size", 0), ("max_length", 0), ("length_penalty", -1.0)],
)
def test_bad_arguments_are_refused(tables, name, value):
    given = {"beam_size": 2, "max_length": 4, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must .*{value}"):
        search(tables, **given)
