"""The check that every trainer calls, on the loop of both subjects."""

import keras
import pytest
import subjects
import tensorflow as tf
import tpu_checks

from luna_tf.interop.tpu.cluster import TPUProgramError
from luna_tf.interop.tpu.tracing import tracing_strategy
from luna_tf.training.loop import Loop
from luna_tf.training.tasks import Classification

ROWS = 4


def batch_of(subject):
    source = subjects.SUBJECTS[subject][1]()
    batch = source.gather(tf.range(ROWS))
    return {
        "example_weights": tf.TensorSpec((ROWS,)),
        **{k: tf.TensorSpec(v.shape, v.dtype) for k, v in batch.items()},
    }


@pytest.mark.parametrize(
    "subject, parts, dropout", [("lra", 1, 0.1), ("masked", 2, 0.0)]
)
def test_training_and_evaluation_are_traced(subject, parts, dropout):
    loop = subjects.make_loop(
        subject,
        "adamw",
        tracing_strategy(2),
        dropout=dropout,
        accumulation_steps=parts,
    )
    train, evaluation = tpu_checks.trace(loop, batch_of(subject))
    ops = {node.op for node in train.graph.node}
    assert {"CrossReplicaSum", "Sqrt"} <= ops
    assert ("While" in ops or "StatelessWhile" in ops) == (parts > 1)
    assert not train.outputs and len(evaluation.outputs) == 1
    # Training changes every weight, evaluation none.
    count = len(train.variables)
    index = {id(v): i for i, v in enumerate(loop.variables)}
    for variable in loop.model.trainable_variables:
        place = index[id(variable.value)] - count
        for program, changes in ((train, True), (evaluation, False)):
            argument, result = program.arguments[place], program.results[place]
            assert (argument != result) == changes, variable.path


class Careless(Classification):
    """A task that does something to its batch which no TPU can."""

    def __init__(self, model, mistake):
        super().__init__(model)
        self.mistake = mistake

    def __call__(self, batch, training):
        self.mistake(batch["token_ids"])
        return super().__call__(batch, training)


def small_loop(mistake):
    strategy = tracing_strategy(2)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Embedding(subjects.VOCABULARY, 4),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(subjects.CLASSES),
            ]
        )
        optimizer = keras.optimizers.SGD(0.1)
        model.build((None, subjects.LENGTH))
        optimizer.build(model.trainable_variables)
    return Loop(Careless(model, mistake), optimizer, strategy)


@pytest.mark.parametrize(
    "mistake, named",
    [
        (lambda x: tf.py_function(lambda a: a, [x], x.dtype), "EagerPyFunc"),
        (lambda x: tf.print(x), "PrintV2"),
        (lambda x: tf.boolean_mask(x, x > 0), "Where"),
        (lambda x: tf.random.uniform((3,)), "RandomUniform"),
    ],
)
def test_a_careless_task_is_refused(mistake, named):
    with pytest.raises(TPUProgramError, match=named):
        tpu_checks.trace(small_loop(mistake), batch_of("lra"))


@pytest.mark.parametrize("mistake", [lambda x: x.numpy(), lambda x: bool(x[0])])
def test_values_in_python_are_refused(mistake):
    with pytest.raises((AttributeError, NotImplementedError, TypeError)):
        tpu_checks.trace(small_loop(mistake), batch_of("lra"))


def test_a_batch_of_unknown_size_is_refused():
    batch = batch_of("lra")
    batch["labels"] = tf.TensorSpec((None,), tf.int32)
    with pytest.raises(ValueError, match="labels.*static shape"):
        tpu_checks.trace(small_loop(lambda x: None), batch)
