"""Path-X, 16,386 tokens, trains in bounded memory."""

import json

import children
import numpy as np
import pytest

from luna_tf.benchmark import memory


@pytest.mark.slow
@pytest.mark.multiprocess
def test_path_x_needs_less_than_half_a_score_matrix_of_one_head():
    output = children.run("models/path_x_child.py", **memory.ENVIRONMENT)
    result = json.loads(output.splitlines()[-1])
    # Softmax attention keeps at least one of these for each of four heads.
    scores = 4 * result["length"] ** 2
    assert 0 < result["extra"] < scores / 2, result["extra"]
    assert np.isfinite(result["losses"]).all()
    assert result["losses"][-1] < result["losses"][0]
