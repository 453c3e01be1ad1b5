"""Files of PyTorch, read without it."""

import io
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from golden_cases import ROOT, GoldenFile

from luna_tf.interop.torch_files import TorchFileError, read_torch_file

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
