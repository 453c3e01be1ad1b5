"""Shapes of batches: few, fitting, with little padding."""

import itertools

import numpy as np
import pytest

from luna_tf.data.parallel import Shape, choose_shapes, fill


@pytest.fixture(scope="module")
def lengths():
    """Pairs of correlated lengths with a long tail."""
    rng = np.random.default_rng(0)
    source = rng.gamma(3.0, 8.0, 3000).astype(int) + 1
    target = np.maximum(source + rng.normal(0, 4, 3000).astype(int), 1)
    return source, target


def choose(lengths, **options):
    settings = {
        "tokens_per_batch": 1024,
        "max_source_length": 64,
        "max_target_length": 64,
        **options,
    }
    return choose_shapes(*lengths, **settings)


class TestShapes:
    @pytest.mark.parametrize("num_buckets", [1, 2, 5])
    @pytest.mark.parametrize("rows_multiple", [1, 8])
    def test_keep_to_what_was_asked(self, lengths, num_buckets, rows_multiple):
        shapes = choose(
            lengths, num_buckets=num_buckets, rows_multiple=rows_multiple
        )
        assert len(shapes) == num_buckets
        for shape in shapes:
            longer = max(shape.source_length, shape.target_length)
            assert shape.source_length % 8 == shape.target_length % 8 == 0
            assert shape.rows % rows_multiple == 0
            assert (shape.rows + rows_multiple) * longer > 1024
            assert shape.rows * longer <= 1024
        for one, two in itertools.pairwise(shapes):
            assert one.source_length <= two.source_length <= 64
            assert one.target_length <= two.target_length <= 64

    def test_waste_least(self, lengths):
        """No other choice of two or three shapes leaves less padding."""
        short = [np.minimum(side, 50) for side in lengths]
        for count in (2, 3):
            chosen = choose(short, num_buckets=count)
            found = fill(chosen, *short).padding
            sizes = range(8, 64, 8)
            for ends in itertools.combinations(sizes, count - 1):
                shapes = [Shape(n, n, 1) for n in (*ends, 56)]
                assert found <= fill(shapes, *short).padding + 1e-12
        assert found < fill(choose(short, num_buckets=1), *short).padding - 0.1

    def test_hold_enough_batches(self, lengths):
        for min_batches in (2, 5, 20):
            shapes = choose(lengths, num_buckets=8, min_batches=min_batches)
            filled = fill(shapes, *lengths)
            for bucket in filled.buckets:
                assert len(bucket.indices) >= min_batches * bucket.shape.rows
        assert len(choose(lengths, min_batches=10**6)) == 1

    def test_end_at_the_longest_pair(self):
        shapes = choose(([3] * 64 + [20] * 42, [9] * 64 + [3] * 42))
        assert shapes == (Shape(8, 16, 64), Shape(24, 16, 42))

    def test_count_the_end_token(self):
        assert choose(([7], [8])) == (Shape(8, 16, 64),)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_buckets": 0}, "num_buckets must be at least 1"),
            ({"rows_multiple": 0}, "rows_multiple must be at least 1"),
            ({"min_batches": 0}, "min_batches must be at least 1"),
            ({"tokens_per_batch": 0}, "tokens_per_batch must be at least 1"),
            ({"max_source_length": 60}, "max_source_length must be a mult"),
            ({"max_target_length": 0}, "max_target_length must be a mult"),
            (
                {"rows_multiple": 17},
                "tokens_per_batch=1,024 is too small: 17 rows of 64 .* 1,088",
            ),
            ({"max_target_length": 8}, "no pair fits into 64 and 8"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            choose(([10, 20], [30, 8]), **options)

    def test_as_many_sources_as_targets(self):
        with pytest.raises(ValueError, match="Received: 1 and 2"):
            choose(([1], [1, 2]))


class TestFill:
    def test_every_pair_has_one_place_that_it_fits_in(self, lengths):
        shapes = choose(lengths)
        for too_long in ("drop", "cut"):
            filled = fill(shapes, *lengths, too_long=too_long)
            places = np.concatenate([b.indices for b in filled.buckets])
            fits = (np.maximum(*lengths) < 64).sum()
            assert filled.num_too_long == 3000 - fits > 0
            assert len(set(places.tolist())) == len(places)
            assert len(places) == (3000 if too_long == "cut" else fits)
        filled = fill(shapes, *lengths)
        for bucket in filled.buckets:
            assert lengths[0][bucket.indices].max() < bucket.shape.source_length
            assert lengths[1][bucket.indices].max() < bucket.shape.target_length

    def test_padding_is_what_is_left(self):
        filled = fill([Shape(8, 16, 4)], [3, 7], [15, 0])
        assert filled.padding == pytest.approx(1 - (4 + 16 + 8 + 1) / 48)

    def test_what_is_cut_leaves_no_padding(self):
        filled = fill([Shape(8, 8, 4)], [30], [30], too_long="cut")
        assert (filled.num_too_long, filled.padding) == (1, 0.0)

    def test_empty_buckets_are_left_out(self):
        shapes = [Shape(8, 8, 4), Shape(16, 16, 2)]
        filled = fill(shapes, [10], [10])
        assert [bucket.shape for bucket in filled.buckets] == shapes[1:]

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="too_long must be 'drop' or"):
            fill([Shape(8, 8, 4)], [1], [1], too_long="keep")
        with pytest.raises(ValueError, match="no pair fits into 8 and 8"):
            fill([Shape(8, 8, 4)], [9], [1])
