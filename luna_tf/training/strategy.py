"""Chooses the devices to train on: TPU, GPUs, several workers, or one device.

Must run before TensorFlow touches a device: logical devices, collectives
between workers and TPU systems can only be set up at the very start.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

CHOICES = ("auto", "tpu", "mirrored", "multi_worker_mirrored", "one_device")
_TPU_DEVICE_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


class StrategyError(ValueError):
    """A choice of devices that cannot be had, told in one readable line."""


def may_jit_compile(strategy: tf.distribute.Strategy) -> bool:
    """Whether a step of `strategy` may be compiled by XLA on request.

    Not with several replicas, whose collectives XLA for the host lacks; not on
    a TPU, where TensorFlow compiles every step itself; and not on the host of
    TensorFlow for TPUs, which comes without XLA for the host.

    Args:
        strategy: what the step runs under.

    Returns:
        Whether `tf.function(jit_compile=True)` works.

    Example:

    >>> import tensorflow as tf
    >>> may_jit_compile(tf.distribute.get_strategy())
    True
    """
    return (
        strategy.num_replicas_in_sync == 1
        and not isinstance(strategy, tf.distribute.TPUStrategy)
        and not tf.config.list_physical_devices("TPU_SYSTEM")
    )


class Meeting:
    """Lets the workers of a strategy wait for each other and agree.

    Args:
        strategy: made by all workers; with one worker nobody waits.
        num_workers: processes that train together.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, num_workers: int
    ) -> None:
        self._strategy: Any = strategy
        self._num_workers = num_workers
        self._sum = tf.function(self._sum_over_replicas, autograph=False)

    def any(self, flag: bool) -> bool:
        """Whether any worker says yes; all must ask."""
        if self._num_workers == 1:
            return flag
        return bool(self._sum(tf.constant(float(flag))).numpy() > 0)

    def wait(self) -> None:
        """Returns when all workers have come here."""
        self.any(False)

    def _sum_over_replicas(self, flag: tf.Tensor) -> tf.Tensor:
        def total(flag: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # The copy lies on the replica's device; where the argument lies
            # is not known, and the reduction asks.
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.identity(flag)
            )

        results = self._strategy.run(total, args=(flag,))
        return self._strategy.experimental_local_results(results)[0]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a program runs.

    Args:
        strategy: to make models in its scope and run steps on its replicas.
        name: one of `CHOICES`, but never "auto".
        reason: what was chosen and why, for the user to read.
        worker: number of this process, from 0.
        num_workers: processes that train together.
    """

    strategy: tf.distribute.Strategy
    name: str
    reason: str
    worker: int = 0
    num_workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.worker == 0

    @property
    def num_replicas(self) -> int:
        """Devices that train together, over all workers."""
        return self.strategy.num_replicas_in_sync

    @functools.cached_property
    def meeting(self) -> Meeting:
        """Where the workers wait for each other."""
        return Meeting(self.strategy, self.num_workers)

    @property
    def default_precision(self) -> str:
        """What "auto" means here: bfloat16 is what a TPU multiplies."""
        return "mixed_bfloat16" if self.name == "tpu" else "float32"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process' place in TF_CONFIG."""

    workers: tuple[str, ...]
    index: int


def read_tf_config(text: str | None) -> Cluster | None:
    """Reads the environment variable TF_CONFIG.

    Args:
        text: its value, or None.

    Returns:
        The cluster, or None where the variable is not set or empty.

    Raises:
        StrategyError: naming what is missing or malformed.

    Example:

    >>> read_tf_config('{"cluster": {"worker": ["a:1", "b:1"]},'
    ...                ' "task": {"type": "worker", "index": 1}}').index
    1
    """
    if not text or not text.strip() or text.strip() == "{}":
        return None
    shape = (
        '{"cluster": {"worker": ["host:port", ...]}, '
        '"task": {"type": "worker", "index": 0}}'
    )

    def wrong(what: str) -> StrategyError:
        return StrategyError(f"TF_CONFIG {what}. Allowed is {shape}.")

    try:
        values = json.loads(text)
    except ValueError as error:
        raise wrong(f"is no JSON ({error})") from None
    if not isinstance(values, dict):
        raise wrong(f"is no JSON object: {text}")
    cluster, task = values.get("cluster"), values.get("task")
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise wrong("needs `cluster` and `task`")
    unknown = sorted(set(cluster) - {"chief", "worker"})
    if unknown:
        raise wrong(f"names jobs that do not train here: {', '.join(unknown)}")
    addresses: list[str] = []
    first: dict[str, int] = {}
    for job in ("chief", "worker"):
        members = cluster.get(job, [])
        if not isinstance(members, list):
            raise wrong(f"has no list of addresses for `{job}`: {members!r}")
        first[job] = len(addresses)
        addresses += members
    for address in addresses:
        if not isinstance(address, str) or not re.fullmatch(r".+:\d+", address):
            raise wrong(f"has an address that is not host:port: {address!r}")
    if not addresses:
        raise wrong("names no worker")
    if len(set(addresses)) < len(addresses):
        raise wrong(f"names an address twice: {', '.join(addresses)}")
    kind: Any = task.get("type")
    index = task.get("index")
    size = len(cluster.get(kind, [])) if kind in list(first) else 0
    if not isinstance(kind, str) or not size:
        raise wrong(f"has a task of type {kind!r} that is not in its cluster")
    if type(index) is not int or not 0 <= index < size:
        raise wrong(
            f"has the task index {index!r}, where `{kind}` has {size} "
            f"member{'s' * (size > 1)}"
        )
    return Cluster(tuple(addresses), first[kind] + index)


def tpu_is_attached() -> bool:
    """Whether this machine is a TPU VM, by its device files."""
    return any(glob.glob(pattern) for pattern in _TPU_DEVICE_FILES)


def choose_strategy(
    name: str = "auto",
    tpu: str | None = None,
    logical_cpus: int | None = None,
    environ: Mapping[str, str] = os.environ,
    connect_seconds: float = 60.0,
) -> Placement:
    """Sets up the devices that a program shall run on.

    Args:
        name: one of `CHOICES`. "auto" takes a TPU if there is one or `tpu` is
            given, all workers if TF_CONFIG names several, all GPUs if there
            are several, or else the one device.
        tpu: "local" for the TPU of this machine (TPU VM, Colab), its name, or
            its address `grpc://host:port`.
        logical_cpus: divides the CPU into so many devices, to try out several
            replicas without accelerators. Slower than one device.
        environ: environment variables; TF_CONFIG and COLAB_TPU_ADDR are read.
        connect_seconds: how long an address or name may take to answer.

    Returns:
        A `Placement`.

    Raises:
        StrategyError: the devices are not there, cannot be reached in time,
            or the arguments contradict each other.

    Example:

    >>> import keras
    >>> placement = choose_strategy("one_device", environ={})
    >>> with placement.strategy.scope():
    ...     model = keras.Sequential([keras.layers.Dense(2)])
    >>> placement.name, placement.strategy.num_replicas_in_sync
    ('one_device', 1)
    """
    if name not in CHOICES:
        raise StrategyError(
            f"distribution_strategy={name!r} is not possible: allowed is one "
            f"of {', '.join(CHOICES)}."
        )
    cluster = read_tf_config(environ.get("TF_CONFIG"))
    several = cluster is not None and len(cluster.workers) > 1
    _check_combination(name, tpu, logical_cpus, several)
    why = "as asked for"
    if name == "auto":
        name, tpu, why = _decide(tpu, logical_cpus, several, environ)
    if name == "tpu":
        return _tpu(tpu or "local", why, connect_seconds)
    if name == "multi_worker_mirrored":
        if cluster is None:
            raise StrategyError(
                "distribution_strategy=multi_worker_mirrored needs the "
                "environment variable TF_CONFIG, which names the workers."
            )
        return _multi_worker(cluster, why)
    devices = _local_devices(logical_cpus)
    kind = devices[0].split(":")[0]
    if name == "mirrored":
        if len(devices) < 2:
            raise StrategyError(
                "distribution_strategy=mirrored needs two devices or more; "
                f"there is one {kind}. Use one_device, or logical_cpus=2 to "
                "try several replicas on a CPU."
            )
        return Placement(
            tf.distribute.MirroredStrategy(devices),
            name,
            f"mirrored on {len(devices)} {kind} devices ({why})",
        )
    if len(devices) > 1 and why == "as asked for":
        why = f"as asked for; {len(devices) - 1} more not used"
    return Placement(
        tf.distribute.OneDeviceStrategy(f"/device:{devices[0]}"),
        "one_device",
        f"one device, {kind} ({why})",
    )


def _check_combination(
    name: str, tpu: str | None, logical_cpus: int | None, several: bool
) -> None:
    if tpu is not None and name not in ("auto", "tpu"):
        raise StrategyError(
            f"tpu={tpu!r} is not possible with distribution_strategy={name}: "
            "allowed is tpu or auto."
        )
    if tpu is not None and not tpu:
        raise StrategyError(
            "tpu='' is not possible: allowed is local, the name of a TPU, or "
            "grpc://host:port."
        )
    if logical_cpus is not None:
        if logical_cpus < 1:
            raise StrategyError(
                f"logical_cpus={logical_cpus} is not possible: allowed is 1 "
                "or more."
            )
        if tpu is not None or name in ("tpu", "multi_worker_mirrored"):
            raise StrategyError(
                f"logical_cpus={logical_cpus} is not possible with "
                f"{'tpu' if tpu is not None else name}: allowed is mirrored, "
                "one_device or auto."
            )
    if several and name in ("mirrored", "one_device"):
        raise StrategyError(
            f"distribution_strategy={name} is not possible while TF_CONFIG "
            "names several workers, as each would train alone and overwrite "
            "the others' files: use multi_worker_mirrored, or unset TF_CONFIG."
        )


def _decide(
    tpu: str | None,
    logical_cpus: int | None,
    several: bool,
    environ: Mapping[str, str],
) -> tuple[str, str | None, str]:
    """Resolves "auto": name, TPU and reason."""
    if tpu is not None:
        return "tpu", tpu, "auto: a TPU was named"
    if several:
        return "multi_worker_mirrored", None, "auto: TF_CONFIG names workers"
    if logical_cpus is not None:
        chosen = "mirrored" if logical_cpus > 1 else "one_device"
        return chosen, None, "auto: logical CPUs were asked for"
    if environ.get("COLAB_TPU_ADDR"):
        address = "grpc://" + environ["COLAB_TPU_ADDR"]
        return "tpu", address, "auto: Colab names a TPU"
    hint = ""
    if tpu_is_attached():
        if tf.config.list_physical_devices("TPU_SYSTEM"):
            return "tpu", "local", "auto: this machine has a TPU"
        hint = (
            "; a TPU is attached, but this TensorFlow cannot use it: see "
            "`luna-doctor env`"
        )
    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus > 1:
        return "mirrored", None, f"auto: {gpus} GPUs are visible{hint}"
    found = "one GPU is visible" if gpus else "no TPU or GPU is visible"
    return "one_device", None, f"auto: {found}{hint}"


def _local_devices(logical_cpus: int | None) -> list[str]:
    if logical_cpus is not None:
        set_logical_cpus(logical_cpus)
        return [f"CPU:{i}" for i in range(logical_cpus)]
    gpus = tf.config.list_physical_devices("GPU")
    return [f"GPU:{i}" for i in range(len(gpus))] or ["CPU:0"]


def set_logical_cpus(count: int) -> None:
    """Divides the CPU into several devices.

    Args:
        count: how many, at least 1.

    Raises:
        StrategyError: TensorFlow already uses the CPU with another number.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:
        present = len(tf.config.list_logical_devices("CPU"))
        if present != count:
            raise StrategyError(
                f"logical_cpus={count} is not possible: TensorFlow was "
                f"started with {present} and keeps them until the process "
                "ends."
            ) from None


def _multi_worker(cluster: Cluster, why: str) -> Placement:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    count = len(cluster.workers)
    return Placement(
        strategy,
        "multi_worker_mirrored",
        f"worker {cluster.index + 1} of {count}, "
        f"{strategy.num_replicas_in_sync} replicas in all ({why})",
        cluster.index,
        count,
    )


def _tpu(tpu: str, why: str, connect_seconds: float) -> Placement:
    if tpu.startswith("grpc://"):
        _check_address(tpu, connect_seconds)

    def resolve() -> tf.distribute.cluster_resolver.TPUClusterResolver:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
        resolver.master()  # where a name is looked up
        return resolver

    try:
        resolver = _bounded(resolve, connect_seconds)
    except TimeoutError:
        raise StrategyError(
            f"tpu={tpu!r} did not answer within {connect_seconds:g} seconds. "
            "Check its name, zone and state "
            "(`gcloud compute tpus tpu-vm list`)."
        ) from None
    except Exception as error:
        raise StrategyError(
            f"tpu={tpu!r} was not found: {_first_line(error)}. Allowed is "
            "local, the name of a TPU, or grpc://host:port."
        ) from error
    try:
        if tpu != "local":
            _bounded(
                lambda: tf.config.experimental_connect_to_cluster(resolver),
                connect_seconds,
            )
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except TimeoutError:
        raise StrategyError(
            f"tpu={tpu!r} accepts connections but did not answer within "
            f"{connect_seconds:g} seconds: is it a TPU?"
        ) from None
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise StrategyError(
            f"tpu={tpu!r} could not be started: {_first_line(error)}. "
            "`luna-doctor env` checks the installation."
        ) from error
    return Placement(
        strategy,
        "tpu",
        f"TPU {tpu}, {strategy.num_replicas_in_sync} replicas ({why})",
    )


def _check_address(tpu: str, seconds: float) -> None:
    match = re.fullmatch(r"grpc://\[?([^\]/]+)\]?:(\d+)", tpu)
    if not match:
        raise StrategyError(
            f"tpu={tpu!r} is not possible: allowed is grpc://host:port."
        )
    host, port = match[1], int(match[2])
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, OverflowError) as error:
        raise StrategyError(
            f"tpu={tpu!r} cannot be reached: {error} (waited at most "
            f"{seconds:g} seconds)."
        ) from None


def _bounded(function: Callable[[], Any], seconds: float) -> Any:
    """Calls a function that may hang, and gives up on it after a while."""
    answers: queue.Queue = queue.Queue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:  # handed on to the caller
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return answer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
