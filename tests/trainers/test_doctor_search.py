"""The search for the largest size that fits."""

import pytest
from luna_tf.trainers.doctor_search import PRECISION, largest


@pytest.mark.parametrize("limit", [200, 250, 1000])
@pytest.mark.parametrize("start", [1, 3, 64, 200])
@pytest.mark.parametrize("top", [0, 1, 2, 3, 17, 63, 64, 65, 199, 200, 640])
def test_it_is_close_and_asks_little(top, start, limit):
    asked = []

    def fits(size):
        assert 1 <= size <= limit and size not in asked
        asked.append(size)
        return size <= top

    found = largest(fits, start, limit)
    if top == 0:
        assert found is None
    else:
        best = min(top, limit)
        assert found in asked
        assert best - max(1, found // PRECISION) < found <= best
    assert len(asked) <= 15
