"""Checks a run of luna-mlm; serves its model without luna_tf, KerasHub.

Usage: python .ci/check_pretraining.py MODEL_DIR
"""

import json
import pathlib
import sys

for name in ("luna_tf", "keras_hub"):
    sys.modules[name] = None  # any import of it now fails

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_text  # noqa: E402, F401
from by_cli import probabilities as probabilities_by_cli  # noqa: E402

folder = pathlib.Path(sys.argv[1])
results = json.loads((folder / "results.json").read_text(encoding="utf8"))
assert 0 < results["test"]["bits_per_byte"] < 8, results["test"]
signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
for texts in (["the [MASK] of god"], ["and [MASK]", "in the [MASK] he", "no"]):
    served = signatures["fill_mask"](text=tf.constant(texts))
    assert served["tokens"].shape == (len(texts), 5), served
    chances = served["probabilities"].numpy().sum(-1)
    expected = ["[MASK]" in text for text in texts]
    np.testing.assert_array_equal(chances > 0.01, expected)
text = "let there be [MASK]"
found = probabilities_by_cli(folder, "fill_mask", f"text={[text]}")
served = signatures["fill_mask"](text=tf.constant([text]))
np.testing.assert_allclose(found, served["probabilities"], rtol=1e-5)
print("run: tested; SavedModel: two batch sizes; saved_model_cli agrees")
