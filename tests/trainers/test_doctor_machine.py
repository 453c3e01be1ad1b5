"""Checks of invented machines and settings."""

import json

import pytest
from luna_tf.trainers import doctor_machine as machine

GIB = 2**30


@pytest.mark.parametrize(
    "environment,status",
    [
        ({}, "ok"),
        ({"KERAS_BACKEND": "tensorflow"}, "ok"),
        ({"KERAS_BACKEND": "jax"}, "warning"),
        ({"KERAS_BACKEND": "theano"}, "problem"),
    ],
)
def test_backend(environment, status):
    finding = machine.check_backend(environment)
    assert finding.status == status
    assert (finding.fix == "unset KERAS_BACKEND") == (status != "ok")


@pytest.mark.parametrize(
    "settings,environment,status,fix",
    [
        (None, {}, "ok", None),
        ({}, {}, "ok", None),
        ({"floatx": "float32", "backend": "tensorflow"}, {}, "ok", None),
        ({"floatx": "float16"}, {}, "warning", "float32"),
        ({"floatx": "float8"}, {}, "problem", "float32"),
        ({"backend": "jax"}, {}, "warning", "KERAS_BACKEND=tensorflow"),
        ({"backend": "jax"}, {"KERAS_BACKEND": "tensorflow"}, "ok", None),
        ({"backend": "cntk"}, {}, "problem", "KERAS_BACKEND=tensorflow"),
        ("{", {}, "problem", "rm /x/keras.json"),
        ([], {}, "problem", "rm /x/keras.json"),
    ],
)
def test_keras_json(settings, environment, status, fix):
    text = settings
    if settings is not None and settings != "{":
        text = json.dumps(settings)
    finding = machine.check_keras_json("/x/keras.json", text, environment)
    assert finding.status == status, finding
    assert (finding.fix is None) if fix is None else (fix in finding.fix)


def tpu(files=(), environment=None, wheel=False):
    findings = machine.check_tpu(files, environment or {}, wheel, "the fix")
    return [(f.name, f.status, f.fix) for f in findings]


def test_no_tpu():
    assert tpu() == [("TPU", "ok", None)]


def test_a_tpu_wheel_without_a_tpu_makes_tensorflow_wait():
    fix = "export TPU_SKIP_MDS_QUERY=1"
    assert tpu(wheel=True) == [("TPU", "warning", fix)]
    skip = {"TPU_SKIP_MDS_QUERY": "1"}
    assert tpu(environment=skip, wheel=True) == [("TPU", "ok", None)]


def test_a_tpu_vm():
    files = ("/dev/accel0", "/dev/accel1")
    assert tpu(files, wheel=True) == [("TPU", "ok", None)]
    assert tpu(files)[1:] == [("tensorflow-tpu", "problem", "the fix")]


@pytest.mark.parametrize("name", ["COLAB_TPU_ADDR", "TPU_NAME"])
def test_a_tpu_that_only_the_environment_names(name):
    findings = machine.check_tpu((), {name: "x"}, False, "the fix")
    assert name in findings[0].message
    assert findings[1].status == "warning"


def test_one_host_of_several():
    environment = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    names = [f[:2] for f in tpu(("/dev/vfio/0",), environment, wheel=True)]
    assert names == [("TPU", "ok"), ("TPU hosts", "warning")]
    environment = {"TPU_WORKER_HOSTNAMES": "localhost"}
    assert len(tpu(("/dev/vfio/0",), environment, wheel=True)) == 1


@pytest.mark.parametrize(
    "files,environment,visible,status",
    [
        ((), {}, 0, "ok"),
        (("/dev/nvidia0",), {}, 1, "ok"),
        (("/dev/nvidia0",), {}, 0, "problem"),
        (("/dev/nvidia0",), {"CUDA_VISIBLE_DEVICES": "-1"}, 0, "ok"),
        (("/dev/nvidia0",), {"CUDA_VISIBLE_DEVICES": "0"}, 0, "problem"),
    ],
)
def test_gpu(files, environment, visible, status):
    finding = machine.check_gpu(files, environment, visible, "2.21.0")
    assert finding.status == status
    if status == "problem":
        assert "'tensorflow[and-cuda]==2.21.0'" in finding.fix


@pytest.mark.parametrize(
    "size,status", [(24, "ok"), (1.5, "warning"), (0.5, "problem")]
)
def test_memory(size, status):
    finding = machine.check_memory(int(size * GIB))
    assert finding.status == status
    assert f"{size:.1f} GiB" in finding.message


@pytest.mark.parametrize(
    "size,status", [(24, "ok"), (0.5, "warning"), (0.05, "problem")]
)
def test_disk(size, status):
    finding = machine.check_disk(int(size * GIB), "/x")
    assert finding.status == status
    assert "/x" in finding.message


def test_tf_config():
    from luna_tf.training.strategy import read_tf_config

    good = {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }
    finding = machine.check_tf_config(json.dumps(good), read_tf_config)
    assert (finding.status, finding.message) == ("ok", "worker 2 of 2")
    del good["task"]
    finding = machine.check_tf_config(json.dumps(good), read_tf_config)
    assert finding.status == "problem"
    assert "`task`" in finding.message
    assert machine.check_tf_config("{}", read_tf_config).status == "ok"
