import numpy as np
import pytest
import tensorflow as tf
import tpu_checks

from luna_tf.interop.tpu import lowering, replica_program
from luna_tf.interop.tpu.cluster import TPUProgramError
from luna_tf.interop.tpu.replica_program import initial_values
from luna_tf.interop.tpu.simulate import simulate
from luna_tf.interop.tpu.tracing import tracing_strategy

REPLICAS = 2
BATCH = {"x": tf.TensorSpec((3,)), "index": tf.TensorSpec((), tf.int32)}


@pytest.fixture(scope="module")
def strategy():
    return tracing_strategy(REPLICAS)


@pytest.fixture(scope="module")
def outside():
    return tf.Variable(2.0)


@pytest.fixture(scope="module")
def total(strategy):
    with strategy.scope():
        return tf.Variable(1.0, name="total")


def all_reduce(tensors):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


@tpu_checks.needs_jax
@pytest.mark.multiprocess
def test_a_replica_reads_writes_and_exchanges_as_the_step_says(strategy):
    """Everything that a training step is made of, against NumPy."""
    table = np.arange(1, 5, dtype=np.float32)
    table_tensor = tf.constant(table)
    with strategy.scope():
        total = tf.Variable(1.0)
        vector = tf.Variable([0.5, 1.0, 1.5])
        first = tf.Variable(
            [0, 0],
            dtype=tf.int64,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        own = tf.Variable(
            0.0,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
        unused = tf.Variable(7)

    def step(batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        before = total + 0.0
        total.assign_add(1.0)
        after = total + 0.0
        total.assign(2.0 * after)
        read = tf.identity(vector)
        _, product = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, y: (i + 1, y * read),
            (tf.constant(0), batch["x"]),
        )
        summed, (count, _) = (
            all_reduce(product),
            all_reduce([tf.reduce_sum(batch["x"]), tf.constant(1.0)]),
        )
        vector.assign_sub(summed / 64)
        first.assign_add(tf.stack([tf.cast(replica, tf.int64) + 5, 1]))
        own.assign_add(tf.cast(replica, tf.float32))
        return {
            "a": tf.stack([before, after, count]),
            "b": table_tensor[batch["index"]],
        }

    variables = [total, vector, first, own, unused]
    program = replica_program.trace(strategy, step, BATCH, variables)
    assert [spec.shape for spec in program.outputs] == [(3,), ()]
    rng = np.random.default_rng(0)
    batches = [
        {
            "x": rng.normal(size=(REPLICAS, 3)).astype(np.float32),
            "index": np.array([step, 3 - step], np.int32),
        }
        for step in range(3)
    ]
    result = simulate(
        lowering.lower(program), initial_values(strategy, variables), batches
    )

    value, weights = np.float32(1.0), np.array([0.5, 1.0, 1.5], np.float32)
    for step, batch in enumerate(batches):
        counts = [value, value + 1, batch["x"].sum()]
        value = 2 * (value + 1)
        weights = weights - (batch["x"] * weights**3).sum(axis=0) / 64
        a, b = result.outputs[step]
        np.testing.assert_allclose(a, [counts] * REPLICAS, rtol=1e-5)
        np.testing.assert_array_equal(b, table[batch["index"]])
        expected = [value, weights, [5 * (step + 1), step + 1], None, 7]
        for index, want in enumerate(expected):
            got = result.values[step][index]
            if want is None:  # each replica's own
                want = np.arange(REPLICAS)[:, None] * (step + 1)
                got = got[:, None]
            for replica in range(REPLICAS):
                wanted = want[replica] if index == 3 else want
                np.testing.assert_allclose(got[replica], wanted, rtol=1e-5)


def in_a_loop(batch, total):
    tf.while_loop(lambda i: i < 3, lambda i: i + total, (tf.constant(0.0),))


def in_a_branch(batch, total):
    x = batch["x"][0]
    return tf.cond(x > 0, lambda: total.assign(x), lambda: x)


def in_a_function(batch, total):
    return tf.function(lambda: total + 1.0, autograph=False)()


def in_a_body(batch, total):
    def body(i, x):
        return i + 1, x + tf.random.uniform(())

    start = (tf.constant(0), batch["x"])
    return tf.while_loop(lambda i, _: i < 3, body, start)


@pytest.mark.parametrize(
    "step, named",
    [
        (in_a_loop, r"While \(while\) takes the variable 'total:0'"),
        (in_a_branch, r"If \(cond\) takes the variable 'total:0'"),
        (in_a_function, r"PartitionedCall.* takes the variable 'total:0'"),
        (in_a_body, r"RandomUniform \(while_body_\w+/while/.*/RandomUniform\)"),
        (
            lambda b, v: tf.py_function(lambda x: x, [b["x"]], tf.float32),
            r"EagerPyFunc \(EagerPyFunc\) is a callback",
        ),
        (
            lambda b, v: tf.numpy_function(lambda x: x, [b["x"]], tf.float32),
            r"PyFunc \(PyFunc\) is a callback",
        ),
        (lambda b, v: tf.print(b["x"]), "PrintV2 .* callback to the host"),
        (lambda b, v: tf.strings.as_string(b["x"]), r"AsString .* strings"),
        (lambda b, v: tf.where(b["x"] > 0), r"Where \(Where\) makes a shape"),
        (
            lambda b, v: tf.boolean_mask(b["x"], b["x"] > 0),
            r"Where \(boolean_mask/Where\) makes a shape",
        ),
        (lambda b, v: tf.unique(b["x"])[0], r"Unique \(Unique\) makes a shape"),
        (
            lambda b, v: b["x"] + tf.random.normal((3,)),
            "RandomStandardNormal .* random state",
        ),
        (
            lambda b, v: tf.raw_ops.VarIsInitializedOp(resource=v.handle),
            r"VarIsInitializedOp .* 'total:0' has no pure form",
        ),
    ],
)
def test_what_a_tpu_must_not_run_is_named(strategy, total, step, named):
    def replica(batch):
        step(batch, total)

    with pytest.raises(TPUProgramError, match=named):
        replica_program.trace(strategy, replica, BATCH, [total])


@pytest.mark.parametrize(
    "step",
    [
        lambda b: np.asarray(b["x"].numpy()),
        lambda b: 1.0 if b["x"][0] > 0 else 2.0,
        lambda b: [i for i in b["x"]],
    ],
)
def test_tracing_itself_refuses_values_in_python(strategy, step):
    with pytest.raises((AttributeError, NotImplementedError, TypeError)):
        replica_program.trace(strategy, step, BATCH, [])


def test_all_that_is_found_is_counted(strategy):
    def step(batch):
        return [tf.unique(batch["x"])[0] for _ in range(5)]

    with pytest.raises(TPUProgramError, match="Unique_2.*and 2 more$"):
        replica_program.trace(strategy, step, BATCH, [])


def test_assertions_do_nothing_on_a_tpu_and_are_left_out(strategy):
    def step(batch):
        tf.debugging.assert_greater(batch["x"], 0.0, message="positive")
        tf.debugging.assert_equal(batch["index"], 1, message="one")
        return batch["x"]

    program = replica_program.trace(strategy, step, BATCH, [])
    assert {node.op for node in program.graph.node} == {"Identity"}


@pytest.mark.parametrize("trace", ["trace", "trace_host_loop"])
def test_a_batch_of_unknown_size_is_refused(strategy, trace):
    batch = {**BATCH, "x": tf.TensorSpec((None, 3))}
    with pytest.raises(TPUProgramError, match=r"batch\['x'\].*\(None, 3\)"):
        getattr(replica_program, trace)(strategy, lambda b: None, batch, [])


def test_every_variable_must_be_handed_over(strategy, total, outside):
    for variable in (total, outside):
        with pytest.raises(TPUProgramError, match="not one of `variables`"):
            replica_program.trace(
                strategy, lambda b, v=variable: v + 1.0, BATCH, []
            )


def test_a_variable_from_outside_the_scope_is_refused(strategy, outside):
    with pytest.raises(TPUProgramError, match="outside of the strategy's"):
        replica_program.trace(strategy, lambda b: None, BATCH, [outside])


def test_xla_names_what_it_cannot_lower(strategy):
    def step(batch):
        return tf.random.stateless_gamma((3,), (1, 2), batch["x"])

    program = replica_program.trace(strategy, step, BATCH, [])
    with pytest.raises(TPUProgramError, match="StatelessRandomGamma"):
        lowering.lower(program)
