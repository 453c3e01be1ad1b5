"""Reads the reference vectors in tests/golden (layout: its README.md)."""

import json
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).parent / "golden"


class GoldenFile:
    """One `.npz` of vectors made by running the authors' code."""

    def __init__(self, name):
        with np.load(ROOT / "luna" / f"{name}.npz") as z:
            self._arrays = {k: z[k] for k in z.files}
        self.meta = json.loads(str(self._arrays.pop("meta")))
        self.weights = self.below("w/")

    def below(self, prefix):
        """Arrays whose key starts with `prefix`, by the rest of the key."""
        return {
            k[len(prefix) :]: v
            for k, v in self._arrays.items()
            if k.startswith(prefix)
        }

    @property
    def layer_norm_offset(self):
        return self.meta.get("ln_weight_offset", 0.0)


def names(*patterns):
    """Names of the files that match, sorted."""
    paths = [p for g in patterns for p in (ROOT / "luna").glob(g + ".npz")]
    assert paths, patterns
    return sorted(p.stem for p in paths)


def cases(*patterns):
    """(file, case) pairs of the files that match."""
    return [
        (name, case)
        for name in names(*patterns)
        for case in sorted(
            {k.split("/")[0] for k in GoldenFile(name)._arrays if "/out/" in k}
        )
    ]


def assert_close(got, expected, tolerance=1e-5):
    """|got - expected| <= tolerance * (1 + |expected|)."""
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def assert_gradients_close(got, expected, tolerance=1e-5):
    """Errors on the scale of the largest gradient of the case, or of 1."""
    assert got.keys() == expected.keys()
    scale = max(1.0, *(np.abs(g).max() for g in expected.values()))
    for name, gradient in expected.items():
        error = np.abs(got[name] - gradient).max()
        assert error <= tolerance * scale, (name, error, scale)


def formula_weights(meta, data, key):
    """The weights of a full-size model, which are a formula of the index."""
    model = meta["models"][key]
    scales = data.below(f"{key}/scales")[""]
    adds = data.below(f"{key}/adds")[""]
    mask = np.uint64(0xFFFFFFFF)
    weights = {}
    for k, (name, shape) in enumerate(
        zip(model["names"], model["shapes"], strict=True)
    ):
        i = np.arange(np.prod(shape), dtype=np.uint64)
        offset = (k + 1) * 668265263 + meta["formula_seed"] * 374761393
        h = (i * np.uint64(2654435761) + np.uint64(offset)) & mask
        h ^= h >> np.uint64(16)
        h = h * np.uint64(2246822519) & mask
        h ^= h >> np.uint64(13)
        h = h * np.uint64(3266489917) & mask
        h ^= h >> np.uint64(16)
        value = (2 * scales[k] * (h / 2.0**32 - 0.5)).astype("float32")
        value = (value + np.float32(adds[k])).reshape(shape)
        if name in model["padding_idx_rows_zero"]:
            value[1] = 0
        weights[name] = value
    for k, name in enumerate(model["names"][:3]):
        np.testing.assert_array_equal(
            weights[name].ravel()[-6:], data.below(f"{key}/check/{k}")[""]
        )
    return weights
