import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training.loop import (
    Examples,
    Loop,
    NonFiniteLossError,
    batch_indices,
)

VOCABULARY, CLASSES, LENGTH = 7, 3, 5


class Classifier(keras.Model):
    """The least model with an embedding, dropout and an unused weight."""

    def __init__(self, dropout=0.0, scale=1.0):
        super().__init__()
        self.scale = scale
        self.embedding = keras.layers.Embedding(VOCABULARY, 4)
        self.dropout = keras.layers.Dropout(dropout, seed=3)
        self.head = keras.layers.Dense(CLASSES)
        self.unused = keras.layers.Dense(2, name="unused")

    def build(self, input_shape):
        self.embedding.build(input_shape)
        self.head.build((None, 4))
        self.unused.build((None, 4))

    def call(self, token_ids, training=None):
        tokens = self.dropout(self.embedding(token_ids), training=training)
        return self.scale * self.head(keras.ops.mean(tokens, axis=1))


def make_model(**arguments):
    keras.utils.set_random_seed(0)
    return Classifier(**arguments)


def make_examples(size, seed=0):
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, VOCABULARY, (size, LENGTH))
    labels = (token_ids.sum(axis=1) % CLASSES).astype(np.uint8)
    return Examples(size, lambda i: (token_ids[i], labels[i]))


def make_loop(model=None, optimizer=None, jit_compile=False):
    return Loop(
        model or make_model(),
        optimizer or keras.optimizers.AdamW(1e-2),
        jit_compile=jit_compile,
    )


def train(loop, examples, **arguments):
    settings = {
        "batch_size": 4,
        "train_steps": 6,
        "validation": make_examples(5, seed=1),
        "eval_every": 3,
        "steps_per_loop": 2,
        **arguments,
    }
    return loop.train(examples, **settings)


class TestBatchIndices:
    def test_every_epoch_holds_every_example_once(self):
        size, batch_size = 10, 4
        seen = np.concatenate(
            [batch_indices(step, size, batch_size, 0) for step in range(10)]
        )
        epochs = seen.reshape(-1, size)
        for epoch in epochs:
            assert sorted(epoch) == list(range(size))
        assert len({tuple(epoch) for epoch in epochs}) == 4

    def test_depends_on_seed_and_step_alone(self):
        def at(step, seed):
            return batch_indices(step, 50, 8, seed).tolist()

        later = at(9, 1)
        assert at(3, 1) != later
        assert at(9, 1) == later
        assert at(9, 2) != later

    def test_a_batch_may_be_larger_than_the_set(self):
        counts = np.bincount(batch_indices(0, 3, 7, 0), minlength=3)
        assert sorted(counts) == [2, 2, 3]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_equal_plain_dense_training(jit_compile):
    examples = make_examples(12)
    model, reference = make_model(), make_model()
    reference.build((None, LENGTH))
    loop = make_loop(model, keras.optimizers.AdamW(1e-2), jit_compile)
    train(loop, examples)

    # The same by hand; one-hot rows make the embedding's gradient dense.
    optimizer = keras.optimizers.AdamW(1e-2)
    used = [v for v in reference.trainable_variables if "unused" not in v.path]
    table = reference.embedding.embeddings
    for step in range(6):
        token_ids, labels = examples.gather(batch_indices(step, 12, 4, 0))
        with tf.GradientTape() as tape:
            vectors = tf.one_hot(token_ids, VOCABULARY) @ table
            logits = reference.head(tf.reduce_mean(vectors, axis=1))
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, logits, from_logits=True
            )
            loss = tf.reduce_mean(loss)
        optimizer.apply(tape.gradient(loss, used), used)
    for got, expected in zip(
        model.get_weights(), reference.get_weights(), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_logs_are_means_over_the_steps_since_the_last_log():
    logs = []
    loop = make_loop(optimizer=keras.optimizers.SGD(0.0))
    examples = make_examples(8)
    train(loop, examples, on_log=logs.append)
    # Nothing is learnt, so two steps of four see the whole set once.
    whole = loop.evaluate(examples, batch_size=8)
    assert [log.step for log in logs] == [2, 3, 4, 6]
    assert [log.epoch for log in logs] == [1.0, 1.5, 2.0, 3.0]
    assert logs[0].loss == pytest.approx(whole.loss, rel=1e-5)
    assert logs[0].accuracy == pytest.approx(whole.accuracy)


def test_the_compiling_step_is_not_timed():
    logs = []
    result = train(
        make_loop(), make_examples(8), steps_per_loop=1, on_log=logs.append
    )
    assert logs[0].examples_per_second is None
    assert all(log.examples_per_second > 0 for log in logs[1:])
    assert result.examples_per_second > 0
    single = train(make_loop(), make_examples(8), train_steps=1)
    assert single.examples_per_second is None


def test_the_logged_learning_rate_is_that_of_the_last_step():
    logs = []
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [0.5, 0.25]
    )
    loop = make_loop(optimizer=keras.optimizers.SGD(schedule))
    train(loop, make_examples(8), steps_per_loop=1, on_log=logs.append)
    rates = [log.learning_rate for log in logs]
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 8, 64])
def test_evaluation_counts_every_example_once(batch_size):
    model, examples = make_model(), make_examples(7)
    got = make_loop(model).evaluate(examples, batch_size)
    token_ids, labels = examples.gather(np.arange(7))
    logits = model(token_ids).numpy()
    expected = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )
    assert got.num_examples == 7
    assert got.num_correct == (logits.argmax(axis=1) == labels).sum()
    assert got.loss == pytest.approx(float(np.mean(expected)), rel=1e-5)
    np.testing.assert_array_equal(got.predictions, logits.argmax(axis=1))


def test_evaluation_compiles_once_and_without_dropout():
    loop = make_loop(make_model(dropout=0.5))
    first = loop.evaluate(make_examples(7), batch_size=4)
    second = loop.evaluate(make_examples(7), batch_size=4)
    assert first.loss == second.loss
    assert loop._evaluation_step.experimental_get_tracing_count() == 1


def test_the_best_weights_are_those_that_validated_best():
    seen = {}

    def on_evaluation(step, evaluation, is_best):
        seen[step] = (evaluation, is_best, loop.model.get_weights())

    loop = make_loop(optimizer=keras.optimizers.SGD(2.0))
    validation = make_examples(40, seed=1)
    result = train(
        loop,
        make_examples(8),
        train_steps=20,
        validation=validation,
        on_evaluation=on_evaluation,
    )
    assert list(seen) == [3, 6, 9, 12, 15, 18, 20]
    best = max(
        seen, key=lambda step: (seen[step][0].accuracy, -seen[step][0].loss)
    )
    assert result.best_step == best
    assert result.best_evaluation is seen[best][0]
    assert [step for step, entry in seen.items() if entry[1]][-1] == best
    loop.model.set_weights(result.best_weights)
    again = loop.evaluate(validation, batch_size=4)
    assert again.loss == pytest.approx(seen[best][0].loss, rel=1e-6)


def test_training_twice_gives_the_same_weights():
    runs = []
    for _ in range(2):
        model = make_model(dropout=0.3)
        train(make_loop(model), make_examples(12), seed=5)
        runs.append(model.get_weights())
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_training_goes_on_from_the_step_it_reached():
    whole, parts = make_model(), make_model()
    train(make_loop(whole), make_examples(12))
    loop = make_loop(parts)
    train(loop, make_examples(12), train_steps=2)
    result = train(loop, make_examples(12), train_steps=6)
    assert result.step == 6
    for first, second in zip(
        whole.get_weights(), parts.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_loss_that_is_not_finite_stops_training_naming_the_step(
    jit_compile,
):
    examples = make_examples(8)

    def gather(indices):
        token_ids, labels = examples.gather(indices)
        gather.calls += 1
        if gather.calls == 3:
            model.head.kernel.assign(model.head.kernel * np.nan)
        return token_ids, labels

    gather.calls = 0
    model = make_model()
    model.build((None, LENGTH))
    with pytest.raises(NonFiniteLossError, match="at step 3\\."):
        train(
            make_loop(model, jit_compile=jit_compile),
            Examples(8, gather),
            steps_per_loop=5,
            eval_every=100,
        )


def test_an_interrupt_ends_training_in_order():
    def on_log(log):
        if log.step == 4:
            raise KeyboardInterrupt

    loop = make_loop()
    result = train(loop, make_examples(8), on_log=on_log)
    assert result.interrupted
    assert result.step == 4
    assert result.best_step == 3
    assert result.best_weights is not None
    assert loop.evaluate(make_examples(7), 4).num_examples == 7


def test_an_interrupted_validation_leaves_no_trace_in_the_next():
    def gather(indices):
        if indices[0] > 0:
            raise KeyboardInterrupt
        return examples.gather(indices)

    examples = make_examples(7)
    loop = make_loop()
    result = train(loop, examples, validation=Examples(7, gather))
    assert (result.step, result.best_step) == (3, None)
    assert loop.evaluate(examples, 4).num_examples == 7


def test_among_equal_validations_the_first_is_best():
    flags = []
    result = train(
        make_loop(optimizer=keras.optimizers.SGD(0.0)),
        make_examples(8),
        on_evaluation=lambda *arguments: flags.append(arguments[2]),
    )
    assert flags == [True, False]
    assert result.best_step == 3


def test_trains_in_half_precision_with_a_scaled_loss():
    keras.utils.set_random_seed(0)
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY, 8, dtype=policy),
            keras.layers.GlobalAveragePooling1D(dtype=policy),
            keras.layers.Dense(CLASSES, dtype=policy),
        ]
    )
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(1e-2), initial_scale=2.0**8
    )
    logs = []
    train(
        make_loop(model, optimizer, jit_compile=True),
        make_examples(8),
        train_steps=60,
        steps_per_loop=20,
        on_log=logs.append,
    )
    assert logs[-1].loss < logs[0].loss
