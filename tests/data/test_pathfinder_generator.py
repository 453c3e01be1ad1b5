"""The Pathfinder generator: the original's distribution, determinism."""

import hashlib
import pathlib

import numpy as np
import pytest

from luna_tf.data.lra import pathfinder_contours
from luna_tf.data.lra.pathfinder_generator import (
    CHUNK_SIZE,
    PathfinderConfig,
    generate,
    generate_chunk,
)
from luna_tf.data.lra.pathfinder_patches import tables
from luna_tf.data.lra.pathfinder_settings import settings

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# The seeds are fixed: each test always gives the same result. Right generators
# fail one of the two-sample tests with this probability.
LEVEL = 1e-3
SIGMAS = 4
NUM_SAMPLED = 1500


@pytest.fixture(scope="module")
def sample():
    config = PathfinderConfig(32, "hard", NUM_SAMPLED, seed=2021)
    return generate(config, num_workers=1)


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN / "pathfinder32_reference_1500.npz") as file:
        return file["X"], file["y"]


def kolmogorov_smirnov(first, second):
    """Probability of samples that differ so much, if they are of one kind.

    From the limit for large samples; for numbers with ties it is too large.
    """
    values = np.concatenate([first, second])
    shares = [
        np.searchsorted(np.sort(part), values, side="right") / len(part)
        for part in (first, second)
    ]
    scale = np.sqrt(len(first) * len(second) / len(values))
    distance = np.abs(shares[0] - shares[1]).max() * scale
    k = np.arange(1, 101)
    terms = (-1.0) ** (k - 1) * np.exp(-2 * (k * distance) ** 2)
    return min(1.0, 2 * terms.sum()) if distance > 0.2 else 1.0


def differences(first, second):
    """Differences of means of the columns, in standard errors."""
    variances = first.var(axis=0) / len(first) + second.var(axis=0) / len(
        second
    )
    gaps = first.mean(axis=0) - second.mean(axis=0)
    return gaps / np.sqrt(np.maximum(variances, 1e-12))


def markers(pixels):
    """Rows and columns of the two discs, `(pictures, 2, 2)`.

    No paddle is as wide as a cross of five pixels.
    """
    size = pixels.shape[1]
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    cross = np.minimum.reduce(
        [
            padded[:, y : y + size, x : x + size]
            for y, x in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))
        ]
    )
    found, rows = [], np.arange(len(pixels))
    grid = np.indices((size, size))
    for _ in range(2):
        y, x = np.divmod(cross.reshape(len(pixels), -1).argmax(axis=1), size)
        assert (cross[rows, y, x] > 0).all()
        found.append(np.stack([y, x], axis=1))
        near = np.maximum(
            np.abs(grid[0] - y[:, None, None]),
            np.abs(grid[1] - x[:, None, None]),
        )
        cross = np.where(near > 2, cross, 0)
    return np.stack(found, axis=1)


def correlation(pixels, dy, dx):
    size = pixels.shape[1]
    first = pixels[:, : size - dy, : size - dx].astype(float)
    second = pixels[:, dy:, dx:].astype(float)
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


SUMMARIES = {
    "sum": lambda pixels: pixels.sum(axis=(1, 2), dtype=np.int64),
    "brightest distractor": lambda pixels: np.sort(
        pixels.reshape(len(pixels), -1), axis=1
    )[:, -20],
    "middle row": lambda pixels: (
        (pixels > 64) @ np.arange(32) / (pixels > 64).sum(axis=2).clip(1)
    ).mean(axis=1),
} | {
    f"pixels above {level}": lambda pixels, level=level: (pixels > level).sum(
        axis=(1, 2)
    )
    for level in (0, 1, 2, 3, 5, 64, 128, 200)
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_pictures_are_as_full_and_bright(sample, reference, name):
    summary = SUMMARIES[name]
    assert kolmogorov_smirnov(summary(sample[0]), summary(reference[0])) > LEVEL


def test_the_two_sample_test_can_tell_samples_apart(reference):
    pixels = reference[0]
    for name in ("sum", "pixels above 0"):
        summary = SUMMARIES[name](pixels)
        assert kolmogorov_smirnov(summary * 1.02 + 1, summary) < LEVEL
        halves = summary[::2], summary[1::2]
        assert kolmogorov_smirnov(*halves) > LEVEL


def test_every_grey_level_is_as_frequent(sample, reference):
    # Levels are few, as patches are: another rounding moves many of them.
    counts = [
        np.stack([np.bincount(x.ravel(), minlength=256) for x in pixels])
        for pixels in (sample[0], reference[0])
    ]
    assert np.abs(differences(*counts)).max() < SIGMAS
    total = abs(counts[0].mean(axis=0) - counts[1].mean(axis=0))[1:].sum()
    assert total < 0.05 * (reference[0] > 0).sum(axis=(1, 2)).mean()


def test_every_pixel_is_drawn_as_often(sample, reference):
    drawn = [
        pixels.reshape(-1, 1024) > 0 for pixels in (sample[0], reference[0])
    ]
    often = (drawn[0].sum(axis=0) + drawn[1].sum(axis=0)) > 40
    assert often.sum() > 900
    gaps = differences(*drawn)[often]
    assert np.abs(gaps).max() < SIGMAS + 1
    assert np.abs(gaps).mean() < 1.0  # 0.8 on average


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_neighbours_are_as_correlated(sample, reference, distance):
    for dy, dx in ((0, distance), (distance, 0), (distance, distance)):
        values = [correlation(x[0], dy, dx) for x in (sample, reference)]
        # Between the halves of the reference it is up to 0.015.
        assert values[0] == pytest.approx(values[1], abs=0.02)


def test_tips_are_where_they_should_be(sample, reference):
    places = [markers(x[0]) for x in (sample, reference)]
    for tip in (0, 1):
        for axis in (0, 1):
            pair = [x[:, tip, axis] for x in places]
            assert kolmogorov_smirnov(*pair) > LEVEL
    for label in (0, 1):
        distances = [
            np.hypot(*(x[:, 0] - x[:, 1]).T)[y == label]
            for x, (_, y) in zip(places, (sample, reference), strict=True)
        ]
        assert kolmogorov_smirnov(*distances) > LEVEL


def test_labels_are_balanced(sample):
    _, labels = sample
    assert labels.dtype == np.int32
    assert set(labels.tolist()) == {0, 1}
    error = 0.5 / np.sqrt(NUM_SAMPLED)
    assert abs(labels.mean() - 0.5) < SIGMAS * error


def test_pixels_alone_do_not_tell_the_label(sample):
    pixels, labels = sample
    inputs = pixels.reshape(NUM_SAMPLED, -1) / 255
    inputs -= inputs.mean(axis=0)
    targets = 2.0 * labels - 1
    train, test = slice(0, 1000), slice(1000, None)
    gram = inputs[train].T @ inputs[train] + 100 * np.eye(1024)
    weights = np.linalg.solve(gram, inputs[train].T @ targets[train])
    correct = (inputs[test] @ weights > 0) == labels[test]
    assert (((inputs[train] @ weights) > 0) == labels[train]).mean() > 0.8
    assert abs(correct.mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(len(correct))
    bright = pixels.sum(axis=(1, 2))
    assert kolmogorov_smirnov(bright[labels == 0], bright[labels == 1]) > LEVEL


# Images/s aside, the table of the original: share of attempts that succeed
# (of which 330 of 360 fail at the first paddle), images, sum / 255 and its
# deviation, pixels > 0, > 64, > 128.
ORIGINAL = {
    "hard": (0.0025, 1500, 81.1, 7.8, 350.7, 128.9, 87.0),
    "intermediate": (0.014, 300, 61.6, 7.6, 270.8, 95.3, 64.4),
    "easy": (0.047, 300, 52.2, 6.6, 234.0, 77.9, 53.0),
}


@pytest.mark.parametrize("difficulty", ORIGINAL)
def test_as_many_attempts_succeed(difficulty):
    kind = settings(32, difficulty)
    table = tables(kind, 1)
    attempts = 2000
    growth = pathfinder_contours._Growth(
        np.random.default_rng(0),
        table,
        np.tile(table.border, (attempts, 1)),
        2,
        kind.contour_length,
    )
    rows = pathfinder_contours._grow_pairs(growth, kind)
    share = len(rows) / attempts
    expected = ORIGINAL[difficulty][0] * 360 / len(table.seed_degrees)
    error = np.sqrt(expected * (1 - expected) / attempts)
    # Of the original's share, two digits are known.
    assert abs(share - expected) < SIGMAS * error + 0.02 * expected


@pytest.mark.parametrize("difficulty", ["intermediate", "easy"])
def test_easier_pictures_are_as_full(difficulty):
    _, known, total, deviation, *above = ORIGINAL[difficulty]
    pixels, _ = generate(PathfinderConfig(32, difficulty, 1000, seed=5), 1)
    sums = pixels.sum(axis=(1, 2)) / 255
    error = np.sqrt(1 / known + 1 / len(sums))
    assert abs(sums.mean() - total) < SIGMAS * error * deviation
    for level, count in zip((0, 64, 128), above, strict=True):
        counts = (pixels > level).sum(axis=(1, 2))
        assert abs(counts.mean() - count) < SIGMAS * error * counts.std()


@pytest.mark.slow
def test_path_x_is_as_full():
    # From 40 pictures of the original.
    pixels, labels = generate(PathfinderConfig(128, "hard", 200, seed=5))
    assert pixels.shape == (200, 128, 128)
    assert 70 < labels.sum() < 130
    error = np.sqrt(1 / 40 + 1 / 200)
    for counts, expected in (
        (pixels.sum(axis=(1, 2)) / 255, 511),
        ((pixels > 0).sum(axis=(1, 2)), 2255),
        ((pixels > 64).sum(axis=(1, 2)), 672),
        ((pixels > 128).sum(axis=(1, 2)), 498),
    ):
        assert abs(counts.mean() - expected) < SIGMAS * error * counts.std()
    for distance, expected in ((1, 0.673), (2, 0.296), (4, 0.069)):
        value = correlation(pixels, 0, distance)
        assert value == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("image_size", [64, 256])
def test_other_sizes(image_size):
    config = PathfinderConfig(image_size, "easy", 12)
    pixels, labels = generate(config, num_workers=1)
    assert pixels.shape == (12, image_size, image_size)
    assert labels.shape == (12,)
    assert (pixels.max(axis=(1, 2)) == 255).all()
    # Two contours, two discs and hardly anything else.
    assert 0.01 < (pixels > 64).mean() < 0.1


def test_neither_workers_nor_progress_change_the_pictures():
    config = PathfinderConfig(32, "easy", 2 * CHUNK_SIZE + 10, seed=3)
    calls = []
    expected = generate(config, 1, lambda *numbers: calls.append(numbers))
    assert calls == [(500, 1010), (1000, 1010), (1010, 1010)]
    for actual, array in zip(generate(config, 3), expected, strict=True):
        np.testing.assert_array_equal(actual, array)
    last = generate_chunk(config, 2)
    np.testing.assert_array_equal(last.pixels, expected[0][-10:])
    with pytest.raises(IndexError):
        generate_chunk(config, 3)


@pytest.mark.parametrize(
    "image_size, difficulty, digest",
    [
        (32, "hard", "38112733ef194965"),
        (64, "easy", "25514af07d907c0d"),
        (128, "easy", "24f55dd1d980bde4"),
        (256, "easy", "11de880d33d635c3"),
    ],
)
def test_pictures_are_the_same_everywhere(image_size, difficulty, digest):
    """Where they are not, GENERATOR_VERSION must be raised."""
    chunk = generate_chunk(PathfinderConfig(image_size, difficulty, 10), 0)
    content = chunk.pixels.tobytes() + chunk.labels.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_a_smaller_set_begins_the_same():
    small = generate_chunk(PathfinderConfig(32, "easy", 500), 0)
    large = generate_chunk(PathfinderConfig(32, "easy", 10**6), 0)
    np.testing.assert_array_equal(small.pixels, large.pixels)


def test_easier_kinds_than_the_published_ones():
    published = PathfinderConfig(32, "easy", 100)
    assert "distractors" not in published.describe()
    easier = PathfinderConfig(32, "easy", 100, 0, 4, distractors=False)
    assert easier.describe()["contour_length"] == 4
    assert PathfinderConfig(**easier.describe()) == easier
    pictures, _ = generate(published, num_workers=1)
    fewer, labels = generate(easier, num_workers=1)
    # Two contours and two discs instead of a dozen.
    assert (fewer > 0).sum() < 0.7 * (pictures > 0).sum()
    assert 20 < labels.sum() < 80
    short = settings(32, "hard", contour_length=2)
    assert (short.contour_length, short.distractor_length) == (2, 1)


def test_seeds_and_chunks_differ():
    config = PathfinderConfig(32, "easy", 1010)
    other = PathfinderConfig(32, "easy", 1010, seed=1)
    parts = [
        generate_chunk(config, 0),
        generate_chunk(config, 1),
        generate_chunk(other, 0),
    ]
    pictures = {x.tobytes() for part in parts for x in part.pixels}
    assert len(pictures) == 1500


def test_margins_are_those_of_the_size():
    chunk = generate_chunk(PathfinderConfig(128, "easy", 20), 0)
    assert set(chunk.margins.tolist()) == {2, 3}
    # A last chunk of one picture has one margin only.
    chunk = generate_chunk(PathfinderConfig(128, "easy", 501), 1)
    assert chunk.pixels.shape == (1, 128, 128)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(image_size=48),
            r"image_size must be one of \(32, 64, 128, 256\)",
        ),
        (dict(difficulty="normal"), "difficulty must be one of .*'normal'"),
        (dict(num_examples=9), "num_examples must be an integer from 10"),
        (dict(num_examples=1e3), "Received: num_examples=1000.0"),
        (dict(seed=-1), "seed must be an integer from 0"),
        (dict(contour_length=15), "contour_length must be from 2 to 14"),
    ],
)
def test_bad_configurations(arguments, message):
    with pytest.raises(ValueError, match=message):
        PathfinderConfig(**arguments)


def test_bad_number_of_workers():
    with pytest.raises(ValueError, match="Received: num_workers=0"):
        generate(PathfinderConfig(num_examples=10), num_workers=0)
