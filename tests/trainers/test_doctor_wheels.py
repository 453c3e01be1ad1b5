"""Two wheels in one folder, as pip leaves them."""

import base64
import hashlib
from importlib import metadata

import pytest
from luna_tf.trainers import doctor_wheels
from luna_tf.trainers.doctor_packages import by_name

LIBRARY = "tensorflow/libtensorflow_cc.so.2"
SAME = "tensorflow/same.py"
PLAIN = {LIBRARY: b"plain", "tensorflow/a.py": b"1", SAME: b"s"}
# One library is as large as the other: only its digest tells them apart.
TPU = {LIBRARY: b"a tpu's", "tensorflow/a.py": b"2", SAME: b"s"}
REPAIR = "pip install --force-reinstall --no-deps tensorflow-tpu==2.20.0"


def install(folder, name, version, files):
    """What pip does: files, and a record of them."""
    record = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        digest = hashlib.sha256(content).digest()
        text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        record.append(f"{path},sha256={text},{len(content)}")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    record.append(f"{info.name}/RECORD,,")
    (info / "RECORD").write_text("\n".join(record))


def check(folder):
    found = metadata.distributions(path=[str(folder)])
    return doctor_wheels.check(by_name(found))


def test_without_tensorflow_there_is_nothing_to_say(tmp_path):
    assert check(tmp_path) is None


def test_one_wheel(tmp_path):
    install(tmp_path, "tensorflow", "2.21.0", PLAIN)
    finding = check(tmp_path)
    assert finding.status == "ok"
    assert finding.message == "of tensorflow 2.21.0"


@pytest.mark.parametrize("content", [None, b"a part of it"])
def test_a_library_that_is_gone_or_cut(tmp_path, content):
    install(tmp_path, "tensorflow", "2.21.0", PLAIN)
    if content is None:
        (tmp_path / LIBRARY).unlink()
    else:
        (tmp_path / LIBRARY).write_bytes(content)
    finding = check(tmp_path)
    assert finding.status == "problem"
    assert "1 of no wheel" in finding.message
    assert finding.fix == REPAIR.replace("-tpu==2.20.0", "==2.21.0")


def test_plain_tensorflow_over_tensorflow_tpu(tmp_path):
    install(tmp_path, "tensorflow-tpu", "2.20.0", TPU)
    install(tmp_path, "tensorflow", "2.20.0", PLAIN)
    finding = check(tmp_path)
    assert finding.status == "problem"
    assert "0 are of tensorflow-tpu 2.20.0, 2 of tensorflow" in finding.message
    assert finding.fix == REPAIR


def test_what_the_repair_leaves_is_fine(tmp_path):
    install(tmp_path, "tensorflow", "2.20.0", PLAIN)
    install(tmp_path, "tensorflow-tpu", "2.20.0", TPU)
    finding = check(tmp_path)
    assert finding.status == "ok"
    assert "which lies over tensorflow" in finding.message


def test_a_mixture(tmp_path):
    install(tmp_path, "tensorflow", "2.20.0", PLAIN)
    install(tmp_path, "tensorflow-tpu", "2.20.0", TPU)
    (tmp_path / LIBRARY).write_bytes(PLAIN[LIBRARY])
    finding = check(tmp_path)
    assert finding.status == "problem"
    assert "1 are of tensorflow-tpu 2.20.0, 1 of tensorflow" in finding.message


def test_files_of_one_size_are_told_apart_by_their_digest(tmp_path):
    other = {**PLAIN, LIBRARY: b"nialp"}
    assert len(other[LIBRARY]) == len(PLAIN[LIBRARY])
    install(tmp_path, "tensorflow-tpu", "2.20.0", other)
    install(tmp_path, "tensorflow", "2.20.0", PLAIN)
    assert "0 are of tensorflow-tpu" in check(tmp_path).message
    (tmp_path / LIBRARY).write_bytes(other[LIBRARY])
    assert check(tmp_path).status == "ok"
    (tmp_path / LIBRARY).write_bytes(b"alien")
    assert "1 of no wheel" in check(tmp_path).message


def test_two_wheels_for_processors(tmp_path):
    install(tmp_path, "tensorflow-cpu", "2.21.0", TPU)
    install(tmp_path, "tensorflow", "2.21.0", PLAIN)
    finding = check(tmp_path)
    assert finding.status == "warning"
    assert finding.fix.startswith("pip uninstall -y tensorflow-cpu && pip ")
