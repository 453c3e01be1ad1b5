"""Checks a run of luna-translate; serves its model without luna_tf, KerasHub.

Usage: python .ci/check_translation.py MODEL_DIR
"""

import json
import pathlib
import sys

for name in ("luna_tf", "keras_hub"):
    sys.modules[name] = None  # any import of it now fails

import tensorflow as tf  # noqa: E402
import tensorflow_text  # noqa: E402, F401

folder = pathlib.Path(sys.argv[1])
results = json.loads((folder / "results.json").read_text(encoding="utf8"))
assert results["test"]["bleu_signature"].startswith("nrefs:1"), results
lines = (folder / "translations.tsv").read_text(encoding="utf8").splitlines()
rows = [line.split("\t") for line in lines[1:]]
assert len(rows) == results["test"]["sentences"], len(rows)
model = tf.saved_model.load(str(folder / "saved_model"))
serve = model.signatures["serving_default"]
for count in (1, 3):
    served = serve(text=tf.constant([row[0] for row in rows[:count]]))
    got = [text.decode() for text in served["translation"].numpy()]
    assert got == [row[2] for row in rows[:count]], got
print("run: scored; SavedModel: the same translations, two batch sizes")
