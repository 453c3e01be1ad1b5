"""Checks of versions, on invented installations."""

from importlib import metadata

import pytest
from luna_tf.trainers import doctor_packages as packages

REQUIREMENTS = [
    "keras<3.16,>=3.12",
    "tensorflow<2.22,>=2.20",
    "tensorflow-text<2.22,>=2.20.1",
    'old-python-only>=1; python_version < "3"',
    'jax<0.12,>=0.6; extra == "test"',
    'pytest>=8; extra == "test"',
    'jax<0.12,>=0.10; extra == "tpu-compile"',
    'libtpu<0.0.53,>=0.0.50; extra == "tpu-compile"',
    'libtpu<0.0.32,>=0.0.21; extra == "tpu"',
    'tensorflow==2.20.0; extra == "tpu"',
    'tensorflow-text==2.20.1; extra == "tpu"',
    'tensorflow-tpu==2.20.0; extra == "tpu"',
]
GOOD = {"keras": "3.15.1", "tensorflow": "2.21.0", "tensorflow-text": "2.21.1"}
TPU = {
    "keras": "3.15.1",
    "tensorflow": "2.20.0",
    "tensorflow-text": "2.20.1",
    "tensorflow-tpu": "2.20.0",
    "libtpu": "0.0.29",
}


def problems(installed):
    found = packages.check_versions(REQUIREMENTS, installed)
    return {f.name: f for f in found if f.status == "problem"}


@pytest.mark.parametrize("installed", [GOOD, TPU], ids=["plain", "tpu"])
def test_a_sound_installation(installed):
    found = packages.check_versions(REQUIREMENTS, installed)
    assert {f.name for f in found} == installed.keys()
    assert all(f.status == "ok" and not f.fix for f in found)


def test_a_missing_package():
    (found,) = problems({k: v for k, v in GOOD.items() if k != "keras"}).items()
    assert found[0] == "keras" and found[1].message == "missing"
    assert found[1].fix == "pip install 'keras<3.16,>=3.12'"


@pytest.mark.parametrize("version", ["3.11.3", "3.16.0"])
def test_a_package_out_of_bounds(version):
    found = problems({**GOOD, "keras": version})["keras"]
    assert found.message == f"{version}, but luna-tf needs <3.16,>=3.12"
    assert found.fix == "pip install 'keras<3.16,>=3.12'"


def test_another_wheel_may_bring_tensorflow():
    installed = {**GOOD, "tensorflow-cpu": "2.21.0"}
    del installed["tensorflow"]
    assert not problems(installed)
    installed["tensorflow-cpu"] = "2.19.1"
    found = problems(installed)["tensorflow"]
    assert found.message.startswith("2.19.1, from tensorflow-cpu, but")
    assert found.fix == "pip install 'tensorflow-cpu<2.22,>=2.20'"


def test_bounds_of_an_extra_count_where_all_of_it_is_installed():
    found = problems({**GOOD, "jax": "0.9.0", "libtpu": "0.0.29"})
    assert found.keys() == {"jax", "libtpu"}
    assert found["jax"].fix == "pip install 'jax<0.12,>=0.10'"
    assert not problems({**GOOD, "jax": "0.11.0", "libtpu": "0.0.52"})
    assert not problems({**GOOD, "jax": "0.9.0"})
    assert not problems({**GOOD, "jax": "0.5.0"})
    # Tools for tests are their users' affair.
    found = problems({**GOOD, "jax": "0.5.0", "pytest": "1.0"})
    assert found.keys() == {"jax"}


def test_tensorflow_tpu_has_bounds_of_its_own():
    # As Colab's TPU image has it: nothing there compiles with JAX.
    assert not problems({**TPU, "jax": "0.7.2"})
    found = problems({**TPU, "libtpu": "0.0.52"})
    assert found["libtpu"].fix == "pip install 'libtpu<0.0.32,>=0.0.21'"
    without = {k: v for k, v in TPU.items() if k != "libtpu"}
    assert problems(without)["libtpu"].message == "missing"
    found = problems({**TPU, "tensorflow": "2.21.0"})["tensorflow"]
    # Plain TensorFlow must not have the last word.
    assert found.fix.endswith(
        " && pip install --force-reinstall --no-deps tensorflow-tpu==2.20.0"
    )
    found = problems({**TPU, "tensorflow-tpu": "2.19.1"})["tensorflow-tpu"]
    assert "==2.20.0" in found.fix


@pytest.mark.parametrize(
    "version,status",
    [("3.9.18", "problem"), ("3.10.0", "ok"), ("3.14.1", "problem")],
)
def test_python(version, status):
    finding = packages.check_python(version, ">=3.10,<3.14")
    assert finding.status == status
    assert version in finding.message


@pytest.mark.parametrize(
    "versions,fix",
    [
        ({"tensorflow": "2.21.0", "tensorflow-text": "2.21.1"}, None),
        ({"tensorflow": "2.21.0", "tensorflow-text": "2.20.1"}, "2.21"),
        (
            {
                "tensorflow": "2.21.0",
                "tensorflow-tpu": "2.20.0",
                "tensorflow-text": "2.21.1",
            },
            "2.20",
        ),
        ({"tensorflow": "2.21.0"}, None),
    ],
)
def test_tensorflow_and_its_text_go_together(versions, fix):
    finding = packages.check_text(versions)
    if fix is None:
        assert finding is None
    else:
        assert finding.status == "problem"
        assert finding.fix == f"pip install 'tensorflow-text=={fix}.*'"


def test_a_protobuf_that_does_not_suit_all():
    needs = {
        "tensorflow": ["protobuf<8.0.0,>=6.31.1", "numpy>=1.26"],
        "tensorboard": ["protobuf!=4.24.0,>=3.19.6"],
        "jax": ['protobuf<1; extra == "other"'],
    }
    assert not packages.check_shared(needs, {"protobuf": "7.36.2"})
    (finding,) = packages.check_shared(needs, {"protobuf": "5.29.0"})
    assert finding.name == "protobuf"
    assert "tensorflow needs <8.0.0,>=6.31.1" in finding.message
    assert "tensorboard" not in finding.message
    assert (
        finding.fix == "pip install 'protobuf!=4.24.0,<8.0.0,>=3.19.6,>=6.31.1'"
    )


def test_commands_for_a_tpu_vm():
    assert packages.install_for_tpu(REQUIREMENTS) == (
        "pip install 'luna-tf[tpu]' && "
        "pip install --force-reinstall --no-deps tensorflow-tpu==2.20.0"
    )


def test_our_own_bounds_are_read_from_what_is_installed():
    found = packages.by_name(metadata.distributions())
    findings = {f.name: f for f in packages.check_all(found)}
    assert {"luna-tf", "Python", "keras", "tensorflow"} <= findings.keys()
    assert findings["keras"].message.startswith(found["keras"].version)
    del found["luna-tf"]
    (finding,) = packages.check_all(found)
    assert finding.fix == "pip install -e . in the checkout"
