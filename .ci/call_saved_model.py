"""Calls an exported classifier where luna_tf cannot be imported.

Usage: python .ci/call_saved_model.py SAVED_MODEL
"""

import sys

sys.modules["luna_tf"] = None  # any import of it now fails

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for shape in ((1, 7), (3, 20)):
    ids = np.random.default_rng(0).integers(3, 18, shape).astype("int32")
    probabilities = serve(token_ids=tf.constant(ids))["probabilities"].numpy()
    assert probabilities.shape == (shape[0], 10), probabilities.shape
    assert np.allclose(probabilities.sum(-1), 1, atol=1e-5)
print("SavedModel: called without luna_tf, two batch sizes, two lengths")
