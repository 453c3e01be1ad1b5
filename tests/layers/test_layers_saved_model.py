"""SavedModels, also where luna_tf cannot be imported."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from layers.luna_models import INPUTS, OTHER, functional, subclassed
from layers.luna_reference import assert_all_close

SIGNATURE = [
    tf.TensorSpec([None, None], tf.int32, name="ids"),
    tf.TensorSpec([None, None, 6], tf.float32, name="context"),
]
# Runs in a process of its own; calls every saved model on every input.
SERVE = """
import sys
import numpy as np


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("luna_tf", "keras_hub"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocker())
import tensorflow as tf

try:
    import luna_tf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("luna_tf is there")
root = sys.argv[1]
data = dict(np.load(root + "/inputs.npz"))
outputs = {}
for model in ("functional", "subclassed"):
    for way in ("export", "save"):
        loaded = tf.saved_model.load(f"{root}/{model}_{way}")
        for case in ("inputs", "other"):
            ids, context = (
                tf.constant(data[f"{case}/{i}"]) for i in range(2)
            )
            if way == "export":
                result = enumerate(loaded.serve([ids, context]))
            else:
                result = loaded.serve(ids, context).items()
            for i, y in result:
                outputs[f"{model}/{way}/{case}/{i}"] = y.numpy()
np.savez(root + "/outputs.npz", **outputs)
"""


def served_by(model):
    def serve(ids, context):
        outputs = model([ids, context])
        return {str(i): y for i, y in enumerate(outputs)}

    return tf.function(serve, input_signature=SIGNATURE)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Outputs in a fresh process, and here, by model, way, case, index."""
    root = tmp_path_factory.mktemp("saved")
    expected = {}
    cases = {"inputs": INPUTS, "other": OTHER}
    for make in (functional, subclassed):
        model, name = make(), make.__name__
        model.export(
            root / f"{name}_export",
            input_signature=[SIGNATURE],
            verbose=False,
        )
        model.serve = served_by(model)
        tf.saved_model.save(model, root / f"{name}_save", model.serve)
        for case, inputs in cases.items():
            outputs = model.serve(*inputs)
            for i, y in outputs.items():
                for way in ("export", "save"):
                    expected[f"{name}/{way}/{case}/{i}"] = y.numpy()
            assert_all_close(outputs.values(), model(inputs))
    arrays = {
        f"{case}/{i}": y
        for case, inputs in cases.items()
        for i, y in enumerate(inputs)
    }
    np.savez(root / "inputs.npz", **arrays)
    subprocess.run(
        [sys.executable, "-I", "-c", SERVE, str(root)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return dict(np.load(root / "outputs.npz")), expected


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("way", ["export", "save"])
@pytest.mark.parametrize("model", ["functional", "subclassed"])
def test_saved_model_needs_no_luna_tf_and_is_equal_bit_for_bit(
    way, model, served
):
    got, expected = served
    keys = [key for key in expected if key.startswith(f"{model}/{way}/")]
    assert len(keys) == 4  # two outputs, for two batch sizes and lengths
    for key in keys:
        np.testing.assert_array_equal(got[key], expected[key], err_msg=key)
