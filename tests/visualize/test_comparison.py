"""Curves of several runs in one figure."""

import numpy as np
import pytest

from luna_tf.visualize import comparison_curves

NAN = float("nan")
RUNS = {
    "Luna": ([1.0, 2.0, 3.0], [0.5, NAN, 4.0]),
    "softmax": ([1.0, 2.5], [0.4, 3.0]),
}


def test_draws_every_run_without_its_gaps():
    (axes,) = comparison_curves(RUNS, "minutes", "BLEU", "Score").axes
    luna, softmax = axes.lines
    np.testing.assert_array_equal(luna.get_xdata(), [1.0, 3.0])
    np.testing.assert_array_equal(luna.get_ydata(), [0.5, 4.0])
    np.testing.assert_array_equal(softmax.get_xdata(), [1.0, 2.5])
    assert luna.get_color() != softmax.get_color()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["Luna", "softmax"]
    assert axes.get_xlabel() == "minutes"
    assert axes.get_ylabel() == "BLEU"
    assert axes.get_title(loc="left") == "Score"


def test_writes_a_png(tmp_path):
    path = tmp_path / "runs.png"
    comparison_curves(RUNS, "x", "y").savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "must be 1 to 5. Received: 0"),
        ({str(i): ([1], [1]) for i in range(6)}, "Received: 6"),
        ({"a": ([1, 2], [1])}, r"\['a'\].* \(2,\) and \(1,\)"),
        ({"a": ([NAN], [1.0])}, "has no point"),
    ],
)
def test_bad_runs_are_refused(runs, message):
    with pytest.raises(ValueError, match=message):
        comparison_curves(runs, "x", "y")


@pytest.mark.parametrize(
    ("values", "from_zero"), [([5.0, 40.0], True), ([50.0, 61.0], False)]
)
def test_the_axis_begins_at_zero_where_curves_come_near_it(values, from_zero):
    (axes,) = comparison_curves({"a": ([1, 2], values)}, "x", "%").axes
    low, high = axes.get_ylim()
    assert bool(low == 0.0) is from_zero
    assert low <= min(values) and high >= max(values)
