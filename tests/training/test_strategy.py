"""Which devices a program gets, and why."""

import json
import socket
import subprocess
import sys
import threading
import types

import pytest
import tensorflow as tf

from luna_tf.training import strategy as strategy_module
from luna_tf.training.strategy import (
    CHOICES,
    Cluster,
    Placement,
    StrategyError,
    choose_strategy,
    read_tf_config,
    tpu_is_attached,
)

TWO = ["a.b:1", "[::1]:2"]


def tf_config(task=("worker", 0), **cluster):
    kind, index = task
    return json.dumps(
        {"cluster": cluster, "task": {"type": kind, "index": index}}
    )


def choose(*arguments, **more):
    """Chooses with the environment of a test, not of the machine."""
    return choose_strategy(*arguments, **{"environ": {}, **more})


class TestTFConfig:
    @pytest.mark.parametrize("text", [None, "", "  \n", "{}", " {} "])
    def test_none(self, text):
        assert read_tf_config(text) is None

    def test_workers(self):
        text = tf_config(("worker", 1), worker=TWO)
        assert read_tf_config(text) == Cluster(tuple(TWO), 1)

    @pytest.mark.parametrize(
        ("task", "number"), [(("chief", 0), 0), (("worker", 1), 2)]
    )
    def test_a_chief_is_the_first_of_all(self, task, number):
        text = tf_config(task, worker=TWO, chief=["c:3"])
        assert read_tf_config(text) == Cluster(("c:3", *TWO), number)

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("{", "is no JSON ("),
            ("[1]", "is no JSON object: [1]"),
            ('{"cluster": {}}', "needs `cluster` and `task`"),
            ('{"cluster": [], "task": {}}', "needs `cluster` and `task`"),
            (tf_config(worker=TWO, ps=["a:1"], evaluator=["a:2"]), "ps"),
            (tf_config(worker="a:1"), "no list of addresses for `worker`"),
            (tf_config(worker=["a:1", "b"]), "not host:port: 'b'"),
            (tf_config(worker=["a:1", 7]), "not host:port: 7"),
            (tf_config(worker=[]), "names no worker"),
            (tf_config(worker=["a:1", "a:1"]), "names an address twice: a:1"),
            (tf_config(("boss", 0), worker=TWO), "of type 'boss'"),
            (tf_config((["worker"], 0), worker=TWO), "of type ['worker']"),
            (tf_config(("chief", 0), worker=TWO), "of type 'chief'"),
            (tf_config(("worker", 2), worker=TWO), "index 2, where `worker`"),
            (tf_config(("worker", -1), worker=TWO), "has 2 members"),
            (tf_config(("worker", "0"), worker=TWO), "the task index '0'"),
            (tf_config(("worker", True), worker=TWO), "the task index True"),
            (tf_config(("worker", 1), worker=["a:1"]), "has 1 member."),
        ],
    )
    def test_malformed(self, text, what):
        with pytest.raises(StrategyError) as error:
            read_tf_config(text)
        message = str(error.value)
        assert message.startswith("TF_CONFIG ")
        assert what in message
        assert 'Allowed is {"cluster": {"worker": ["host:port", ...]}' in (
            message
        )
        assert len(message.splitlines()) == 1

    @pytest.mark.parametrize("name", CHOICES)
    def test_malformed_is_told_whatever_is_asked_for(self, name):
        with pytest.raises(StrategyError, match="TF_CONFIG is no JSON"):
            choose(name, environ={"TF_CONFIG": "{"})


class TestCombinations:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"name": "tpus"},
                "'tpus' is not possible: allowed is one of auto",
            ),
            ({"name": "mirrored", "tpu": "x"}, "allowed is tpu or auto"),
            ({"name": "one_device", "tpu": "local"}, "tpu='local'"),
            (
                {"name": "multi_worker_mirrored", "tpu": "x"},
                "with distribution_strategy=multi_worker_mirrored",
            ),
            ({"tpu": ""}, "tpu='' is not possible: allowed is local"),
            ({"logical_cpus": 0}, "logical_cpus=0 is not possible: allowed"),
            ({"name": "tpu", "logical_cpus": 2}, "not possible with tpu"),
            ({"tpu": "x", "logical_cpus": 2}, "not possible with tpu"),
            (
                {"name": "multi_worker_mirrored", "logical_cpus": 2},
                "not possible with multi_worker_mirrored",
            ),
            ({"name": "mirrored"}, "there is one CPU. Use one_device"),
            ({"name": "mirrored", "logical_cpus": 1}, "needs two devices"),
            ({"name": "multi_worker_mirrored"}, "TF_CONFIG, which names"),
        ],
    )
    def test_that_cannot_be(self, arguments, message):
        with pytest.raises(StrategyError) as error:
            choose(**arguments)
        assert message in str(error.value)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize("name", ["mirrored", "one_device"])
    def test_several_workers_must_not_train_alone(self, name):
        environ = {"TF_CONFIG": tf_config(worker=TWO)}
        with pytest.raises(StrategyError, match="unset TF_CONFIG"):
            choose(name, environ=environ)

    def test_one_worker_may(self):
        environ = {"TF_CONFIG": tf_config(worker=["a:1"])}
        assert choose("one_device", environ=environ).num_workers == 1

    def test_a_number_of_logical_cpus_that_comes_too_late(self):
        present = len(tf.config.list_logical_devices("CPU"))
        with pytest.raises(StrategyError, match=f"started with {present}"):
            choose(logical_cpus=present + 1)


class FakeTPU:
    """Stands for a TPU system: notes what is done to it."""

    num_replicas_in_sync = 8

    def __init__(self, monkeypatch, problem=None, when=None):
        self.calls = []
        self.problem, self.when = problem, when
        resolvers = tf.distribute.cluster_resolver
        monkeypatch.setattr(resolvers, "TPUClusterResolver", self.resolve)
        monkeypatch.setattr(
            tf.config,
            "experimental_connect_to_cluster",
            lambda resolver: self.note("connect"),
        )
        monkeypatch.setattr(
            tf.tpu.experimental,
            "initialize_tpu_system",
            lambda resolver: self.note("initialize"),
        )
        monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: self)

    def note(self, name):
        self.calls.append(name)
        if name == self.when:
            self.problem()

    def resolve(self, tpu):
        self.note(f"resolve {tpu}")
        return types.SimpleNamespace(master=lambda: self.note("look up"))


def raising(error):
    def problem():
        raise error

    return problem


@pytest.fixture
def gpus(monkeypatch):
    """Lets a test say which physical devices there are."""
    present = {"CPU": 1}
    listed = tf.config.list_physical_devices

    def list_physical_devices(kind=None):
        if kind == "CPU":
            return listed(kind)
        return [f"{kind}:{i}" for i in range(present.get(kind, 0))]

    monkeypatch.setattr(
        tf.config, "list_physical_devices", list_physical_devices
    )
    monkeypatch.setattr(strategy_module, "tpu_is_attached", lambda: False)
    return present


class TestAuto:
    def test_one_cpu(self, gpus):
        placement = choose()
        assert placement.name == "one_device"
        assert placement.reason == (
            "one device, CPU (auto: no TPU or GPU is visible)"
        )
        assert placement.is_chief
        assert placement.num_replicas == 1
        assert placement.default_precision == "float32"
        with placement.strategy.scope():
            assert "CPU:0" in tf.Variable(0.0).device

    def test_one_gpu(self, gpus):
        gpus["GPU"] = 1
        placement = choose()
        assert placement.name == "one_device"
        assert placement.reason == "one device, GPU (auto: one GPU is visible)"
        device = placement.strategy.extended.worker_devices[0]
        assert device.endswith("GPU:0")

    def test_several_gpus(self, gpus, monkeypatch):
        gpus["GPU"] = 3
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
        placement = choose()
        assert placement.name == "mirrored"
        assert placement.strategy == ["GPU:0", "GPU:1", "GPU:2"]
        assert placement.reason == (
            "mirrored on 3 GPU devices (auto: 3 GPUs are visible)"
        )
        # The same devices, all but one left out.
        reason = choose("one_device").reason
        assert reason == "one device, GPU (as asked for; 2 more not used)"

    def test_the_tpu_of_this_machine(self, gpus, monkeypatch):
        gpus.update(TPU_SYSTEM=1, GPU=2)
        monkeypatch.setattr(strategy_module, "tpu_is_attached", lambda: True)
        fake = FakeTPU(monkeypatch)
        placement = choose()
        assert placement.name == "tpu"
        assert placement.strategy is fake
        assert placement.reason == (
            "TPU local, 8 replicas (auto: this machine has a TPU)"
        )
        assert placement.default_precision == "mixed_bfloat16"
        # A TPU of the machine itself is no cluster to connect to.
        assert fake.calls == ["resolve local", "look up", "initialize"]

    def test_a_tpu_that_tensorflow_cannot_use(self, gpus, monkeypatch):
        monkeypatch.setattr(strategy_module, "tpu_is_attached", lambda: True)
        placement = choose()
        assert placement.name == "one_device"
        assert "a TPU is attached, but" in placement.reason
        assert "`luna-doctor env`" in placement.reason

    def test_a_tpu_build_without_a_tpu(self, gpus):
        # tensorflow-tpu lists a TPU system on every machine.
        gpus["TPU_SYSTEM"] = 1
        assert choose().name == "one_device"

    def test_a_named_tpu(self, gpus, monkeypatch):
        fake = FakeTPU(monkeypatch)
        placement = choose(tpu="mine")
        assert (
            placement.reason == "TPU mine, 8 replicas (auto: a TPU was named)"
        )
        assert fake.calls[0] == "resolve mine"
        assert fake.calls[2:] == ["connect", "initialize"]

    def test_colab(self, gpus, monkeypatch):
        fake = FakeTPU(monkeypatch)
        # Any server that speaks as TensorFlow's do.
        service = tf.data.experimental.service
        server = service.DispatchServer(service.DispatcherConfig(port=0))
        address = server.target.removeprefix("grpc://")
        placement = choose(environ={"COLAB_TPU_ADDR": address})
        assert "(auto: Colab names a TPU)" in placement.reason
        assert fake.calls[0] == f"resolve grpc://{address}"

    def test_workers(self, gpus, monkeypatch):
        environ = {"TF_CONFIG": tf_config(("worker", 1), worker=TWO)}
        monkeypatch.setattr(
            tf.distribute,
            "MultiWorkerMirroredStrategy",
            lambda: types.SimpleNamespace(num_replicas_in_sync=4),
        )
        placement = choose(environ=environ)
        assert placement.name == "multi_worker_mirrored"
        assert (placement.worker, placement.num_workers) == (1, 2)
        assert not placement.is_chief
        assert placement.reason == (
            "worker 2 of 2, 4 replicas in all (auto: TF_CONFIG names workers)"
        )

    def test_a_tpu_that_was_named_goes_before_workers(self, gpus, monkeypatch):
        environ = {"TF_CONFIG": tf_config(worker=TWO)}
        FakeTPU(monkeypatch)
        assert choose(tpu="mine", environ=environ).name == "tpu"


def test_a_tpu_is_seen_by_its_device_files(tmp_path, monkeypatch):
    patterns = (f"{tmp_path}/accel[0-9]*", f"{tmp_path}/vfio/[0-9]*")
    monkeypatch.setattr(strategy_module, "_TPU_DEVICE_FILES", patterns)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there without any device
    assert not tpu_is_attached()
    (tmp_path / "vfio" / "0").touch()
    assert tpu_is_attached()


class TestUnreachableTPU:
    def message(self, tpu, seconds=0.2):
        with pytest.raises(StrategyError) as error:
            choose("tpu", tpu, connect_seconds=seconds)
        message = str(error.value)
        assert message.startswith(f"tpu={tpu!r} ")
        assert len(message.splitlines()) == 1
        return message

    def test_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"grpc://127.0.0.1:{server.getsockname()[1]}"
        assert "cannot be reached" in self.message(address)

    @pytest.mark.parametrize(
        "address",
        ["grpc://host", "grpc://host:", "grpc://:8470", "grpc://host/x:8470"],
    )
    def test_an_address_without_host_or_port(self, address):
        assert "allowed is grpc://host:port" in self.message(address)

    def test_a_port_that_cannot_be(self):
        address = "grpc://127.0.0.1:99999"
        assert "cannot be reached" in self.message(address)

    def test_an_address_of_six_parts(self, monkeypatch):
        asked = []

        def connect(address, timeout):
            asked.append((address, timeout))
            raise OSError("no route")

        monkeypatch.setattr(socket, "create_connection", connect)
        assert "no route" in self.message("grpc://[fd00::2]:8470", 7.0)
        assert asked == [(("fd00::2", 8470), 7.0)]

    def test_an_unknown_name(self, monkeypatch):
        error = ValueError("Could not find it.\nA long story")
        FakeTPU(monkeypatch, raising(error), "look up")
        message = self.message("mine")
        assert "was not found: Could not find it. Allowed is local" in message

    def test_a_name_that_nobody_answers_for(self, monkeypatch):
        answer = threading.Event()
        FakeTPU(monkeypatch, answer.wait, "look up")
        message = self.message("mine")
        answer.set()
        assert "did not answer within 0.2 seconds" in message
        assert "gcloud compute tpus" in message

    def test_one_that_does_not_answer_when_connected_to(self, monkeypatch):
        answer = threading.Event()
        fake = FakeTPU(monkeypatch, answer.wait, "connect")
        message = self.message("mine")
        answer.set()
        assert "accepts connections but did not answer" in message
        assert "initialize" not in fake.calls

    @pytest.mark.parametrize("when", ["connect", "initialize"])
    def test_one_that_cannot_be_started(self, monkeypatch, when):
        error = tf.errors.UnavailableError(None, None, "is busy.\nStack")
        FakeTPU(monkeypatch, raising(error), when)
        message = self.message("mine")
        assert "could not be started: is busy. `luna-doctor env`" in message


def test_a_meeting_of_one_does_not_wait():
    placement = Placement(None, "one_device", "")
    assert placement.meeting.any(True) is True
    assert placement.meeting.any(False) is False
    assert placement.meeting.wait() is None
    assert placement.meeting is placement.meeting


DEVICES = """
import json
from luna_tf.training.strategy import *
import tensorflow as tf

found = {}
placement = choose_strategy(logical_cpus=2, environ={})
found["chosen"] = [placement.name, placement.reason, placement.num_replicas]
with placement.strategy.scope():
    variable = tf.Variable(1.0)
found["devices"] = [value.device[-5:] for value in variable.values]

again = choose_strategy("one_device", logical_cpus=2, environ={})
found["again"] = again.reason
try:
    choose_strategy(logical_cpus=3, environ={})
except StrategyError as error:
    found["late"] = str(error)

# Two replicas stand for two workers.
meeting = Meeting(placement.strategy, 2)
found["any"] = [meeting.any(True), meeting.any(False), meeting.wait()]
print(json.dumps(found))
"""

SILENT = """
import json, socket
from luna_tf.training.strategy import *

# Takes connections, and says nothing.
with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"grpc://127.0.0.1:{server.getsockname()[1]}"
    try:
        choose_strategy("tpu", address, environ={}, connect_seconds=0.5)
    except StrategyError as error:
        print(json.dumps(str(error)))
"""


def child(program):
    """Runs a process of its own, whose devices may change."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,  # against a hang; it takes seconds
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.multiprocess
class TestDevices:
    @pytest.fixture(scope="class")
    def found(self):
        return child(DEVICES)

    def test_logical_cpus_are_mirrored(self, found):
        assert found["chosen"] == [
            "mirrored",
            "mirrored on 2 CPU devices (auto: logical CPUs were asked for)",
            2,
        ]
        assert found["devices"] == ["CPU:0", "CPU:1"]

    def test_the_same_number_may_be_asked_for_again(self, found):
        reason = "one device, CPU (as asked for; 1 more not used)"
        assert found["again"] == reason

    def test_another_number_comes_too_late(self, found):
        assert "TensorFlow was started with 2" in found["late"]

    def test_any_of_several_workers(self, found):
        assert found["any"] == [True, False, None]


@pytest.mark.multiprocess
def test_a_server_that_says_nothing_is_given_up_on():
    message = child(SILENT)
    assert message.startswith("tpu='grpc://127.0.0.1:")
    assert "0.5 seconds" in message
