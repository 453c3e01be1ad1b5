"""Positions that skip padding, and the sinusoidal table."""

import gradients
import keras
import numpy as np
import pytest
from golden_cases import GoldenFile, assert_close

from luna_tf.ops import sinusoidal_positions, token_positions

GOLDEN = GoldenFile("positions")
JIT = pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
PADDING = 1  # the official padding id; positions start after it


def run(function, jit, **inputs):
    outputs, _, _ = gradients.run(
        lambda **inputs: {"y": function(**inputs)}, [], inputs, jit=jit
    )
    return outputs["y"]


def case(name):
    return GOLDEN.below(f"{name}/in/")["tokens"], GOLDEN.below(f"{name}/out/")


@JIT
@pytest.mark.parametrize("name", ["tok0", "tok1"])
def test_token_positions_equal_the_official_ones(name, jit):
    tokens, expected = case(name)
    got = run(
        lambda tokens: token_positions(tokens != PADDING), jit, tokens=tokens
    )
    # Official positions count from padding id + 1, and padding gets the id.
    np.testing.assert_array_equal(got + PADDING + 1, expected["positions_pad1"])
    got = run(
        lambda tokens: token_positions(tokens == tokens), jit, tokens=tokens
    )
    np.testing.assert_array_equal(got, expected["positions_nopad"])


@JIT
@pytest.mark.parametrize("name", ["tok0", "tok1"])
def test_sinusoidal_code_of_tokens_equals_the_official_one(name, jit):
    tokens, expected = case(name)

    def encode(tokens):
        mask = keras.ops.not_equal(tokens, PADDING)
        code = sinusoidal_positions(token_positions(mask) + PADDING + 1, 10)
        return code * keras.ops.cast(mask, code.dtype)[..., None]

    got = run(encode, jit, tokens=tokens)
    assert_close(got, expected["sinusoidal_pad1"], 1e-6)
    # Incremental decoding takes the code of the last position, padded or not.
    last = sinusoidal_positions([[tokens.shape[1] + PADDING]], 10)
    assert_close(
        keras.ops.convert_to_numpy(last)[0],
        expected["sinusoidal_incremental_pad1"][0],
        1e-6,
    )


@JIT
@pytest.mark.parametrize("name", ["tok0", "tok1"])
def test_sinusoidal_code_without_padding_equals_the_official_one(name, jit):
    tokens, expected = case(name)
    rows = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    got = run(lambda rows: sinusoidal_positions(rows, 10), jit, rows=rows)
    assert_close(got, expected["sinusoidal_nopad"], 1e-6)


@JIT
@pytest.mark.parametrize("rows,dim", [(6, 8), (16, 24), (5, 7)])
def test_sinusoidal_table_equals_the_official_one(rows, dim, jit):
    expected = GOLDEN.below(f"table_n{rows}_d{dim}/out/")
    got = run(
        lambda rows: sinusoidal_positions(rows, dim),
        jit,
        rows=np.arange(rows),
    )
    assert got.dtype == np.float32
    assert_close(got, expected["projected_positions"], 1e-6)


def test_positions_do_not_depend_on_the_side_of_the_padding():
    left, right = [[0, 0, 1, 1]], [[1, 1, 0, 0]]
    got = [
        keras.ops.convert_to_numpy(token_positions(m)) for m in (left, right)
    ]
    np.testing.assert_array_equal(got[0], [[-1, -1, 0, 1]])
    np.testing.assert_array_equal(got[1], [[0, 1, -1, -1]])


def test_too_few_channels_raise():
    with pytest.raises(ValueError, match="`dim` must be at least 4.*Got: 3"):
        sinusoidal_positions([[0]], 3)
