"""The translation trainer's step, as a TPU will run it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tpu_checks
from luna_tf.trainers import translate
from luna_tf.trainers.translate_decoding import Translator
from translation_runs import read_recipe

from luna_tf.data.parallel import Shape
from luna_tf.interop.tpu import compiling, lowering, replica_program
from luna_tf.interop.tpu.simulate import simulate
from luna_tf.interop.tpu.tracing import tracing_strategy
from luna_tf.interop.translation import longest_translation

SHAPE = Shape(source_length=16, target_length=8, rows=8)
ATTENTIONS = ["luna", "softmax"]
SMALL = {
    "vocabulary_size": 40,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "num_heads": 2,
    "packed_length": 4,
    "clip_norm": 0.01,
    # A smaller epsilon would turn rounding into full steps where a gradient
    # is tiny.
    "epsilon": 1e-4,
    "learning_rate": 0.05,
    "jit_compile": False,
}


def make_loop(attention, strategy, precision="float32", **changed):
    recipe = read_recipe(
        "quick", **{**SMALL, "attention": attention, **changed}
    )
    return translate.make_loop(recipe, strategy, precision)


def batches(count):
    """Batches of sentences that end at different places."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        batch = {}
        for name, spec in translate.batch_spec(SHAPE).items():
            batch[name] = np.ones(spec.shape, spec.dtype.as_numpy_dtype)
        for side, length in (("encoder", 16), ("decoder", 8)):
            ids = rng.integers(4, 40, (SHAPE.rows, length))
            ends = rng.integers(2, length, SHAPE.rows)[:, None]
            ids[np.arange(length) == ends] = 2
            ids[np.arange(length) > ends] = 1
            batch[f"{side}_token_ids"][:] = ids
        labels = batch["decoder_token_ids"]
        batch["labels"][:, :-1] = labels[:, 1:]
        batch["example_weights"][-3:] = 0.0  # all on the last replica
        yield batch


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_training_and_evaluation_are_traced(attention):
    loop = make_loop(attention, tracing_strategy(2), dropout=0.1)
    train, evaluation = tpu_checks.trace(loop, translate.batch_spec(SHAPE, 2))
    ops = {node.op for node in train.graph.node}
    assert "CrossReplicaSum" in ops
    assert not train.outputs and len(evaluation.outputs) == 1


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_beam_search_is_traced(attention, replicas):
    strategy = tracing_strategy(replicas)
    recipe = read_recipe("quick", **{**SMALL, "attention": attention})
    with strategy.scope():
        model = translate.make_model(recipe)
    translator = Translator(
        model, None, strategy, max_length=16, beam_size=2, jit_compile=True
    )

    def replica(batch):
        # `trace` follows variables into no loop: they are read before it.
        values = [(v, tf.identity(v.value)) for v in model.variables]
        with keras.StatelessScope(state_mapping=values):
            return translator.predictor.replica(batch)

    program = replica_program.trace(
        strategy,
        replica,
        {"encoder_token_ids": tf.TensorSpec((3, 16), tf.int32)},
        [variable.value for variable in model.variables],
    )
    tokens, lengths, scores = program.outputs
    longest = longest_translation(16, 1.5)
    assert tokens.shape == (3 * replicas, 2, longest)
    assert lengths.shape == scores.shape == (3 * replicas, 2)
    ops = {node.op for node in program.graph.node}
    ops |= {n.op for f in program.graph.library.function for n in f.node_def}
    # The search is a loop, and only its results travel.
    assert {"While", "StatelessWhile"} & ops
    assert ("CrossReplicaSum" in ops) == (replicas > 1)


@pytest.mark.multiprocess
@tpu_checks.needs_jax
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_replicas_equal_one_device(attention):
    steps = list(batches(3))
    one = make_loop(attention, tf.distribute.get_strategy())
    one.build(steps[0])
    run, losses = tf.function(one.train_replica, autograph=False), []
    for batch in steps:
        run({name: tf.constant(array) for name, array in batch.items()})
        measured = one.take_measurements()
        losses.append(measured.loss)
        assert measured.gradient_norm > SMALL["clip_norm"]

    loop = make_loop(attention, tracing_strategy(2))
    specs = translate.batch_spec(SHAPE, 2)
    loop.build({n: tf.zeros(s.shape, s.dtype) for n, s in specs.items()})
    program = replica_program.trace(
        loop.strategy, loop.train_replica, specs, loop.variables
    )
    result = simulate(
        lowering.lower(program),
        replica_program.initial_values(loop.strategy, loop.variables),
        [tpu_checks.split(batch, 2) for batch in steps],
    )
    final = dict(zip(map(id, loop.variables), result.values[-1], strict=True))
    trained = loop.model.trainable_variables
    assert len(trained) > 20
    for variable, own in zip(
        trained, one.model.trainable_variables, strict=True
    ):
        values = final[id(variable.value)]
        np.testing.assert_array_equal(values[0], values[1])
        # True gradient zero, as the softmax cancels it: AdamW blows up the
        # rounding.
        if not variable.path.endswith("key/bias"):
            np.testing.assert_allclose(
                values[0], own.numpy(), atol=2e-5, err_msg=variable.path
            )
    sums = [v is loop._sums for v in loop.variables].index(True)
    total = [values[sums][0] for values in result.values]
    differences = np.diff([np.zeros_like(total[0]), *total], axis=0)
    got = differences[:, 0] / differences[:, 1]
    np.testing.assert_allclose(got, losses, rtol=1e-4)


@pytest.mark.tpu_compile
@pytest.mark.multiprocess
@tpu_checks.needs_libtpu
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_step_compiles_for_four_chips(attention):
    keras.utils.set_random_seed(0)
    loop = make_loop(
        attention, tracing_strategy(4), "mixed_bfloat16", dropout=0.1
    )
    program, _ = tpu_checks.trace(loop, translate.batch_spec(SHAPE, 4))
    report = compiling.compile_program(lowering.lower(program), "v5e:2x2")
    assert report.fits and report.flops > 0
    assert len(report.hlo.all_reduces) == 1
    assert not report.hlo.host_transfers
    assert not report.hlo.dynamic_shapes
    assert not report.costs_are_lower_bounds
