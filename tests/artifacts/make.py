"""Makes the artefacts of this version: `python tests/artifacts/make.py`.

They are made once for a version and then kept for ever: `test_artifacts.py`
loads those of all versions. Make them with the oldest Keras that is supported:
a newer one writes fields that an older one refuses.
"""

import pathlib
import shutil
import sys
import tempfile

import keras
import numpy as np

import luna_tf
from luna_tf import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)

ROOT = pathlib.Path(__file__).parent


def tiny_model():
    """Every layer, cross attention and both kinds of tying included."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    context = keras.Input((None, 6), name="context")
    x, p = LunaEmbedding(9, 8, 3, 12)(ids)
    x, p = LunaTransformerBlock(6, 2, num_pack_heads=4, dropout=0.1)(x, p)
    x, p = LunaAttention(2, tie_key_value=False)(x, p, context)
    return keras.Model(
        [ids, context],
        {"tokens": x, "packed": p, "other": PackedEmbedding(2)(x)},
    )


def main():
    folder = ROOT / luna_tf.__version__
    if folder.exists():
        sys.exit(f"{folder} exists: artefacts of a version are never remade")
    folder.mkdir()
    rng = np.random.default_rng(0)
    model = tiny_model()
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(size=weight.shape) * 0.3 + 0.1)
    ids = np.array([[3, 4, 5, 6, 7], [8, 2, 0, 0, 0], [1, 0, 0, 0, 0]], "int32")
    context = rng.normal(size=(3, 4, 6)).astype("float32")
    outputs = model({"ids": ids, "context": context})
    np.savez_compressed(
        folder / "example.npz",
        ids=ids,
        context=context,
        **{
            f"expected/{name}": keras.ops.convert_to_numpy(y)
            for name, y in outputs.items()
        },
    )
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    with tempfile.TemporaryDirectory() as temporary:
        model.export(temporary + "/model", verbose=False)
        # Packed, because a graph is large and repeats itself.
        shutil.make_archive(
            str(folder / "saved_model"), "zip", temporary + "/model"
        )


if __name__ == "__main__":
    main()
