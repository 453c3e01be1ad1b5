"""Which tokens are hidden, and what stands in their place."""

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.corpus import (
    Masking,
    gather_rows,
    mask_rows,
    masked_stream,
)

PAD, START, END, MASK = 0, 1, 2, 3
V, T, M = 50, 40, 8
SELECTABLE = np.arange(V) > 3


def masking(**given):
    return Masking(MASK, SELECTABLE, M, **given)


def rows(count=64, seed=0):
    rng = np.random.default_rng(seed)
    table = rng.integers(4, V, (count, T))
    lengths = rng.integers(3, T + 1, count)
    for row, length in zip(table, lengths, strict=True):
        row[0], row[length - 1], row[length:] = START, END, PAD
    return table.astype("int32")


def mask(table, positions=None, seed=0, **given):
    if positions is None:
        positions = np.arange(len(table))
    batch = masking(**given)(
        tf.constant(table), tf.constant(positions, tf.int64), seed
    )
    return {name: tensor.numpy() for name, tensor in batch.items()}


def test_counts_and_labels():
    table = rows()
    batch = mask(table)
    assert batch["mask_positions"].shape == (64, M)
    real = (table > 3).sum(axis=1)
    expected = np.minimum(np.ceil(0.15 * real), M)
    np.testing.assert_array_equal(batch["mask_weights"].sum(1), expected)
    for row, places, weights, labels, hidden in zip(
        table,
        batch["mask_positions"],
        batch["mask_weights"],
        batch["labels"],
        batch["token_ids"],
        strict=True,
    ):
        chosen = places[weights == 1]
        assert (np.diff(chosen) > 0).all()  # rising, each once
        assert SELECTABLE[row[chosen]].all()
        np.testing.assert_array_equal(labels[weights == 1], row[chosen])
        others = np.setdiff1d(np.arange(T), chosen)
        np.testing.assert_array_equal(hidden[others], row[others])


def test_shares():
    table = rows(4000)
    batch = mask(table)
    chosen = batch["mask_weights"] == 1
    seen = np.take_along_axis(batch["token_ids"], batch["mask_positions"], 1)
    seen, labels = seen[chosen], batch["labels"][chosen]
    n = len(labels)
    for share, found in (
        (0.8, (seen == MASK).mean()),
        (0.1 + 0.1 / (V - 4), (seen == labels).mean()),
    ):
        error = 4 * (share * (1 - share) / n) ** 0.5
        assert abs(found - share) < error, share
    others = seen[(seen != MASK) & (seen != labels)]
    assert SELECTABLE[others].all()
    assert len(set(others)) == V - 4
    # Every place is as likely as every other.
    full = table[:, -2] > 3
    counts = np.zeros(T)
    np.add.at(counts, batch["mask_positions"][full][chosen[full]], 1)
    inner = counts[1:-1]
    assert not counts[0] and not counts[-1]
    assert inner.min() > 0.5 * inner.mean()


def test_a_function_of_seed_and_position_alone():
    table = rows(8)
    batch = mask(table)
    for i in (0, 3, 7):
        alone = mask(table[i : i + 1], [i])
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], batch[name][i])
    for other in (mask(table, seed=1), mask(table, np.arange(8) + 8)):
        assert (other["token_ids"] != batch["token_ids"]).any()


def test_compiled_and_not():
    table = rows(8)
    compiled = tf.function(masking())(
        tf.constant(table), tf.range(8, dtype=tf.int64), 0
    )
    for name, values in mask(table).items():
        np.testing.assert_array_equal(compiled[name].numpy(), values)


def test_whole_words():
    table = rows(500)
    starts = np.arange(V) % 3 == 0
    starts[: MASK + 1] = True
    batch = mask(table, word_starts=starts)
    words = 0
    for row, places, weights in zip(
        table, batch["mask_positions"], batch["mask_weights"], strict=True
    ):
        chosen = set(places[weights == 1].tolist())
        assert chosen or not SELECTABLE[row].any()
        word = np.cumsum(starts[row])
        numbers = {word[i] for i in chosen}
        members = [i for i in range(T) if word[i] in numbers and row[i] > 3]
        if len(numbers) > 1:
            assert chosen == set(members)
            words += 1
    assert words > 100


def test_shares_are_not_rounded_up_twice():
    table = np.full((3, 200), 9, "int32")
    table[0, 100:], table[1, 20:], table[2, 1:] = 0, 0, 0
    wide = Masking(MASK, SELECTABLE, 40)
    batch = wide(tf.constant(table), tf.range(3, dtype=tf.int64), 0)
    # 15 % of 100, which float32 takes for a little more; of 20; of 1.
    counts = tf.reduce_sum(batch["mask_weights"], axis=1)
    assert counts.numpy().tolist() == [15, 3, 1]


def test_a_row_without_a_word():
    table = np.zeros((2, T), "int32")
    table[0, :2] = START, END
    batch = mask(table)
    assert not batch["mask_weights"].any()
    np.testing.assert_array_equal(batch["token_ids"], table)


def test_rows_shorter_than_the_room():
    short = rows(4)[:, :5]
    batch = mask(short)
    assert batch["labels"].shape == (4, M)


def test_batches_of_rows_in_memory():
    table = rows(16).astype("uint16")
    batch = gather_rows(table)(tf.constant([3, 5], tf.int64))
    assert batch["token_ids"].dtype == tf.int32
    masked = mask_rows(masking(), 7)(batch, tf.constant([3, 5], tf.int64))
    expected = mask(table[[3, 5]].astype("int32"), [3, 5], seed=7)
    np.testing.assert_array_equal(masked["labels"], expected["labels"])


def test_a_stream_begins_anew_and_goes_on_where_it_was():
    table = np.arange(4, 4 + 10 * T).reshape(10, T).astype("int32") % V
    hidden = Masking(MASK, SELECTABLE, M, mask_rate=0.0, random_rate=0.0)

    def stream():  # as each process makes it
        rows = tf.data.Dataset.from_tensor_slices(table)
        # Far fewer rows than the buffer could hold.
        return masked_stream(rows, hidden, 4, 3, 10_000)

    whole = [b["token_ids"].numpy() for b in stream().take(20)]
    order = np.concatenate(whole)
    epochs = [sorted(map(tuple, order[k : k + 10])) for k in (0, 10, 70)]
    assert epochs[0] == epochs[1] == epochs[2] == sorted(map(tuple, table))
    assert (order[:10] != order[10:20]).any()
    iterator = iter(stream())
    for _ in range(7):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write("ram://stream/saved")
    again = iter(stream())
    tf.train.Checkpoint(iterator=again).read(path).assert_consumed()
    for expected in whole[7:]:
        np.testing.assert_array_equal(next(again)["token_ids"], expected)


@pytest.mark.parametrize(
    "given,message",
    [
        (dict(rate=0.0), "nothing is left to predict"),
        (dict(mask_rate=1.5), "mask_rate must be from 0 to 1"),
        (dict(mask_rate=0.9, random_rate=0.2), "not be more than 1 together"),
    ],
)
def test_what_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        masking(**given)
    with pytest.raises(ValueError, match="true for at least one token"):
        Masking(MASK, np.zeros(V, bool), M)
