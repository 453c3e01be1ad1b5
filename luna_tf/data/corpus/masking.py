"""Hidden tokens: which ones, and what stands in their place.

Everything is a function of a seed and of the row's place in training: the same
row at the same place is masked in the same way on every machine, in whatever
batch it comes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf


class _Numbers:
    """Random numbers of rows, by the finalizer of SplitMix64.

    TensorFlow's own generators make those of a whole batch from one seed: the
    numbers of a row would depend on the rows beside it, and so on the number
    of replicas.

    Args:
        positions: int64 `(B,)`.
        seed: int.
    """

    def __init__(self, positions: tf.Tensor, seed: int) -> None:
        rows = tf.cast(positions, tf.uint64) * _GOLDEN
        self._rows = _mix(rows + np.uint64(seed * 0xD1342543DE82EF95 % 2**64))

    def uniform(self, stream: int, size: int) -> tf.Tensor:
        """Draws float32 `(B, size)` in [0, 1), other ones for each stream."""
        columns = tf.range(size, dtype=tf.int64) + (stream << 32)
        columns = tf.cast(columns, tf.uint64) * _GOLDEN
        mixed = _mix(self._rows[:, None] + columns[None])
        top = tf.bitwise.right_shift(mixed, np.uint64(40))
        return tf.cast(top, tf.float32) * 2.0**-24


# 2^64 divided by the golden ratio; products wrap, as they should.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: tf.Tensor) -> tf.Tensor:
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):
        x = tf.bitwise.bitwise_xor(
            x, tf.bitwise.right_shift(x, np.uint64(shift))
        )
        x = x * np.uint64(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(31)))


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """How tokens are hidden.

    Args:
        mask_id: the token that stands for a hidden one.
        selectable: bool `(V,)`, which tokens may be chosen, and stand in the
            place of others; special tokens must not be.
        length: most tokens of a row that are chosen, `M`.
        rate: share of a row's selectable tokens that is chosen; at least one.
        mask_rate: share of these that the mask token replaces.
        random_rate: share that any selectable token replaces. The rest stays.
        word_starts: bool `(V,)`, which tokens begin a word, to choose whole
            words; None chooses tokens.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> masking = Masking(mask_id=4, selectable=np.arange(40) > 4, length=2)
    >>> rows = tf.constant([[2, 11, 12, 13, 14, 15, 16, 17, 18, 3]])
    >>> batch = masking(rows, positions=tf.constant([0], tf.int64), seed=0)
    >>> for name in ("token_ids", "mask_positions", "labels"):
    ...     print(name, batch[name].numpy())
    token_ids [[ 2 11 12  4 14  4 16 17 18  3]]
    mask_positions [[3 5]]
    labels [[13 15]]
    """

    mask_id: int
    selectable: np.ndarray
    length: int
    rate: float = 0.15
    mask_rate: float = 0.8
    random_rate: float = 0.1
    word_starts: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "mask_rate", "random_rate"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"{name} must be from 0 to 1. Received: {value}"
                )
        if self.rate == 0.0:
            raise ValueError(
                "rate must be above 0, or nothing is left to predict. "
                "Received: 0.0"
            )
        if self.mask_rate + self.random_rate > 1.0 + 1e-6:
            raise ValueError(
                "mask_rate and random_rate must not be more than 1 together. "
                f"Received: {self.mask_rate}, {self.random_rate}"
            )
        if self.length < 1:
            raise ValueError(
                f"length must be at least 1. Received: {self.length}"
            )
        if not np.any(self.selectable):
            raise ValueError(
                "selectable must be true for at least one token. Received: none"
            )

    def __call__(
        self, rows: tf.Tensor, positions: tf.Tensor, seed: int
    ) -> dict[str, tf.Tensor]:
        """Masks rows.

        Args:
            rows: int32 `(B, T)`, static `T`.
            positions: int64 `(B,)`, place of each row among all that training
                will see.
            seed: int, of the whole training.

        Returns:
            dict of int32 `token_ids` `(B, T)`, with hidden tokens;
            `mask_positions` `(B, M)`, rising; `labels` `(B, M)`, the tokens
            that were there; and float32 `mask_weights` `(B, M)`, 0 where a
            row has fewer. A row without a selectable token has none.
        """
        numbers = _Numbers(positions, seed)
        places, chosen = self._choose(rows, numbers)
        labels = tf.gather(rows, places, batch_dims=1)
        shape = tf.shape(labels)
        kind = numbers.uniform(1, self.length)
        candidates = tf.constant(np.flatnonzero(self.selectable), tf.int32)
        drawn = numbers.uniform(2, self.length) * tf.cast(
            tf.size(candidates), tf.float32
        )
        other = tf.gather(candidates, tf.cast(drawn, tf.int32))
        hidden = tf.where(
            kind < self.mask_rate,
            self.mask_id,
            tf.where(kind < self.mask_rate + self.random_rate, other, labels),
        )
        hidden = tf.where(chosen, hidden, labels)
        weights = tf.cast(chosen, tf.int32)
        # Only chosen places change; the others all point at place 0.
        change = tf.scatter_nd(
            tf.stack(
                [
                    tf.broadcast_to(tf.range(shape[0])[:, None], shape),
                    places,
                ],
                axis=-1,
            ),
            (hidden - labels) * weights,
            tf.shape(rows),
        )
        return {
            "token_ids": rows + change,
            "mask_positions": places,
            "labels": labels * weights,
            "mask_weights": tf.cast(chosen, tf.float32),
        }

    def _choose(
        self, rows: tf.Tensor, numbers: _Numbers
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Places to hide, int32 `(B, M)`, and whether each counts."""
        length = rows.shape[1]
        allowed = tf.gather(tf.constant(self.selectable), rows)
        keys = numbers.uniform(0, length)
        if self.word_starts is not None:
            # All tokens of a word have the key of its first one.
            starts = tf.gather(tf.constant(self.word_starts), rows)
            places = tf.where(starts, tf.range(length)[None], 0)
            keys = tf.gather(keys, _running_maximum(places), batch_dims=1)
        # Special tokens and padding come last.
        keys = tf.where(allowed, keys, 2.0)
        order = tf.argsort(keys, axis=1, stable=True)
        total = tf.reduce_sum(tf.cast(allowed, tf.float32), axis=1)
        # 0.15 of 100 is a little more than 15 in float32.
        wanted = tf.math.ceil(total * self.rate - 1e-4)
        wanted = tf.clip_by_value(wanted, tf.minimum(total, 1.0), self.length)
        wanted = tf.cast(wanted, tf.int32)
        if self.word_starts is not None:
            wanted = _whole_words(tf.gather(keys, order, batch_dims=1), wanted)
        width = min(self.length, length)
        order = order[:, :width]
        chosen = tf.range(width)[None] < wanted[:, None]
        # In reading order; what does not count goes to the end.
        order = tf.sort(tf.where(chosen, order, length), axis=1)
        chosen = order < length
        order = tf.where(chosen, order, 0)
        missing = self.length - width
        return (
            tf.pad(order, [[0, 0], [0, missing]]),
            tf.pad(chosen, [[0, 0], [0, missing]]),
        )


def _whole_words(keys: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Fewer tokens, where the last ones are only a part of a word.

    Args:
        keys: `(B, T)`, rising; equal for the tokens of a word.
        wanted: int32 `(B,)`, how many of the first tokens to choose.

    Returns:
        int32 `(B,)`. A word that would be the only one is cut all the same.
    """
    length = keys.shape[1]
    next_key = tf.gather(
        keys, tf.minimum(wanted, length - 1)[:, None], batch_dims=1
    )
    before = tf.cast(keys < next_key, tf.int32)
    whole = tf.minimum(tf.reduce_sum(before, axis=1), wanted)
    return tf.where((whole > 0) & (wanted < length), whole, wanted)


def _running_maximum(x: tf.Tensor) -> tf.Tensor:
    """The largest value up to each place, along the last axis of `(B, T)`."""
    length = x.shape[1]
    shift = 1
    while shift < length:
        before = tf.pad(x[:, :-shift], [[0, 0], [shift, 0]])
        x = tf.maximum(x, before)
        shift *= 2
    return x
