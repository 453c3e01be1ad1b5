"""Files of PyTorch, read without it."""

import io
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from golden_cases import ROOT, GoldenFile

from luna_tf.interop.torch_files import (
    _MAGIC,
    TorchFileError,
    read_torch_file,
)

FILES = ROOT / "torch"


@pytest.mark.parametrize("name", ["mlm_zip", "mlm_legacy"])
def test_both_formats(name):
    found = read_torch_file(str(FILES / f"{name}.pt"))
    assert vars(found["args"])["encoder_attention_heads"] == 4
    assert found["optimizer_history"][0]["num_updates"] == 5
    assert found["last_optimizer_state"] is None
    assert not found["extra_state"]["when"]  # what it was is not known
    expected = GoldenFile("mlm_tied").weights
    for key, array in expected.items():
        assert found["model"][key].dtype == np.float32
        np.testing.assert_array_equal(found["model"][key], array)
    assert len(found["model"]) == len(expected) + 2


def test_kinds_of_tensors():
    found = read_torch_file(str(FILES / "kinds.pt"))
    assert found["half"].dtype == np.float16
    assert found["half"].tolist() == [[1.5, 3.0], [2.5, -4.0]]  # transposed
    assert found["bf"].tolist() == [1.0, -2.5, 3.140625]
    assert found["i"].tolist() == [[1, 2], [4, 5]]  # a part of another
    assert found["p"].tolist() == [7.0]
    assert found["b"].tolist() == [True, False]


def write_legacy(path, monkeypatch, numbers):
    """What torch.save wrote before 1.6: a tensor inside of an odd object."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def named(cls, module, name):
        cls.__module__, cls.__qualname__ = module.__name__, name
        setattr(module, name, cls)
        return cls

    kind = named(type("FloatStorage", (), {}), torch, "FloatStorage")
    odd = named(type("Odd", (), {}), torch, "Odd")
    rebuild = named(lambda: None, utils, "_rebuild_tensor_v2")
    rebuild.__name__ = "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Tensor:
        def __init__(self, storage):
            self.storage = storage

        def __reduce__(self):
            shape = (len(numbers),)
            return rebuild, (self.storage, 0, shape, (1,), False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, kind):
                return None
            return ("storage", kind, value.key, "cpu", len(numbers), None)

    storages = [kind(), kind()]
    for key, storage in enumerate(storages):
        storage.key = str(key)
    hidden = odd()
    hidden.tensor = Tensor(storages[1])
    found = {"model": {"w": Tensor(storages[0])}, "odd": hidden}
    with open(path, "wb") as file:
        for value in (_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, protocol=2).dump(found)
        pickle.dump(["0", "1"], file, protocol=2)
        for _ in storages:
            file.write(struct.pack("<q", len(numbers)))
            file.write(np.array(numbers, "<f4").tobytes())


def test_a_tensor_inside_of_what_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    write_legacy(path, monkeypatch, [1.0, 2.5])
    found = read_torch_file(str(path))
    assert found["model"]["w"].tolist() == [1.0, 2.5]
    assert not found["odd"]


class Touch:
    """Unpickled in the usual way, this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


class Evaluate:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return eval, (self.code,)


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_of_the_file_runs(tmp_path, protocol):
    victim = tmp_path / "victim"
    for bad in (
        Touch(str(victim)),
        Evaluate(f"open({str(victim)!r}, 'w')"),
    ):
        content = pickle.dumps({"model": {}, "x": bad}, protocol=protocol)
        path = str(tmp_path / "bad.pt")
        write_zip(path, content)
        assert read_torch_file(path)["model"] == {}
        assert not victim.exists()


def test_a_tensor_that_reaches_beyond_its_numbers(tmp_path):
    # The stride of a sound file, multiplied.
    source = (FILES / "kinds.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(source)) as archive:
        names = archive.namelist()
        parts = {name: archive.read(name) for name in names}
    (key,) = [n for n in names if n.endswith("data.pkl")]
    three_two = b"K\x03K\x01"  # strides 3 and 1
    assert parts[key].count(three_two) == 1
    parts[key] = parts[key].replace(three_two, b"K\x7fK\x01")
    path = tmp_path / "far.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(TorchFileError, match=r"shape \(2, 2\) has only 6"):
        read_torch_file(str(path))


def test_what_is_not_a_file_of_pytorch(tmp_path):
    path = tmp_path / "bad.pt"
    for content in (b"", b"text", struct.pack("<q", 5) * 10):
        path.write_bytes(content)
        with pytest.raises(TorchFileError, match="bad.pt"):
            read_torch_file(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "x")
    with pytest.raises(TorchFileError, match="it holds no data.pkl"):
        read_torch_file(str(path))
    for name in ("mlm_zip", "mlm_legacy"):
        whole = (FILES / f"{name}.pt").read_bytes()
        for share in (0.3, 0.9):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(TorchFileError, match="bad.pt"):
                read_torch_file(str(path))
    with pytest.raises(OSError):
        read_torch_file(str(tmp_path / "none.pt"))
