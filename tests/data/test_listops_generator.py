"""The ListOps generator: exact distribution, determinism, bad arguments."""

import dataclasses
import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from luna_tf.data.lra import listops_generator
from luna_tf.data.lra.listops import Split, reference_lines, to_tsv_source
from luna_tf.data.lra.listops_generator import ListOpsConfig, generate
from luna_tf.data.lra.listops_trees import sample_chunk

STANDARD = dict(
    seed=2021,
    attempts=4096,
    max_depth=10,
    max_args=10,
    min_length=500,
    max_length=2000,
    operator_probability=0.25,
)
NUM_CHUNKS = 9
# Sampling errors that a right generator may be off by. The seed is fixed: the
# tests below always give the same result.
SIGMAS = 4
SHORT = dict(min_length=9, max_length=51)


@pytest.fixture(scope="module")
def sample():
    """About 3000 accepted expressions of the standard distribution."""
    chunks = [sample_chunk(k, **STANDARD) for k in range(NUM_CHUNKS)]
    tokens, lengths, values = map(np.concatenate, zip(*chunks, strict=True))
    row_splits = np.concatenate([[0], np.cumsum(lengths)])
    return Split(tokens, row_splits, values)


@pytest.fixture(scope="module")
def length_probabilities():
    """Probability of each length below 2000, without any sampling.

    The lengths of a subtree at some depth have a generating function: x at
    the last depth, above it p x + (1 - p) x^2 E[f^k] with f that of the next
    depth and k the number of arguments.
    """
    size = STANDARD["max_length"]
    p = STANDARD["operator_probability"]
    digit = np.eye(1, size, 1)[0]
    below = digit
    for _ in range(STANDARD["max_depth"] - 1):
        power, mean = below, np.zeros(size)
        for _ in range(2, STANDARD["max_args"] + 1):
            power = np.convolve(power, below)[:size]
            mean += power / (STANDARD["max_args"] - 1)
        below = (1 - p) * digit + p * np.append([0, 0], mean)[:size]
    return below


def slow_evaluate(tokens):
    """Consumes and evaluates one expression, as plainly as can be."""
    token = tokens.pop(0)
    if token.isdigit():
        return int(token)
    arguments = []
    while tokens[0] != "]":
        arguments.append(slow_evaluate(tokens))
    tokens.pop(0)
    return {
        "[MIN": min(arguments),
        "[MAX": max(arguments),
        "[MED": int(np.median(arguments)),
        "[SM": sum(arguments) % 10,
    }[token]


def shape(tokens, position=0):
    """Returns the end of a subtree, its depth and its numbers of arguments."""
    if tokens[position].isdigit():
        return position + 1, 1, []
    position, depth, count, counts = position + 1, 0, 0, []
    while tokens[position] != "]":
        position, below, more = shape(tokens, position)
        depth, count, counts = max(depth, below), count + 1, counts + more
    return position + 1, depth + 1, [*counts, count]


def texts(split, count=None):
    return [
        to_tsv_source(split.example(i), parentheses=False).split()
        for i in range(len(split) if count is None else count)
    ]


def checksum(splits):
    digest = hashlib.sha256()
    for name in ("train", "validation", "test"):
        for array in dataclasses.astuple(splits[name]):
            digest.update(array.tobytes())
    return digest.hexdigest()


def assert_frequency(count, total, probability, reference_total=np.inf):
    """`reference_total`: how many draws `probability` was estimated from."""
    variance = probability * (1 - probability)
    error = np.sqrt(variance / total + variance / reference_total)
    assert abs(count / total - probability) < SIGMAS * error


def test_acceptance_is_exact(sample, length_probabilities):
    accepted = length_probabilities[STANDARD["min_length"] + 1 :].sum()
    assert accepted == pytest.approx(0.082755, abs=1e-6)
    assert_frequency(len(sample), NUM_CHUNKS * STANDARD["attempts"], accepted)


def test_lengths_are_exact(sample, length_probabilities):
    lengths = np.arange(STANDARD["max_length"])
    expected = length_probabilities.copy()
    expected[: STANDARD["min_length"] + 1] = 0
    expected /= expected.sum()
    mean = expected @ lengths
    deviation = np.sqrt(expected @ lengths**2 - mean**2)
    assert mean == pytest.approx(1035.0, abs=0.1)
    assert deviation == pytest.approx(393.8, abs=0.1)
    n = len(sample)
    error = deviation / np.sqrt(n)
    assert abs(sample.lengths.mean() - mean) < SIGMAS * error
    cumulated = np.cumsum(expected)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        value = np.searchsorted(cumulated, quantile)
        assert_frequency(
            np.count_nonzero(sample.lengths <= value), n, cumulated[value]
        )
    assert sample.lengths.min() > STANDARD["min_length"]
    assert sample.lengths.max() < STANDARD["max_length"]
    # With an operator of k arguments come k + 1 pairs of parentheses, which
    # makes 3 n - 2 tokens of n.
    written = to_tsv_source(sample.example(0)).split()
    assert len(written) == 3 * sample.lengths[0] - 2


def test_labels_and_roots(sample):
    n = len(sample)
    # Estimated from 3000 expressions of another implementation.
    counts = np.bincount(sample.labels, minlength=10)
    assert_frequency(counts[0], n, 0.171, 3000)
    assert_frequency(counts[9], n, 0.173, 3000)
    for count in counts[1:9]:
        assert_frequency(count, n, 0.083, 3000)
    roots = np.bincount(sample.root_operators(), minlength=18)
    assert roots[:13].sum() == roots[17] == 0
    for count in roots[13:17]:
        assert_frequency(count, n, 0.25)
    lines = reference_lines(sample, sample)
    assert_frequency(n * lines["root_operator"], n, 0.371, 3000)
    assert_frequency(n * lines["majority"], n, 0.173, 3000)


def test_trees_have_the_depth_arguments_and_digits_asked_for(sample):
    counts, digits = [], []
    for tokens in texts(sample, 100):
        end, depth, arguments = shape(tokens)
        assert end == len(tokens)
        assert depth == STANDARD["max_depth"]
        counts += arguments
        digits += [int(token) for token in tokens if token.isdigit()]
    assert (min(counts), max(counts)) == (2, 10)
    # Long trees are selected, but that says nothing about single digits.
    for count in np.bincount(digits):
        assert_frequency(count, len(digits), 0.1)


def test_numbers_of_arguments_are_uniform():
    # All lengths are kept, so nothing is selected.
    free = {**STANDARD, "max_depth": 3, "min_length": 0}
    tokens, lengths, values = sample_chunk(0, **free)
    assert len(lengths) == STANDARD["attempts"]
    split = Split(tokens, np.append(0, np.cumsum(lengths)), values)
    counts = sum((shape(tokens)[2] for tokens in texts(split)), [])
    observed = np.bincount(counts, minlength=11)
    assert observed[:2].sum() == 0 and len(observed) == 11
    for count in observed[2:]:
        assert_frequency(count, len(counts), 1 / 9)
    assert_frequency(np.count_nonzero(lengths > 1), len(lengths), 0.25)


def test_values_are_right(sample):
    for tokens, label in zip(texts(sample, 100), sample.labels, strict=False):
        assert slow_evaluate(tokens) == label
        assert not tokens


@pytest.mark.parametrize(
    "max_depth,max_args", [(1, 5), (2, 2), (4, 3), (6, 25)]
)
def test_other_bounds_are_kept(max_depth, max_args):
    free = dict(max_depth=max_depth, max_args=max_args, min_length=0)
    tokens, lengths, values = sample_chunk(
        0, **{**STANDARD, **free, "max_length": 200, "attempts": 500}
    )
    split = Split(tokens, np.append(0, np.cumsum(lengths)), values)
    shapes = [shape(tokens) for tokens in texts(split)]
    assert max(depth for _, depth, _ in shapes) == max_depth
    assert all(
        set(counts) <= {*range(2, max_args + 1)} for *_, counts in shapes
    )
    for tokens, label in zip(texts(split), split.labels, strict=True):
        assert slow_evaluate(tokens) == label


def test_no_expression_occurs_twice():
    # Short ones, among which there are many duplicates to be dropped.
    config = ListOpsConfig(2000, 500, 500, min_length=0, max_length=8)
    splits = generate(config)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 2000,
        "validation": 500,
        "test": 500,
    }
    everything = [
        " ".join(t) for split in splits.values() for t in texts(split)
    ]
    assert len(set(everything)) == len(everything) == 3000
    lengths = np.concatenate([split.lengths for split in splits.values()])
    assert 0 < lengths.min() and lengths.max() < 8
    # The frequent digits come early, yet not all of them end up in train.
    assert 0 < np.count_nonzero(splits["train"].lengths == 1) < 10


def test_data_do_not_depend_on_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(listops_generator, "_CHUNKS_WITHOUT_THREADS", 1)
    config = ListOpsConfig(2000, 200, 200, seed=5, **SHORT)
    threads = set()

    def draw(*args, **kwargs):
        threads.add(threading.current_thread())
        return sample_chunk(*args, **kwargs)

    monkeypatch.setattr(listops_generator, "sample_chunk", draw)
    expected = checksum(generate(config, num_workers=1))
    assert threads == {threading.current_thread()}
    for num_workers in (2, 3, None):
        assert checksum(generate(config, num_workers)) == expected
    assert len(threads) > 2
    assert checksum(generate(dataclasses.replace(config, seed=6))) != expected


def test_small_sets_need_no_threads(monkeypatch):
    monkeypatch.setattr(
        listops_generator.concurrent.futures, "ThreadPoolExecutor", None
    )
    generate(ListOpsConfig(100, 10, 10), num_workers=4)


def test_stream_never_changes():
    # If this fails, models were trained on data that can no longer be made.
    # After an intended change raise GENERATOR_VERSION, so that no cache of
    # the old data is taken for the new.
    assert listops_generator.GENERATOR_VERSION == 1
    assert checksum(generate(ListOpsConfig(300, 20, 20))) == (
        "a0a334515f0503972ec4428b8e6550be85476e99c6b7868f44471eba0f864602"
    )
    assert checksum(generate(ListOpsConfig(300, 20, 20, seed=1, **SHORT))) == (
        "0d3eb2ec9bee246dc526616d541ddd75e62c9e17f338db46e51ac1ff2b838a65"
    )


def test_progress_is_reported():
    reports = []
    generate(
        ListOpsConfig(1000, 10, 10),
        num_workers=1,
        progress=lambda done, total: reports.append((done, total)),
    )
    done = [report[0] for report in reports]
    assert len(done) == 4 and done == sorted(done)
    assert reports[-1] == (1020, 1020)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(num_train=0), "num_train must be .* from 1 to"),
        (dict(num_test=2.0), "Received: num_test=2.0"),
        (dict(num_validation=True), "Received: num_validation=True"),
        (dict(max_depth=0), "max_depth must be .* from 1 to 1000"),
        (dict(max_args=1), "max_args must be .* from 2 to 1000"),
        (dict(min_length=-1), "min_length must be .* from 0"),
        (dict(max_length=2**40), "max_length must be .* to 8388608"),
        (dict(max_length="9"), "Received: max_length='9'"),
        (dict(min_length=500, max_length=501), "at least min_length \\+ 2"),
        (dict(operator_probability=0.0), "between 0 and 1"),
        (dict(operator_probability=1), "Received: operator_probability=1"),
        (dict(seed=-1), "seed must be .* from 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ListOpsConfig(**arguments)


@pytest.mark.parametrize(
    "arguments,available",
    [
        # Lengths 2 and 3 do not exist, 4 is an operator and two digits.
        (dict(min_length=1, max_length=4), 0),
        (dict(min_length=1, max_length=5), 400),
        (dict(min_length=0, max_length=6), 10 + 400 + 4000),
        # Length 7: five digits, or two arguments of which one is a list.
        (dict(min_length=6, max_length=8, max_args=4), 4 * 2 * 10 * 400),
        (dict(min_length=6, max_length=8), 4 * 10**5 + 4 * 2 * 10 * 400),
        (dict(max_depth=2), 0),
        (dict(min_length=0, max_depth=1), 10),
        (dict(min_length=0, max_depth=2, max_args=2), 10 + 400),
    ],
)
def test_impossible_configurations_are_refused(arguments, available):
    # Just what there is can be asked for, one more cannot.
    if available >= 3:
        config = ListOpsConfig(available - 2, 1, 1, **arguments)
        assert config.num_examples == available
    with pytest.raises(ValueError, match=f"only {available} different"):
        ListOpsConfig(max(available - 1, 1), 1, 1, **arguments)


def test_improbable_configurations_stall_with_an_error(monkeypatch):
    monkeypatch.setattr(listops_generator, "_STALL_ATTEMPTS", 20_000)
    config = ListOpsConfig(
        10, 10, 10, min_length=90, max_length=100, operator_probability=1e-6
    )
    with pytest.raises(RuntimeError, match="0 of 30 were found before"):
        generate(config)


def test_num_workers_is_validated():
    with pytest.raises(ValueError, match="num_workers=0"):
        generate(ListOpsConfig(10, 10, 10), num_workers=0)


IMPORT_ALONE = """
import sys, types

# The package itself registers layers, for which it needs Keras.
for name in ("luna_tf", "luna_tf.data"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["luna_tf.data"].__path__ = [sys.argv[1]]

from luna_tf.data.lra import generate
assert not {"tensorflow", "keras"} & set(sys.modules)
"""


@pytest.mark.multiprocess
def test_generator_needs_numpy_only():
    folder = Path(listops_generator.__file__).parents[1]
    subprocess.run([sys.executable, "-c", IMPORT_ALONE, folder], check=True)
