"""Simulated TPU replicas against one device."""

import functools

import keras
import numpy as np
import pytest
import subjects
import tensorflow as tf
import tpu_checks

from luna_tf.interop.tpu import lowering, replica_program
from luna_tf.interop.tpu.simulate import simulate
from luna_tf.interop.tpu.tracing import tracing_strategy

pytestmark = [pytest.mark.multiprocess, tpu_checks.needs_jax]
STEPS, ROWS = 5, 8
CLIP = 0.01


def batches(subject, steps=STEPS):
    """Global batches whose weights differ from replica to replica."""
    source = subjects.SUBJECTS[subject][1](STEPS * ROWS)
    for step in range(steps):
        batch = source.gather(tf.range(step * ROWS, (step + 1) * ROWS))
        weights = np.ones(ROWS, np.float32)
        weights[: step + 1] = 0.0
        yield {
            **{name: tensor.numpy() for name, tensor in batch.items()},
            "example_weights": weights,
        }


def train_one_device(loop, steps):
    """Losses of the steps and final values."""
    losses = []
    run = tf.function(loop.train_replica, autograph=False)
    loop.build(steps[0])
    for batch in steps:
        run({name: tf.constant(array) for name, array in batch.items()})
        measured = loop.take_measurements()
        losses.append(measured.loss)
        assert measured.gradient_norm > CLIP  # which is at work, then
    return losses, [v.numpy() for v in loop.variables]


def train_replicas(loop, steps, replica_fn=None):
    """A simulation that starts each step with cleared sums."""
    count = loop.num_replicas

    def step(batch):
        loop._sums.assign(tf.zeros_like(loop._sums))
        return (replica_fn or loop.train_replica)(batch)

    batch = tpu_checks.specs(steps[0], count)
    loop.build({name: tf.zeros(s.shape, s.dtype) for name, s in batch.items()})
    program = replica_program.trace(loop.strategy, step, batch, loop.variables)
    return simulate(
        lowering.lower(program),
        replica_program.initial_values(loop.strategy, loop.variables),
        [tpu_checks.split(batch, count) for batch in steps],
    )


def assert_equal_on_all_replicas(result):
    for values in result.values:
        for value in values:
            np.testing.assert_array_equal(
                value, value[:1].repeat(len(value), 0)
            )


@pytest.mark.parametrize(
    "subject, optimizer, replicas, parts",
    [
        ("lra", "sgd", 2, 1),
        ("lra", "adamw", 4, 2),
        ("masked", "sgd", 4, 1),
        ("masked", "adamw", 2, 1),
    ],
)
def test_replicas_equal_one_device(subject, optimizer, replicas, parts):
    steps = list(batches(subject))
    clipped = functools.partial(subjects.make_optimizer, optimizer, clip=CLIP)
    losses, expected = train_one_device(
        subjects.make_loop(subject, clipped(), jit_compile=False), steps
    )
    strategy = tracing_strategy(replicas)
    with strategy.scope():
        optimizer_of_replicas = clipped()
    loop = subjects.make_loop(
        subject, optimizer_of_replicas, strategy, accumulation_steps=parts
    )
    result = train_replicas(loop, steps)

    assert_equal_on_all_replicas(result)
    sums = [v is loop._sums for v in loop.variables].index(True)
    got = [values[sums][0] for values in result.values]
    np.testing.assert_allclose([s[0] / s[1] for s in got], losses, rtol=1e-6)
    tolerance = {"sgd": 1e-6, "adamw": 2e-5}[optimizer]
    final = dict(zip(map(id, loop.variables), result.values[-1], strict=True))
    own = dict(zip(map(id, loop.variables), expected, strict=True))
    trained = loop.model.trainable_variables
    assert len(trained) > 10
    for variable in trained:
        if not variable.path.endswith(subjects.CANCELLED):
            np.testing.assert_allclose(
                final[id(variable.value)][0],
                own[id(variable.value)],
                atol=tolerance,
                err_msg=variable.path,
            )
    (step,) = (final[id(v)] for v in loop.variables if v is loop.step)
    assert step.tolist() == [STEPS] * replicas


def test_replicas_drop_other_entries_and_keep_equal_weights():
    steps = list(batches("lra", steps=1))
    steps[0]["example_weights"][:] = 1.0
    # The same examples everywhere, so that nothing but dropout differs.
    for name, array in steps[0].items():
        steps[0][name] = np.tile(array[:2], (4, *[1] * (array.ndim - 1)))
    strategy = tracing_strategy(4)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(1e-3)
    loop = subjects.make_loop("lra", optimizer, strategy, dropout=0.5)
    loop.task = Recorder(loop.task)

    def step(batch):
        loop.train_replica(batch)
        return loop.task.losses

    result = train_replicas(loop, steps * 2, step)
    first, second = (losses for (losses,) in result.outputs)
    for losses in (first, second):
        assert len({tuple(row) for row in losses.tolist()}) == 4
    assert np.abs(first - second).max() > 0.01
    assert_equal_on_all_replicas(result)


class Recorder:
    """A task that keeps the losses of its last call."""

    def __init__(self, task):
        self.task, self.model, self.metrics = task, task.model, task.metrics

    def __call__(self, batch, training):
        scores = self.task(batch, training)
        self.losses = scores.losses
        return scores


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda v, b: (v[1:], b), r"`values` must hold \d+ arrays"),
        (
            lambda v, b: ([v[0][:1], *v[1:]], b),
            r"`values\[0\]` must be float32 of shape \(2, 3\)",
        ),
        (
            lambda v, b: (v, [b[0], {"x": b[0]["x"].astype(np.float64)}]),
            r"`batches\[1\]\['x'\]` must be float32 .* Received: float64",
        ),
    ],
)
def test_refuses_arrays_that_do_not_fit(change, named):
    strategy = tracing_strategy(2)
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0, 3.0])
    program = lowering.lower(
        replica_program.trace(
            strategy,
            lambda batch: variable.assign_add(batch["x"]),
            {"x": tf.TensorSpec((3,))},
            [variable],
        )
    )
    values = replica_program.initial_values(strategy, [variable])
    batch = {"x": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match=named):
        simulate(program, *change(values, [batch, batch]))
