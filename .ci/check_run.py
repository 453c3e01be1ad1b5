"""Checks the result of a run and calls its SavedModel without luna_tf.

Usage: python .ci/check_run.py MODEL_DIR
"""

import json
import pathlib
import sys

sys.modules["luna_tf"] = None  # any import of it now fails

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from by_cli import probabilities as probabilities_by_cli  # noqa: E402

folder = pathlib.Path(sys.argv[1])
results = json.loads((folder / "results.json").read_text())
assert results["margin_points"] > 15, results["margin_points"]
model = tf.saved_model.load(str(folder / "saved_model"))
serve = model.signatures["serving_default"]
for shape in ((1, 7), (3, 20)):
    ids = np.random.default_rng(0).integers(3, 18, shape).astype("int32")
    probabilities = serve(token_ids=tf.constant(ids))["probabilities"].numpy()
    assert probabilities.shape == (shape[0], 10), probabilities.shape
    assert np.allclose(probabilities.sum(-1), 1, atol=1e-5)
# The request that the README shows, as saved_model_cli makes it.
ids = [[1, 14, 5, 11, 17, 2]]
found = probabilities_by_cli(folder, "serving_default", f"token_ids={ids}")
served = serve(token_ids=tf.constant(ids))["probabilities"]
np.testing.assert_allclose(found, served, rtol=1e-5)
print(
    "run: better than guessing; SavedModel: two batch sizes, two lengths; "
    "saved_model_cli agrees"
)
