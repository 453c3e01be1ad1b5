"""Causal products in chunks and in steps, against the sums themselves."""

import functools

import gradients
import keras
import numpy as np
import pytest

from luna_tf.ops import causal_product, causal_step

B, H, P, Q, CHUNK = 2, 3, 4, 2, 4
# Around multiples of the chunk, and nothing at all.
LENGTHS = [0, 1, 3, 4, 5, 7, 8, 9, 13]


@functools.cache
def draw(length):
    rng = np.random.default_rng(length)
    shapes = (B, length, H, P), (B, length, H, P), (B, length, H, Q)
    shapes = *shapes, (B, H, P, Q)
    return [rng.normal(size=s).astype("float32") for s in shapes]


def textbook(x, y, z, state):
    """All `(P, Q)` sums of all tokens, in float64."""
    x, y, z, state = (np.asarray(a, "float64") for a in (x, y, z, state))
    outer = np.einsum("bthp,bthq->bthpq", y, z)
    sums = np.cumsum(np.concatenate([state[:, None], outer], axis=1), axis=1)
    return np.einsum("bthp,bthpq->bthq", x, sums[:, 1:]), sums[:, -1]


def close(got, expected, tolerance=1e-5):
    for a, b in zip(got, expected, strict=True):
        a = keras.ops.convert_to_numpy(a)
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_sums_with_and_without_a_state(length):
    x, y, z, state = draw(length)
    close(
        causal_product(x, y, z, state, chunk_size=CHUNK),
        textbook(x, y, z, state),
    )
    zeros = np.zeros_like(state)
    close(causal_product(x, y, z, chunk_size=CHUNK), textbook(x, y, z, zeros))


@pytest.mark.parametrize("chunk_size", [1, 2, 9, 100])
def test_the_chunk_size_changes_nothing(chunk_size):
    x, y, z, state = draw(9)
    got = causal_product(x, y, z, state, chunk_size)
    close(got, textbook(x, y, z, state))


def test_steps_equal_the_parallel_form():
    x, y, z, state = draw(9)
    expected = textbook(x, y, z, state)
    outputs = []
    for t in range(9):
        output, state = causal_step(x[:, t], y[:, t], z[:, t], state)
        outputs.append(keras.ops.convert_to_numpy(output))
    close((np.stack(outputs, axis=1), state), expected)


@pytest.mark.parametrize("split", range(10))
def test_two_calls_equal_one(split):
    x, y, z, state = draw(9)
    cut = [(a[:, :split], a[:, split:]) for a in (x, y, z)]
    first, middle = causal_product(*(a for a, _ in cut), state, CHUNK)
    second, last = causal_product(*(b for _, b in cut), middle, CHUNK)
    outputs = keras.ops.concatenate([first, second], axis=1)
    close((outputs, last), textbook(x, y, z, state))


def test_a_token_sees_no_later_one():
    x, y, z, state = draw(9)
    before, _ = causal_product(x, y, z, state, CHUNK)
    for t in range(9):
        changed = [np.array(a) for a in (x, y, z)]
        for a in changed:
            a[:, t] += 1
        after, _ = causal_product(*changed, state, CHUNK)
        differs = np.abs(np.asarray(after) - np.asarray(before)).max((0, 2, 3))
        assert not differs[:t].any()
        assert (differs[t:] > 1e-3).all()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize("length", [3, 9])
def test_gradients_equal_central_differences(length, jit):
    names = "x", "y", "z", "state"
    arrays = dict(zip(names, draw(length), strict=True))
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=s) for s in ((B, length, H, Q), (B, H, P, Q))]
    cotangents = {
        name: w.astype("float32")
        for name, w in zip(("outputs", "last"), weights, strict=True)
    }

    def function(x, y, z, state):
        outputs, last = causal_product(x, y, z, state, CHUNK)
        return {"outputs": outputs, "last": last}

    _, got, _ = gradients.run(function, [], arrays, cotangents, jit)

    def loss(**arrays):
        return sum(
            (w * a).sum()
            for w, a in zip(weights, textbook(**arrays), strict=True)
        )

    # The loss has degree 2 in each argument at most: differences are exact.
    for name in names:
        direction = rng.normal(size=arrays[name].shape)
        up, down = (
            loss(**{**arrays, name: arrays[name] + sign * direction})
            for sign in (1, -1)
        )
        slope = (up - down) / 2
        assert (got[name] * direction).sum() == pytest.approx(slope, rel=1e-4)


def test_sums_of_bfloat16_are_in_float32():
    # In bfloat16 a sum of ones would stop at 256.
    ones = keras.ops.ones((1, 1000, 1, 1), "bfloat16")
    outputs, state = causal_product(ones, ones, ones)
    close(
        (outputs, state),
        (
            np.arange(1.0, 1001).reshape(1, -1, 1, 1),
            np.full((1, 1, 1, 1), 1000.0),
        ),
        0,
    )
    one = ones[:, 0]
    close(causal_step(one, one, one, state), ([[[1001.0]]], [[[[1001.0]]]]), 0)


def test_a_chunk_of_no_tokens_is_refused():
    x, y, z, _ = draw(3)
    with pytest.raises(ValueError, match="`chunk_size`.*at least 1.*Got: 0"):
        causal_product(x, y, z, chunk_size=0)
