"""`softplus_base2` against the authors' values and its definition."""

import keras
import numpy as np
import pytest
from golden_cases import GoldenFile, assert_close

from luna_tf.ops import softplus_base2


def test_equals_the_official_values():
    data = GoldenFile("softplus_base2")
    x = data.below("scan/in/")["x"]
    got = keras.ops.convert_to_numpy(softplus_base2(x))
    assert got.dtype == np.float32
    assert_close(got, data.below("scan/out/")["softplus"], 1e-6)
    assert_close(got, data.below("scan/out64/")["softplus"], 1e-6)


def test_is_one_at_zero():
    assert float(softplus_base2(0.0)) == 1.0


def test_is_finite_and_exact_for_huge_arguments():
    x = np.array([-1e30, -300.0, 300.0, 1e30], "float32")
    got = keras.ops.convert_to_numpy(softplus_base2(x))
    np.testing.assert_array_equal(got, np.maximum(x, 0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_keeps_the_dtype(dtype):
    x = keras.ops.cast([0.0, 1.0], dtype)
    assert keras.backend.standardize_dtype(softplus_base2(x).dtype) == dtype
