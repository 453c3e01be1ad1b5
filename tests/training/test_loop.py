"""The steps on one device; other tests compare it with several."""

import keras
import numpy as np
import pytest
import subjects
import tensorflow as tf

from luna_tf.training.loop import Loop
from luna_tf.training.sources import (
    IndexedSource,
    Share,
    step_indices,
    training_dataset,
)
from luna_tf.training.tasks import Classification

VOCABULARY, CLASSES, LENGTH = 7, 3, 5


class Classifier(keras.Model):
    """The least model with an embedding, dropout and an unused weight."""

    def __init__(self, dropout=0.0, penalty=None, normalize=False):
        super().__init__()
        self.embedding = keras.layers.Embedding(VOCABULARY, 4)
        self.dropout = keras.layers.Dropout(dropout, seed=3)
        self.normalization = (
            keras.layers.BatchNormalization() if normalize else None
        )
        self.head = keras.layers.Dense(CLASSES, kernel_regularizer=penalty)
        self.unused = keras.layers.Dense(2, name="unused")

    def build(self, input_shape=None):
        self.embedding.build((None, LENGTH))
        self.head.build((None, 4))
        self.unused.build((None, 4))
        if self.normalization:
            self.normalization.build((None, LENGTH, 4))

    def call(self, token_ids, training=None):
        tokens = self.dropout(self.embedding(token_ids), training=training)
        if self.normalization:
            tokens = self.normalization(tokens, training=training)
        return self.head(keras.ops.mean(tokens, axis=1))


def make_model(**arguments):
    keras.utils.set_random_seed(0)
    model = Classifier(**arguments)
    model.build()
    return model


def make_source(size, seed=0):
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, VOCABULARY, (size, LENGTH))
    labels = token_ids.sum(axis=1) % CLASSES
    token_ids = tf.constant(token_ids, tf.int32)
    labels = tf.constant(labels, tf.int32)
    return IndexedSource(
        size,
        lambda i: {
            "token_ids": tf.gather(token_ids, i),
            "labels": tf.gather(labels, i),
        },
    )


def make_loop(model=None, optimizer=None, jit_compile=False, **arguments):
    return Loop(
        Classification(model or make_model()),
        optimizer or keras.optimizers.AdamW(1e-2),
        jit_compile=jit_compile,
        **arguments,
    )


def run(loop, source, steps=6, batch_size=4, first=0):
    """Makes steps; returns the loss of each."""
    dataset = training_dataset(
        source, Share(batch_size), 0, first, first + steps
    )
    iterator = iter(dataset)
    loop.build(next(iter(dataset)))
    losses = []
    for _ in range(steps):
        loop.run_steps(iterator, np.int64(1))
        losses.append(loop.take_measurements().loss)
    return losses


def by_hand(model, source, update, steps=6, batch_size=4):
    """The same training in a few lines; one-hot rows make gradients dense."""
    used = [v for v in model.trainable_variables if "unused" not in v.path]
    for step in range(steps):
        batch = source.gather(step_indices(step, source, batch_size, 0))
        with tf.GradientTape() as tape:
            rows = tf.one_hot(batch["token_ids"], VOCABULARY)
            vectors = rows @ model.embedding.embeddings
            logits = model.head(tf.reduce_mean(vectors, axis=1))
            losses = keras.losses.sparse_categorical_crossentropy(
                batch["labels"], logits, from_logits=True
            )
            loss = tf.reduce_mean(losses) + sum(model.head.losses)
        update(tape.gradient(loss, used), used)


def assert_same(model, other, atol=2e-6):
    for got, expected in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=atol)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_equal_plain_dense_training(jit_compile):
    source, model, other = make_source(12), make_model(), make_model()
    run(make_loop(model, jit_compile=jit_compile), source)
    optimizer = keras.optimizers.AdamW(1e-2)
    by_hand(other, source, optimizer.apply)
    assert_same(model, other)


def test_sparse_gradients_would_train_otherwise():
    # What Keras does to an embedding's gradient, so that the test above
    # cannot pass by chance: repeated tokens are squared one by one.
    source, model, other = make_source(12), make_model(), make_model()
    run(make_loop(model), source, steps=1)
    used = [v for v in other.trainable_variables if "unused" not in v.path]
    batch = source.gather(step_indices(0, source, 4, 0))
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            batch["labels"], other(batch["token_ids"]), from_logits=True
        )
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, used)
    assert any(isinstance(g, tf.IndexedSlices) for g in gradients)
    keras.optimizers.AdamW(1e-2, epsilon=1e-3).apply(gradients, used)
    difference = np.abs(model.embedding.embeddings - other.embedding.embeddings)
    assert difference.max() > 1e-4


@pytest.mark.parametrize(
    "clip",
    [{"global_clipnorm": 0.1}, {"clipnorm": 0.05}, {"clipvalue": 0.01}],
    ids=lambda clip: next(iter(clip)),
)
def test_clipping_is_that_of_keras_and_stays_in_the_config(clip):
    source, model, other = make_source(12), make_model(), make_model()
    optimizer = keras.optimizers.SGD(1.0, **clip)
    loop = make_loop(model, optimizer)
    run(loop, source)
    by_hand(other, source, keras.optimizers.SGD(1.0, **clip).apply)
    assert_same(model, other)
    assert optimizer.get_config().items() >= clip.items()
    # It did clip, and the norm that is told is that of before.
    unclipped = make_model()
    run(make_loop(unclipped, keras.optimizers.SGD(1.0)), source)
    head = [m.head.kernel.numpy() for m in (model, unclipped)]
    assert np.abs(head[0] - head[1]).max() > 1e-3


def test_the_gradient_norm_is_that_before_clipping():
    norms = []
    for clip in (None, 1e-3):
        loop = make_loop(
            optimizer=keras.optimizers.SGD(0.0, global_clipnorm=clip)
        )
        dataset = training_dataset(make_source(8), Share(8), 0, 0, 1)
        loop.run_steps(iter(dataset), np.int64(1))
        norms.append(loop.take_measurements().gradient_norm)
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 1e-2


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("subject", subjects.SUBJECTS)
def test_accumulated_parts_equal_the_whole_batch(subject, parts):
    results = []
    for accumulation_steps in (1, parts):
        loop = subjects.make_loop(
            subject,
            "adamw",
            accumulation_steps=accumulation_steps,
            jit_compile=False,
        )
        source = subjects.SUBJECTS[subject][1]()
        losses = run(loop, source, steps=3, batch_size=8)
        results.append((losses, loop.model))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    assert_same(results[0][1], results[1][1], atol=2e-5)


@pytest.mark.parametrize("attention", ["luna", "softmax"])
@pytest.mark.parametrize("parts", [1, 2])
def test_recomputed_blocks_train_as_kept_ones(parts, attention):
    """A rematerialised function must not hide its weights from the loop."""
    results = []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        task = subjects.make_lra(0.3, attention=attention, remat=remat)
        loop = Loop(
            task,
            subjects.make_optimizer("sgd"),
            accumulation_steps=parts,
            jit_compile=False,
        )
        source = subjects.lra_source()
        losses = run(loop, source, steps=2, batch_size=8)
        results.append((losses, loop.model))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    assert_same(results[0][1], results[1][1], atol=1e-6)


def test_parts_that_do_not_divide_the_rows_are_refused():
    loop = make_loop(accumulation_steps=3)
    with pytest.raises(ValueError, match="accumulation_steps=3 must divide"):
        run(loop, make_source(8), steps=1)


def test_activity_penalties_are_means_over_what_counts():
    """What a layer adds by itself, next to the regularizers of weights."""

    class Penalized(Classifier):
        def call(self, token_ids, training=None):
            logits = super().call(token_ids, training)
            self.add_loss(0.01 * keras.ops.mean(logits**2))
            return logits

    source, weights = make_source(12), []
    for parts in (1, 2):
        keras.utils.set_random_seed(0)
        model = Penalized()
        model.build()
        loop = make_loop(
            model,
            keras.optimizers.SGD(1.0),
            accumulation_steps=parts,
        )
        run(loop, source)
        weights.append(model.head.kernel.numpy())
    plain = make_model()
    run(make_loop(plain, keras.optimizers.SGD(1.0)), source)
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)
    assert np.abs(weights[0] - plain.head.kernel.numpy()).max() > 1e-4


def test_penalties_count_once_whatever_the_parts():
    penalty = keras.regularizers.L2(0.5)
    source, other = make_source(12), make_model(penalty=penalty)
    by_hand(other, source, keras.optimizers.SGD(0.1).apply)
    for parts in (1, 2):
        model = make_model(penalty=penalty)
        run(
            make_loop(
                model, keras.optimizers.SGD(0.1), accumulation_steps=parts
            ),
            source,
        )
        assert_same(model, other)


def test_the_loss_is_divided_by_what_counts_not_by_what_there_is():
    """Half of the masked positions carry weight 0."""
    loop = subjects.make_loop("masked", "sgd", jit_compile=False)
    source = subjects.masked_source()
    batch = source.gather(step_indices(0, source, 8, 0))
    logits = loop.model({n: batch[n] for n in ("token_ids", "mask_positions")})
    losses = keras.losses.sparse_categorical_crossentropy(
        batch["labels"], logits, from_logits=True
    )
    weights = batch["mask_weights"].numpy()
    assert 0 < weights.sum() < weights.size
    expected = np.sum(losses * weights) / weights.sum()
    (loss,) = run(loop, source, steps=1, batch_size=8)
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_moving_averages_move_as_in_keras_and_once_per_part():
    source = make_source(12)
    expected = make_model(normalize=True)
    for step in range(3):
        batch = source.gather(step_indices(step, source, 4, 0))
        expected(batch["token_ids"], training=True)
    for parts in (1, 2):
        model = make_model(normalize=True)
        optimizer = keras.optimizers.SGD(0.0)
        loop = make_loop(model, optimizer, accumulation_steps=parts)
        run(loop, source, steps=3)
        moving = model.normalization.moving_mean.numpy()
        if parts == 1:
            wanted = expected.normalization.moving_mean
            np.testing.assert_allclose(moving, wanted, atol=1e-6)
        assert np.abs(moving).max() > 0


class TestDropout:
    def test_masks_follow_from_the_step_alone(self):
        first, second = (make_model(dropout=0.5) for _ in range(2))
        frozen = keras.optimizers.SGD
        losses = run(make_loop(first, frozen(0.0)), make_source(8), 4, 8)
        again = run(make_loop(second, frozen(0.0)), make_source(8), 4, 8)
        assert losses == again
        assert len(set(losses)) == 4

    def test_seed_states_stay_as_they_are(self):
        model = make_model(dropout=0.5)
        before = model.dropout.seed_generator.state.numpy()
        run(make_loop(model), make_source(8), 3)
        after = model.dropout.seed_generator.state.numpy()
        np.testing.assert_array_equal(before, after)

    def test_parts_of_a_batch_drop_other_entries(self):
        seen = []
        loop = make_loop(make_model(dropout=0.5), accumulation_steps=4)
        for part in range(4):
            ((_, seed),) = loop._draw_seeds(part)
            seen.append(tuple(seed.numpy()))
        loop.step.assign(1)
        ((_, seed),) = loop._draw_seeds(0)
        seen.append(tuple(seed.numpy()))
        assert len(set(seen)) == 5

    def test_seeds_stay_in_31_bits_after_millions_of_steps(self):
        loop = make_loop(make_model(dropout=0.5))
        seen = set()
        for step in (0, 1, 2**21 - 1, 2**21, 2**21 + 1, 2**33, 2**33 + 1):
            loop.step.assign(step)
            ((_, seed),) = loop._draw_seeds(0)
            seed = seed.numpy()
            assert (seed >= 0).all() and (seed < 2**31).all()
            seen.add(tuple(seed))
        assert len(seen) == 7

    def test_evaluation_drops_nothing(self):
        loop = make_loop(make_model(dropout=0.5))
        batch = {
            **make_source(8).gather(tf.range(8)),
            "example_weights": tf.ones(8),
        }
        losses = []
        for _ in range(2):
            loop.evaluate_replica(batch)
            losses.append(loop.take_measurements().loss)
        assert losses[0] == losses[1]


def test_many_steps_in_one_call_are_the_same_steps():
    one, other = make_model(dropout=0.3), make_model(dropout=0.3)
    source = make_source(12)
    run(make_loop(one), source, steps=6)
    loop = make_loop(other)
    dataset = training_dataset(source, Share(4), 0, 0, 6)
    loop.build(next(iter(dataset)))
    iterator = iter(dataset)
    loop.run_steps(iterator, np.int64(4))
    loop.run_steps(iterator, np.int64(2))
    assert loop.run_steps.experimental_get_tracing_count() == 1
    for first, second in zip(
        one.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(first, second)


def test_the_learning_rate_is_that_of_the_last_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [0.5, 0.25]
    )
    loop = make_loop(optimizer=keras.optimizers.SGD(schedule))
    dataset = iter(training_dataset(make_source(8), Share(4), 0, 0, 3))
    rates = []
    for _ in range(3):
        loop.run_steps(dataset, np.int64(1))
        rates.append(loop.take_measurements().learning_rate)
    assert rates == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_first_step_that_is_not_finite_is_remembered(jit_compile):
    model = make_model()
    loop = make_loop(model, jit_compile=jit_compile)
    run(loop, make_source(8), 2)
    assert loop.take_measurements().bad_step is None
    model.head.kernel.assign(model.head.kernel * np.nan)
    dataset = iter(training_dataset(make_source(8), Share(4), 0, 2, 5))
    loop.run_steps(dataset, np.int64(3))
    assert loop.take_measurements().bad_step == 2


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
    # Clipping must see the gradient without the scale.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(1e-2, global_clipnorm=10.0),
        initial_scale=2.0**8,
    )
    loop = make_loop(model, optimizer, jit_compile=True)
    losses = run(loop, make_source(8), steps=60, batch_size=8)
    assert losses[-1] < losses[0]
    assert loop.take_measurements().gradient_norm < 10.0


class TestArguments:
    def test_accumulation_belongs_to_the_loop(self):
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        with pytest.raises(ValueError, match="give accumulation_steps to"):
            make_loop(optimizer=optimizer)
        with pytest.raises(ValueError, match="must be at least 1"):
            make_loop(accumulation_steps=0)

    def test_something_else_than_a_keras_optimizer(self):
        class Other:
            gradient_accumulation_steps = None

        with pytest.raises(TypeError, match="must be a Keras optimizer"):
            make_loop(optimizer=Other())


def test_variables_are_listed_once():
    loop = make_loop(make_model(dropout=0.1))
    run(loop, make_source(8), 1)
    keys = [v.ref() for v in loop.variables]
    assert len(keys) == len(set(keys))
    model_size = sum(int(np.prod(v.shape)) for v in loop.model.variables)
    total = sum(int(np.prod(v.shape)) for v in loop.variables)
    assert total > 2 * model_size
