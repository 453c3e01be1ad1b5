"""Trainings on buckets, each of which has batches of a shape of its own.

Run as a program, `python test_bucketed.py OUT.npz PLACE`, it makes the same
training on the devices of a place; the tests run it on two replicas.
"""

import itertools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training.checkpoints import CheckpointError
from luna_tf.training.loop import Loop
from luna_tf.training.records import NonFiniteLossError, Schedule
from luna_tf.training.sources import (
    BlockOrder,
    BucketedSource,
    IndexedSource,
    as_buckets,
)
from luna_tf.training.tasks import Scores, Translation
from luna_tf.training.trainer import Trainer

SIZES, ROWS = (30, 12, 7), (8, 4, 2)
VOCABULARY = 9


# ------------------------------------------------------------------ the order


def numbers(sizes=SIZES, rows=ROWS):
    """Examples that are their own number through all buckets."""
    offsets = np.cumsum([0, *sizes[:-1]])
    return BucketedSource(
        [
            IndexedSource(
                size,
                # The number of columns is the bucket's own.
                lambda i, width=width, offset=offset: {
                    "number": tf.tile(
                        tf.cast(i + offset, tf.float32)[:, None], [1, width]
                    )
                },
            )
            for width, (size, offset) in enumerate(
                zip(sizes, offsets, strict=True), 1
            )
        ],
        rows,
    )


class TestOrder:
    @pytest.mark.parametrize("steps_per_loop", [1, 5])
    @pytest.mark.parametrize("seed", [0, 1, 2**40])
    def test_buckets_are_never_far_from_their_share(self, steps_per_loop, seed):
        source = numbers((3000, 1200, 70, 900), (30, 40, 70, 45))
        order = BlockOrder(source, steps_per_loop, seed)
        share = np.array([100, 30, 1, 20]) / 151
        for step in range(0, 2000 * steps_per_loop, 7):
            blocks = order.steps(step) / steps_per_loop
            assert np.abs(blocks - share * step / steps_per_loop).max() < 3

    def test_examples_of_all_buckets_count_alike(self):
        source = numbers((1000, 600), (10, 2))
        order = BlockOrder(source, 4, seed=0)
        seen = order.steps(40_000) * source.batch_sizes / [1000, 600]
        assert seen[0] == pytest.approx(seen[1], rel=0.01)
        assert order.examples(40_000) / 1600 == pytest.approx(seen[0], rel=0.01)

    def test_a_block_is_of_one_bucket_and_counts_are_exact(self):
        order = BlockOrder(numbers(), steps_per_loop=3, seed=1)
        buckets = [order.bucket(step) for step in range(300)]
        for block in range(100):
            assert len(set(buckets[3 * block : 3 * block + 3])) == 1
        for step in (*range(30), 299, 17):  # back as well
            counts = np.bincount(buckets[:step], minlength=3)
            np.testing.assert_array_equal(order.steps(step), counts)
            assert order.examples(step) == counts @ ROWS
            # A new one, as after a restart, finds the same place.
            again = BlockOrder(numbers(), steps_per_loop=3, seed=1)
            np.testing.assert_array_equal(again.steps(step), counts)
            assert again.bucket(step) == order.bucket(step)

    def test_depends_on_the_seed(self):
        orders = [BlockOrder(numbers(), 1, seed) for seed in range(5)]
        found = {tuple(o.bucket(s) for s in range(20)) for o in orders}
        assert len(found) == 5

    def test_every_example_once_per_epoch_of_its_bucket(self):
        source, steps = numbers(), 60
        order = BlockOrder(source, steps_per_loop=4, seed=0)
        seen = [[], [], []]
        for step in range(steps):
            seen[order.bucket(step)] += order.indices(step).tolist()
        assert sum(map(len, seen)) == order.examples(steps)
        for size, offset, places in zip(
            SIZES, source.offsets, seen, strict=True
        ):
            assert len(places) > 2 * size
            for epoch in range(len(places) // size):
                own = places[epoch * size : (epoch + 1) * size]
                assert sorted(own) == list(range(offset, offset + size))

    def test_of_one_bucket_is_that_of_its_source(self):
        source = numbers().sources[0]
        order = BlockOrder(as_buckets(source, 8), steps_per_loop=4, seed=0)
        assert [order.bucket(step) for step in range(50)] == [0] * 50
        assert order.steps(50).tolist() == [50]


class TestSource:
    def test_reads_examples_by_their_number(self):
        source = numbers()
        assert source.size == 49
        assert source.offsets == [0, 30, 42]
        batch = source.gather(np.array([41, 30]))
        np.testing.assert_array_equal(batch["number"], [[41] * 2, [30] * 2])

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ((8, 4), "as many, .*Received: 3 and 2"),
            ((8, 4, 0), "batch_sizes must be at least 1"),
        ],
    )
    def test_refuses_what_does_not_fit(self, rows, message):
        with pytest.raises(ValueError, match=message):
            numbers(SIZES, rows)
        with pytest.raises(ValueError, match="at least one. Received: 0 and 0"):
            BucketedSource([], [])


# --------------------------------------------------------------- the training


class Numbers:
    """A task whose loss is the number of the example."""

    metrics = ("twice",)

    def __init__(self):
        self.model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1)]
        )

    def __call__(self, batch, training):
        number = batch["number"][:, 0]
        weight = tf.reduce_sum(self.model.trainable_variables[0])
        return Scores(
            losses=number + 0.0 * weight,
            weights=batch["example_weights"],
            metrics={"twice": 2.0 * number},
            tokens=tf.cast(tf.size(batch["number"]), tf.float32),
            predictions=number,
        )


class Translator(keras.Model):
    """The least translator: mean of the source, token before, dropout."""

    def __init__(self, dropout):
        super().__init__()
        self.source = keras.layers.Embedding(VOCABULARY, 4, name="source")
        self.target = keras.layers.Embedding(VOCABULARY, 4, name="target")
        self.dropout = keras.layers.Dropout(dropout, seed=5)
        self.head = keras.layers.Dense(VOCABULARY, name="head")

    def build(self, input_shape=None):
        self.source.build()
        self.target.build()
        self.head.build((None, None, 4))

    def call(self, inputs, training=None):
        mask = tf.cast(inputs["encoder_padding_mask"], tf.float32)[..., None]
        mean = tf.reduce_sum(
            self.source(inputs["encoder_token_ids"]) * mask, axis=1
        ) / tf.reduce_sum(mask, axis=1)
        x = self.target(inputs["decoder_token_ids"]) + mean[:, None]
        return self.head(self.dropout(x, training=training))


def sentences(sizes=SIZES, rows=ROWS, seed=0):
    """Sentences whose targets say the source again, in three lengths."""
    rng = np.random.default_rng(seed)
    sources = []
    for width, size in zip((3, 5, 8), sizes, strict=True):
        ids = rng.integers(2, VOCABULARY, (size, width))
        ids[np.arange(width) >= rng.integers(1, width + 1, (size, 1))] = 1
        labels = tf.constant(ids, tf.int32)
        start = tf.fill([size, 1], 2)
        decoder = tf.concat([start, labels[:, :-1]], axis=1)
        sources.append(
            IndexedSource(
                size,
                lambda i, labels=labels, decoder=decoder: {
                    "encoder_token_ids": tf.gather(labels, i),
                    "decoder_token_ids": tf.gather(decoder, i),
                    "labels": tf.gather(labels, i),
                },
            )
        )
    return BucketedSource(sources, rows)


def make_trainer(task=None, dropout=0.0, strategy=None, **arguments):
    keras.utils.set_random_seed(0)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        if task is None:
            model = Translator(dropout)
            model.build()
            task = Translation(model, label_smoothing=0.1)
        optimizer = keras.optimizers.AdamW(1e-2, global_clipnorm=0.5)
    parts = arguments.pop("accumulation_steps", 1)
    loop = Loop(task, optimizer, strategy, parts, jit_compile=False)
    return Trainer(loop, batch_size=4, **arguments)


def train(trainer, source, train_steps, checkpoints=None, **callbacks):
    return trainer.train(
        source,
        Schedule(train_steps, eval_every=12, steps_per_loop=4),
        callbacks.pop("validation", source),
        checkpoints,
        **callbacks,
    )


class TestTraining:
    @pytest.fixture(scope="class")
    @staticmethod
    def run():
        """A training on numbers, with all that it told."""
        trainer, source, logs = make_trainer(Numbers()), numbers(), []
        result = train(trainer, source, 36, on_log=logs.append)
        order = BlockOrder(source, 4, trainer.seed)
        return trainer, result, logs, order

    def test_sees_the_examples_of_the_order(self, run):
        _, _, logs, order = run
        assert [log.step for log in logs] == list(range(4, 40, 4))
        for log in logs:
            seen = [order.indices(s) for s in range(log.step - 4, log.step)]
            mean = np.mean(np.concatenate(seen))
            assert log.loss == pytest.approx(mean, rel=1e-5)
        assert {order.bucket(log.step - 1) for log in logs} == {0, 1, 2}

    def test_counts_epochs_and_rates_by_each_bucket_s_rows(self, run):
        _, result, logs, order = run
        for log in logs:
            assert log.epoch == order.examples(log.step) / 49
            bucket = order.bucket(log.step - 1)
            rates = log.rates
            assert rates.examples_per_second == pytest.approx(
                ROWS[bucket] * rates.steps_per_second
            )
            # Tokens of a row are its columns here.
            assert rates.tokens_per_second == pytest.approx(
                (bucket + 1) * rates.examples_per_second
            )
        rates = result.rates
        mean = rates.examples_per_second / rates.steps_per_second
        assert min(ROWS) < mean < max(ROWS)

    def test_compiles_once_per_shape(self, run):
        loop = run[0].loop
        assert loop.run_steps.experimental_get_tracing_count() == 3
        assert loop.evaluate_step.experimental_get_tracing_count() == 3

    def test_evaluation_counts_every_example_once(self, run):
        evaluation = run[0].evaluate(numbers())
        assert evaluation.weight == 49
        assert evaluation.loss == pytest.approx(24.0)
        assert evaluation.metrics == {"twice": pytest.approx(48.0)}
        np.testing.assert_array_equal(evaluation.predictions, np.arange(49))

    def test_evaluation_is_a_mean_over_all_target_tokens(self):
        trainer, source = make_trainer(), sentences()
        evaluation = trainer.evaluate(source)
        losses, weights = [], []
        for bucket in source.sources:
            indices = tf.range(bucket.size, dtype=tf.int64)
            batch = {
                **bucket.gather(indices),
                "example_weights": tf.ones([bucket.size]),
            }
            scores = trainer.loop.task(batch, training=False)
            losses.append(np.sum(scores.losses * scores.weights))
            weights.append(np.sum(scores.weights))
        assert evaluation.weight == sum(weights)
        mean = sum(losses) / sum(weights)
        assert evaluation.loss == pytest.approx(mean, rel=1e-5)
        assert evaluation.metrics["nll"] == pytest.approx(mean, rel=1e-5)
        assert evaluation.predictions.shape == (49,)
        assert evaluation.predictions.sum() == pytest.approx(sum(losses))

    def test_learns(self):
        logs = []
        train(
            make_trainer(),
            sentences(),
            60,
            validation=sentences().sources[0],
            on_log=logs.append,
        )
        assert logs[-1].metrics["nll"] < logs[0].metrics["nll"] - 0.3

    def test_a_loss_that_is_not_finite_names_the_examples(self):
        source = numbers()
        order = BlockOrder(source, 4, seed=0)
        # The first block on the last bucket.
        step = next(s for s in itertools.count() if order.bucket(s) == 2)
        bad = order.indices(step + 1)[0]

        class Poisoned(Numbers):
            def __call__(self, batch, training):
                scores = super().__call__(batch, training)
                wrong = batch["number"][:, 0] == float(bad)
                return Scores(
                    **{
                        **vars(scores),
                        "losses": tf.where(wrong, np.nan, scores.losses),
                    }
                )

        with pytest.raises(NonFiniteLossError) as caught:
            train(make_trainer(Poisoned()), source, 36)
        found = caught.value
        first = next(s for s in itertools.count() if bad in order.indices(s))
        assert found.step == first
        np.testing.assert_array_equal(found.indices, order.indices(first))
        batch = source.gather(found.indices)
        np.testing.assert_array_equal(batch["number"][:, 0], found.indices)


class TestResume:
    """Stopped and started again: not one bit differs."""

    @staticmethod
    def run(folder, stops):
        """Trains to each stop in turn, as so many processes would."""
        losses = {}
        for stop in stops:
            trainer = make_trainer(dropout=0.3)
            train(
                trainer,
                sentences(),
                stop,
                trainer.make_checkpoints(str(folder), keep=9),
                validation=sentences().sources[0],
                on_log=lambda log: losses.update({log.step: log.loss.hex()}),
            )
        model = trainer.loop.model
        return losses, [v.numpy() for v in model.trainable_variables]

    @pytest.fixture(scope="class")
    @staticmethod
    def whole(tmp_path_factory):
        return TestResume.run(tmp_path_factory.mktemp("whole"), [24])

    @pytest.fixture(scope="class")
    @staticmethod
    def started(tmp_path_factory):
        folder = tmp_path_factory.mktemp("started")
        TestResume.run(folder, [4])
        return folder

    # Between two blocks, and in the middle of one.
    @pytest.mark.parametrize("stops", [(8, 24), (3, 9, 24)])
    def test_anywhere(self, tmp_path, whole, stops):
        losses, weights = self.run(tmp_path, stops)
        for step, loss in whole[0].items():
            # Blocks that a stop divided have logs of their own.
            if all(
                stop % 4 == 0 or step - stop not in range(4) for stop in stops
            ):
                assert losses[step] == loss, step
        for got, expected in zip(weights, whole[1], strict=True):
            np.testing.assert_array_equal(got, expected)

    def test_dropout_and_all_buckets_were_part_of_it(self, whole):
        order = BlockOrder(sentences(), 4, seed=0)
        assert {order.bucket(step) for step in range(24)} == {0, 1, 2}
        assert len(set(whole[0].values())) == 6

    @pytest.mark.parametrize(
        "other",
        [
            lambda: sentences((30, 12, 8)),
            lambda: sentences(SIZES, (8, 4, 4)),
            lambda: sentences().sources[0],
        ],
    )
    def test_with_other_buckets_is_refused(self, started, other):
        trainer = make_trainer()
        checkpoints = trainer.make_checkpoints(str(started))
        with pytest.raises(CheckpointError, match="with the buckets .*30, 12"):
            train(trainer, other(), 8, checkpoints)

    def test_with_other_blocks_is_refused(self, started):
        trainer = make_trainer()
        with pytest.raises(CheckpointError, match="'steps_per_loop': 4"):
            trainer.train(
                sentences(),
                Schedule(8, eval_every=8, steps_per_loop=2),
                sentences(),
                trainer.make_checkpoints(str(started)),
            )

    def test_the_marker_tells_the_buckets(self, started):
        marker = started / "step-00000004" / "checkpoint.json"
        assert json.loads(marker.read_text())["notes"]["buckets"] == {
            "sizes": list(SIZES),
            "batch_sizes": list(ROWS),
            "steps_per_loop": 4,
        }


class TestBadInput:
    def test_rows_that_cannot_be_divided_are_found_before_the_first_step(self):
        trainer, seen = make_trainer(accumulation_steps=4), []
        with pytest.raises(ValueError, match="batch_size=2 must be a multiple"):
            train(trainer, sentences(), 8, on_log=seen.append)
        assert not seen

    def test_a_bucketed_source_has_no_single_iterator(self):
        with pytest.raises(TypeError, match="give one of its sources"):
            make_trainer().training_iterator(sentences(), 0, 1)


# --------------------------------------------------------- several replicas


@pytest.mark.multiprocess
@pytest.mark.parametrize("place", ["mirrored:2", "workers"])
def test_several_replicas_train_as_one(tmp_path, place):
    import children

    program = "training/test_bucketed.py"
    run = children.run_pair if place == "workers" else children.run
    run(program, tmp_path / "several.npz", place)
    several = dict(np.load(tmp_path / "several.npz"))
    one = results(make_trainer(accumulation_steps=2))
    assert several.keys() == one.keys()
    for name, value in one.items():
        np.testing.assert_allclose(
            several[name], value, rtol=1e-5, atol=2e-5, err_msg=name
        )


def results(trainer):
    logs = []
    # Two shapes, one of which is evaluated: compiling takes all the time.
    source = sentences()
    source = BucketedSource(source.sources[:2], ROWS[:2])
    validation = sentences((9, 7, 5), seed=1).sources[0]
    train(trainer, source, 12, on_log=logs.append, validation=validation)
    order = BlockOrder(source, 4, trainer.seed)
    assert {order.bucket(log.step - 1) for log in logs} == {0, 1}
    evaluation = trainer.evaluate(validation)
    return {
        "losses": [log.loss for log in logs],
        "norms": [log.gradient_norm for log in logs],
        "epochs": [log.epoch for log in logs],
        "evaluation": [evaluation.loss, evaluation.weight],
        "predictions": evaluation.predictions,
        **{
            f"weights{i}": v.numpy()
            for i, v in enumerate(trainer.loop.model.trainable_variables)
        },
    }


def main(path, where):
    from luna_tf.training.strategy import choose_strategy

    # Grappler takes a third of the time here and has nothing to win.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    if where == "workers":
        placement = choose_strategy("multi_worker_mirrored")
    else:
        count = int(where.split(":")[1])
        placement = choose_strategy("mirrored", logical_cpus=count)
    trainer = make_trainer(
        strategy=placement.strategy, num_workers=placement.num_workers
    )
    found = results(trainer)
    if placement.is_chief:
        np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
