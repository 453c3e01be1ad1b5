"""Steps compiled by the TPU's own compiler, for chips that are not there."""

import importlib.metadata
import importlib.util

import numpy as np
import pytest
import subjects
import tensorflow as tf
import tpu_checks

from luna_tf.interop.tpu import compiling, lowering, processes, replica_program
from luna_tf.interop.tpu.tracing import tracing_strategy

TOPOLOGY, REPLICAS, ROWS = "v5e:2x2", 4, 8
BATCH = {"x": tf.TensorSpec((128, 128))}


def needs_compiler(test):
    for mark in (pytest.mark.tpu_compile, pytest.mark.multiprocess):
        test = mark(test)
    return tpu_checks.needs_libtpu(test)


def lower(step, batch=BATCH, variables=(), strategy=None):
    strategy = strategy or tracing_strategy(REPLICAS)
    return lowering.lower(
        replica_program.trace(strategy, step, batch, variables)
    )


@needs_compiler
@pytest.mark.parametrize("subject", subjects.SUBJECTS)
def test_a_training_step_compiles_for_four_chips(subject):
    strategy = tracing_strategy(REPLICAS)
    loop = subjects.make_loop(subject, "adamw", strategy)
    source = subjects.SUBJECTS[subject][1]()
    batch = {k: v.numpy() for k, v in source.gather(tf.range(ROWS)).items()}
    batch["example_weights"] = np.ones(ROWS, np.float32)
    program, _ = tpu_checks.trace(loop, tpu_checks.specs(batch, REPLICAS))
    report = compiling.compile_program(lowering.lower(program), TOPOLOGY)
    assert report.fits
    assert 0 < report.needed_bytes < report.available_bytes
    assert report.flops > 0 and report.bytes_accessed > 0
    # One exchange of all gradients and sums; those known to be zero are left
    # out by the compiler.
    (tensors,) = report.hlo.all_reduces
    assert tensors > 0.8 * len(loop.model.trainable_variables)
    assert not report.hlo.host_transfers
    assert not report.hlo.dynamic_shapes
    assert not report.costs_are_lower_bounds
    # Every variable is an argument, and is updated in place.
    state = sum(v.dtype.size * v.shape.num_elements() for v in loop.variables)
    assert report.argument_bytes > state
    assert report.alias_bytes > 0.9 * report.argument_bytes


@needs_compiler
def test_a_loop_is_found_and_its_body_counted_once():
    def step(batch):
        x, start = batch["x"], (tf.constant(0), batch["x"])
        _, y = tf.while_loop(
            lambda i, _: i < 5, lambda i, y: (i + 1, tf.tanh(x @ y)), start
        )
        return y @ tf.transpose(x)

    report = compiling.compile_program(lower(step), TOPOLOGY)
    assert report.hlo.trip_counts == (5,) and report.costs_are_lower_bounds
    assert report.flops == pytest.approx(2 * 2 * 128**3, rel=0.1)
    assert report.roofline_seconds >= report.flops / 197e12
    # The batch, and the number of the replica.
    assert 128**2 * 4 < report.argument_bytes < 128**2 * 4 + 2**12


@needs_compiler
def test_random_bits_cost_what_a_tpu_pays_for_them():
    batch = {**BATCH, "seed": tf.TensorSpec((2,), tf.int32)}

    def step(batch):
        shape = batch["x"].shape
        return batch["x"] + tf.random.stateless_uniform(shape, batch["seed"])

    report = compiling.compile_program(lower(step, batch), TOPOLOGY)
    # Made by arithmetic, as CPU kernels ask for, they cost 80 each.
    assert 128**2 < report.flops < 10 * 128**2


@needs_compiler
def test_too_little_memory_is_a_result():
    def step(batch):
        scores = batch["x"] @ tf.transpose(batch["x"])
        return tf.reduce_sum(tf.nn.softmax(scores), axis=0)

    batch = {"x": tf.TensorSpec((2**17, 64))}
    report = compiling.compile_program(lower(step, batch), TOPOLOGY)
    assert not report.fits
    assert report.needed_bytes >= 2**34 * 4
    assert 15 * 2**30 < report.available_bytes < 16 * 2**30


@needs_compiler
def test_the_first_replica_speaks_for_all_on_the_chip_too():
    strategy = tracing_strategy(REPLICAS)
    with strategy.scope():
        first = tf.Variable(
            0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )

    def step(batch):
        context = tf.distribute.get_replica_context()
        first.assign(context.replica_id_in_sync_group)

    program = lower(step, variables=[first], strategy=strategy)
    report = compiling.compile_program(program, TOPOLOGY)
    assert report.hlo.collectives == {"all-to-all": 1}


def test_refuses_a_topology_with_too_few_devices():
    program = lower(lambda batch: batch["x"])
    with pytest.raises(ValueError, match="4 devices or more.*v5e:1x1.*has 1"):
        compiling.compile_program(program, "v5e:1x1")


def test_names_the_extra_when_the_compiler_is_missing(monkeypatch):
    program = lower(lambda batch: batch["x"])
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "libtpu" else find(name, *rest),
    )
    with pytest.raises(
        processes.MissingCompilerError,
        match=r"libtpu missing.*`pip install 'luna-tf\[tpu-compile\]'`",
    ):
        compiling.compile_program(program, TOPOLOGY)


@tpu_checks.needs_jax
def test_an_old_jax_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.6.2")
    with pytest.raises(processes.MissingCompilerError, match="jax 0.6.2 is"):
        processes.require("jax")


@pytest.mark.parametrize(
    "message, sizes",
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory "
            "on HBM, the total memory required for HLO temporaries (32.25G) "
            "exceeds available HBM (15.75G).",
            (32.25, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used "
            "512.00M of 0.25G hbm. Exceeded hbm capacity by 256.00M.",
            (0.5, 0.25),
        ),
    ],
)
def test_reads_what_the_compiler_refuses(monkeypatch, message, sizes):
    pretend(monkeypatch, {"out_of_memory": message, "seconds": 1.0})
    report = compiling.compile_program(lower(lambda b: b["x"]), TOPOLOGY)
    needed, available = (int(size * 2**30) for size in sizes)
    assert (report.needed_bytes, report.available_bytes) == (needed, available)


def test_another_memory_than_hbm_is_an_error(monkeypatch):
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem."
    pretend(monkeypatch, {"out_of_memory": message, "seconds": 1.0})
    with pytest.raises(RuntimeError, match="vmem"):
        compiling.compile_program(lower(lambda b: b["x"]), TOPOLOGY)


def pretend(monkeypatch, answer):
    monkeypatch.setattr(processes, "require", lambda *modules: None)
    monkeypatch.setattr(processes, "run_child", lambda *job: answer)


@pytest.mark.multiprocess
@tpu_checks.needs_jax
def test_a_child_that_fails_is_told_in_one_line():
    with pytest.raises(RuntimeError, match="^simulate failed.*No such file"):
        processes.run_child(
            {"task": "simulate", "program": "nowhere", "aliases": {}}
            | {"num_replicas": 1},
            {"JAX_PLATFORMS": "cpu"},
        )
