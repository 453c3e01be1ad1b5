"""A whole training on one device: when what happens, and what is told."""

import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training.loop import Loop
from luna_tf.training.records import NonFiniteLossError, Schedule
from luna_tf.training.sources import IndexedSource, StreamSource, step_indices
from luna_tf.training.tasks import Classification
from luna_tf.training.trainer import Trainer, check_batch_size

VOCABULARY, CLASSES, LENGTH = 7, 3, 5


def make_source(size, seed=0):
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, VOCABULARY, (size, LENGTH))
    labels = tf.constant(token_ids.sum(axis=1) % CLASSES, tf.int32)
    token_ids = tf.constant(token_ids, tf.int32)
    return IndexedSource(
        size,
        lambda i: {
            "token_ids": tf.gather(token_ids, i),
            "labels": tf.gather(labels, i),
        },
    )


def make_trainer(optimizer=None, batch_size=4, dropout=0.0, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 4),
            keras.layers.Dropout(dropout, seed=3),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(CLASSES),
        ]
    )
    loop = Loop(
        Classification(model),
        optimizer or keras.optimizers.AdamW(1e-2),
        jit_compile=False,
    )
    return Trainer(loop, batch_size, **arguments)


def train(trainer, source=None, checkpoints=None, **arguments):
    settings = {"train_steps": 6, "eval_every": 4, "steps_per_loop": 2}
    callbacks = {}
    for name, value in arguments.items():
        (callbacks if name.startswith("on_") else settings)[name] = value
    return trainer.train(
        source or make_source(8),
        Schedule(**settings),
        make_source(5, seed=1),
        checkpoints,
        **callbacks,
    )


class TestLogs:
    def test_are_means_over_the_steps_since_the_last(self):
        logs = []
        trainer = make_trainer(keras.optimizers.SGD(0.0))
        source = make_source(8)
        train(trainer, source, on_log=logs.append)
        # Nothing is learnt, so two steps of four see the whole set once.
        whole = trainer.evaluate(source)
        assert [log.step for log in logs] == [2, 4, 6]
        assert [log.epoch for log in logs] == [1.0, 2.0, 3.0]
        for log in logs:
            assert log.loss == pytest.approx(whole.loss, rel=1e-5)
            assert log.metrics == pytest.approx(whole.metrics)

    def test_the_first_step_counts_but_is_not_timed(self):
        logs = []
        trainer = make_trainer(keras.optimizers.SGD(0.0))
        result = train(
            trainer, steps_per_loop=1, eval_every=6, on_log=logs.append
        )
        assert logs[0].rates is None
        assert all(log.rates.examples_per_second > 0 for log in logs[1:])
        rates = result.rates
        assert rates.examples_per_second == pytest.approx(
            4 * rates.steps_per_second
        )
        assert rates.tokens_per_second <= LENGTH * rates.examples_per_second
        single = train(make_trainer(), train_steps=1)
        assert single.rates is None

    def test_scalars_leave_out_what_is_not_known(self):
        logs = []
        train(make_trainer(), steps_per_loop=1, on_log=logs.append)
        first, second = (set(log.scalars()) for log in logs[:2])
        always = {"seconds", "epoch", "loss", "accuracy", "learning_rate"}
        assert first == always | {"gradient_norm"}
        assert second - first == {
            "steps_per_second",
            "examples_per_second",
            "tokens_per_second",
        }


class TestTime:
    """Seconds are sums of measured times; only their order is certain."""

    def test_counts_on_after_a_restart(self, tmp_path):
        logs = []
        for train_steps in (6, 12):
            trainer = make_trainer()
            result = train(
                trainer,
                checkpoints=trainer.make_checkpoints(str(tmp_path)),
                train_steps=train_steps,
                on_log=logs.append,
            )
            assert result.seconds == logs[-1].seconds
        seconds = [log.seconds for log in logs]
        assert [log.step for log in logs] == [2, 4, 6, 8, 10, 12]
        assert seconds == sorted(set(seconds))

    def test_a_limit_ends_training_as_the_last_step_does(self, tmp_path):
        saved, seen = [], []
        trainer = make_trainer()
        result = trainer.train(
            make_source(8),
            Schedule(100, eval_every=50, steps_per_loop=2),
            make_source(5),
            trainer.make_checkpoints(str(tmp_path)),
            on_save=saved.append,
            on_evaluation=lambda step, *_: seen.append(step),
            max_seconds=1e-9,
        )
        assert (result.step, result.stopped_by) == (2, None)
        assert saved == seen == [2]
        assert result.best_step == 2


class TestEvaluation:
    @pytest.mark.parametrize("batch_size", [1, 4, 7, 8, 64])
    def test_counts_every_example_once(self, batch_size):
        trainer, source = make_trainer(batch_size=batch_size), make_source(7)
        got = trainer.evaluate(source)
        batch = source.gather(tf.range(7))
        logits = trainer.loop.model(batch["token_ids"]).numpy()
        expected = keras.losses.sparse_categorical_crossentropy(
            batch["labels"], logits, from_logits=True
        )
        assert got.weight == 7
        hits = logits.argmax(axis=1) == batch["labels"].numpy()
        assert got.metrics["accuracy"] == pytest.approx(hits.mean())
        assert got.loss == pytest.approx(float(np.mean(expected)), rel=1e-5)
        np.testing.assert_array_equal(got.predictions, logits.argmax(axis=1))

    def test_compiles_once(self):
        trainer = make_trainer()
        for _ in range(2):
            trainer.evaluate(make_source(7))
        loop = trainer.loop
        assert loop.evaluate_step.experimental_get_tracing_count() == 1

    def test_the_best_weights_are_those_that_validated_best(self):
        seen = {}
        trainer = make_trainer(keras.optimizers.SGD(2.0))
        model = trainer.loop.model

        def on_evaluation(step, evaluation, is_best):
            seen[step] = (evaluation, is_best, model.get_weights())

        result = train(trainer, train_steps=21, on_evaluation=on_evaluation)
        assert list(seen) == [4, 8, 12, 16, 20, 21]

        def rank(step):
            evaluation = seen[step][0]
            return evaluation.metrics["accuracy"], -evaluation.loss

        best = max(seen, key=rank)
        assert result.best_step == best
        assert result.best_evaluation is seen[best][0]
        assert [s for s, entry in seen.items() if entry[1]][-1] == best
        for kept, then in zip(result.best_weights, seen[best][2], strict=True):
            np.testing.assert_array_equal(kept, then)

    def test_among_equals_the_first_is_best(self):
        flags = []
        result = train(
            make_trainer(keras.optimizers.SGD(0.0)),
            on_evaluation=lambda *arguments: flags.append(arguments[2]),
        )
        assert flags == [True, False]
        assert result.best_step == 4

    def test_the_rank_can_be_chosen(self):
        losses = []
        result = train(
            make_trainer(
                keras.optimizers.SGD(1.0),
                rank=lambda e: e.loss,  # the worst
            ),
            on_evaluation=lambda *arguments: losses.append(arguments[1].loss),
        )
        assert result.best_evaluation.loss == max(losses)


class TestCheckpoints:
    def test_a_finished_run_trains_no_more(self, tmp_path):
        trainer = make_trainer()
        checkpoints = trainer.make_checkpoints(str(tmp_path))
        first = train(trainer, checkpoints=checkpoints)
        logs, again = [], make_trainer()
        checkpoints = again.make_checkpoints(str(tmp_path))
        result = train(again, checkpoints=checkpoints, on_log=logs.append)
        assert logs == []
        assert (result.step, result.best_step) == (6, first.best_step)
        assert result.best_evaluation.loss == first.best_evaluation.loss
        for one, other in zip(
            trainer.loop.model.get_weights(),
            again.loop.model.get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)

    def test_come_with_validations_and_when_asked_for(self, tmp_path):
        saved = []
        trainer = make_trainer()
        train(
            trainer,
            checkpoints=trainer.make_checkpoints(str(tmp_path), keep=9),
            train_steps=11,
            eval_every=8,
            checkpoint_every=6,
            on_save=saved.append,
        )
        assert saved == [6, 8, 11]
        folders = sorted(path.name for path in tmp_path.iterdir())
        assert folders == [f"step-{step:08d}" for step in saved]

    def test_know_the_best_validation(self, tmp_path):
        trainer = make_trainer()
        checkpoints = trainer.make_checkpoints(str(tmp_path))
        result = train(trainer, checkpoints=checkpoints)
        marker = tmp_path / "step-00000006" / "checkpoint.json"
        best = json.loads(marker.read_text())["notes"]["best"]
        assert best["step"] == result.best_step
        assert best["loss"] == result.best_evaluation.loss
        assert result.best_weights is None  # the files have them


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_after_the_loop_with_a_checkpoint(
        self, tmp_path, number
    ):
        trainer = make_trainer()
        result = train(
            trainer,
            checkpoints=trainer.make_checkpoints(str(tmp_path)),
            on_log=lambda log: log.step == 2 and signal.raise_signal(number),
        )
        assert (result.step, result.stopped_by) == (2, number)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


class TestNotFinite:
    def poisoned(self, bad):
        """A source of which one example alone has the last token."""
        good = make_source(8)

        def gather(indices):
            batch = good.gather(indices)
            ids = tf.minimum(batch["token_ids"], VOCABULARY - 2)
            last = tf.fill(tf.shape(ids), VOCABULARY - 1)
            ids = tf.where((indices == bad)[:, None], last, ids)
            return {**batch, "token_ids": ids}

        return IndexedSource(8, gather)

    def test_names_step_and_examples_and_keeps_the_last_checkpoint(
        self, tmp_path
    ):
        source = self.poisoned(int(step_indices(5, make_source(8), 1, 0)[0]))
        trainer = make_trainer(batch_size=1)
        embeddings = trainer.loop.model.layers[0].embeddings
        rows = embeddings.numpy()
        rows[-1] = np.nan
        embeddings.assign(rows)
        with pytest.raises(NonFiniteLossError) as caught:
            train(
                trainer,
                source,
                trainer.make_checkpoints(str(tmp_path)),
                train_steps=8,
            )
        error = caught.value
        assert error.step == 5
        np.testing.assert_array_equal(
            error.indices, step_indices(5, source, 1, 0)
        )
        assert f"at step 6 (examples {error.indices[0]})" in str(error)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]

    def test_of_a_stream_names_the_batch(self):
        error = NonFiniteLossError(6, None)
        assert "at step 7 (batch 7 of the stream)" in str(error)

    def test_names_no_more_than_sixteen_examples(self):
        error = NonFiniteLossError(0, np.arange(20))
        assert "14, 15 and 4 more" in str(error)


class TestStream:
    def test_trains_and_compiles_once(self):
        logs = []
        source = make_source(8)

        def make_dataset(share):
            numbers = tf.data.Dataset.range(8).repeat()
            numbers = numbers.batch(share.rows, drop_remainder=True)
            return numbers.map(source.gather)

        trainer = make_trainer(keras.optimizers.SGD(0.0))
        train(trainer, StreamSource(make_dataset), on_log=logs.append)
        assert [log.epoch for log in logs] == [None] * 3
        whole = trainer.evaluate(source)
        for log in logs:  # two steps of four: every example once
            assert log.loss == pytest.approx(whole.loss, rel=1e-5)
        loop = trainer.loop
        assert loop.run_steps.experimental_get_tracing_count() == 1

    def test_without_static_shapes_is_refused(self):
        def make_dataset(share):
            numbers = tf.data.Dataset.range(8).repeat().batch(share.rows)
            return numbers.map(make_source(8).gather)

        with pytest.raises(ValueError, match="'token_ids' has shape"):
            train(make_trainer(), StreamSource(make_dataset))


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"train_steps": 0}, "train_steps must be at least 1"),
            ({"steps_per_loop": 3}, "must divide eval_every. Received: eval_e"),
            ({"checkpoint_every": 3}, "must divide checkpoint_every"),
            ({"profile_steps": (3, 3)}, "two rising steps. Received: 3, 3"),
        ],
    )
    def test_schedule(self, arguments, message):
        settings = {"train_steps": 6, "eval_every": 4, "steps_per_loop": 2}
        with pytest.raises(ValueError, match=message):
            Schedule(**{**settings, **arguments})

    def test_batch_that_replicas_cannot_share(self):
        with pytest.raises(ValueError) as caught:
            check_batch_size(30, num_replicas=8, accumulation_steps=2)
        assert "batch_size=30 must be a multiple of 16" in str(caught.value)
        assert "such as 16 or 32" in str(caught.value)
        check_batch_size(32, 8, 2)


def test_a_profile_is_written(tmp_path):
    trainer = make_trainer()
    trainer.train(
        make_source(8),
        Schedule(6, 6, 2, profile_steps=(2, 4)),
        make_source(5),
        profile_dir=str(tmp_path),
    )
    assert list(tmp_path.rglob("*.xplane.pb"))
