"""What a function computes, collected from all batches and replicas.

Run as a program, `python test_predicting.py OUT.npz`, it uses two replicas.
"""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.interop.tpu.tracing import tracing_strategy
from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM
from luna_tf.models.translation import translate
from luna_tf.training.predicting import Predictor
from luna_tf.training.sources import IndexedSource

SIZE, LENGTH, END, PADDING = 11, 6, 2, 1


def numbers(size):
    return IndexedSource(size, lambda i: {"x": tf.cast(i, tf.float32)[:, None]})


def sentences():
    """Sentences of different lengths, padded."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(4, 20, (SIZE, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH, SIZE)
    token_ids[np.arange(LENGTH) == lengths[:, None]] = END
    token_ids[np.arange(LENGTH) > lengths[:, None]] = PADDING
    token_ids = tf.constant(token_ids)
    return IndexedSource(
        SIZE, lambda i: {"encoder_token_ids": tf.gather(token_ids, i)}
    )


def search(strategy=None, **options):
    """Beam search over all sentences, four in a batch."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = LunaSeq2SeqLM(
            LunaSeq2SeqBackbone(
                vocabulary_size=20,
                num_layers=1,
                num_heads=2,
                hidden_dim=8,
                intermediate_dim=16,
                packed_length=3,
            )
        )

    def function(batch):
        token_ids = batch["encoder_token_ids"]
        mask = tf.cast(token_ids != PADDING, tf.int32)
        return translate(model, token_ids, mask, END, beam_size=2, max_length=5)

    return Predictor(function, strategy, **options)(sentences(), 4)


@pytest.fixture(scope="module")
def one():
    return search()


@pytest.mark.parametrize("size", [8, 9, 3])
def test_rows_keep_their_order_and_none_is_made_up(size):
    predict = Predictor(lambda b: {"twice": 2 * b["x"], "own": (b["x"],)})
    found = predict(numbers(size), 4)
    expected = np.arange(size, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(found["own"][0], expected)
    np.testing.assert_array_equal(found["twice"], 2 * expected)


def test_batches_all_have_one_shape_and_it_is_traced_once():
    shapes = []

    def function(batch):
        shapes.append(tuple(batch["x"].shape))
        return batch["x"]

    predict = Predictor(function)
    predict(numbers(9), 4)
    predict(numbers(9), 4)
    assert set(shapes) == {(4, 1)}
    assert len(shapes) == 1


def test_one_predictor_serves_several_shapes():
    predict = Predictor(lambda batch: tf.reduce_sum(batch["x"], axis=1))
    for rows in (2, 5):
        np.testing.assert_array_equal(predict(numbers(7), rows), np.arange(7))


def test_xla_gives_the_same(one):
    for got, expected in zip(search(jit_compile=True), one, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_tpu_never_sees_a_compiled_function(monkeypatch):
    def compiles(strategy=None):
        return Predictor(lambda b: b, strategy, jit_compile=True).jit_compile

    assert compiles()
    assert not compiles(tracing_strategy(1))
    found = ["/physical_device:TPU_SYSTEM:0"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: found)
    assert not compiles()


def test_every_sentence_has_hypotheses_of_its_own(one):
    assert one.token_ids.shape == (SIZE, 2, 5)
    assert one.lengths.shape == one.scores.shape == (SIZE, 2)
    assert len(np.unique(one.scores[:, 0])) > SIZE // 2
    assert (np.diff(one.scores, axis=1) <= 0).all()


@pytest.mark.multiprocess
def test_two_replicas_find_what_one_finds(tmp_path, one):
    import children

    path = tmp_path / "two.npz"
    children.run("training/test_predicting.py", path)
    two = np.load(path)
    np.testing.assert_array_equal(two["x"], np.arange(9)[:, None])
    # Each replica saw half of every batch.
    assert two["rows"].tolist() == [2] * 9
    np.testing.assert_array_equal(two["token_ids"], one.token_ids)
    np.testing.assert_array_equal(two["lengths"], one.lengths)
    np.testing.assert_allclose(two["scores"], one.scores, rtol=1e-5)


def main(path):
    from luna_tf.training.strategy import choose_strategy

    strategy = choose_strategy("mirrored", logical_cpus=2).strategy
    predict = Predictor(
        lambda b: {**b, "rows": tf.fill([b["x"].shape[0]], b["x"].shape[0])},
        strategy,
    )
    plain = predict(numbers(9), 4)
    np.savez(
        path,
        x=plain["x"],
        rows=plain["rows"],
        **search(strategy)._asdict(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
