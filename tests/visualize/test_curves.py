import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color

from luna_tf.visualize import training_curves

NAN = float("nan")
HISTORY = {
    "step": [10, 20, 30, 40],
    "train_loss": [2.3, 2.1, 2.0, 1.9],
    "train_accuracy": [0.1, 0.2, 0.3, 0.35],
    "train_learning_rate": [1e-4, 2e-4, 1e-4, 0.0],
    "train_examples_per_second": [NAN, 900.0, 910.0, 905.0],
    "validation_loss": [NAN, 2.2, NAN, 2.0],
    "validation_accuracy": [NAN, 0.2, NAN, 0.33],
}


def axes_by_title(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_draws_the_values_it_was_given_and_leaves_out_gaps():
    panels = axes_by_title(training_curves(HISTORY))
    assert list(panels) == ["Loss", "Accuracy", "Learning rate", "Speed"]
    training, validation = panels["Loss"].lines
    np.testing.assert_array_equal(training.get_ydata(), HISTORY["train_loss"])
    np.testing.assert_array_equal(validation.get_xdata(), [20, 40])
    np.testing.assert_array_equal(validation.get_ydata(), [2.2, 2.0])
    assert not same_color(training.get_color(), validation.get_color())
    (speed,) = panels["Speed"].lines
    np.testing.assert_array_equal(speed.get_xdata(), [20, 30, 40])
    for axes in panels.values():
        assert axes.get_ylabel()


def test_reference_lines_are_drawn_and_labelled():
    lines = {"root operator": 0.33, "majority class": 0.17}
    accuracy = axes_by_title(training_curves(HISTORY, lines))["Accuracy"]
    heights = [line.get_ydata()[0] for line in accuracy.lines[2:]]
    assert sorted(heights) == [0.17, 0.33]
    labels = [text.get_text() for text in accuracy.texts]
    assert labels == ["majority class\n17.0 %", "root operator\n33.0 %"]


def test_labels_of_close_reference_lines_do_not_overlap():
    figure = training_curves(HISTORY, {"a": 0.30, "b": 0.30})
    figure.canvas.draw()
    low, high = (
        text.get_window_extent()
        for text in axes_by_title(figure)["Accuracy"].texts
    )
    assert not low.overlaps(high)


def test_writes_a_png_and_leaves_global_state_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    path = tmp_path / "curves.png"
    training_curves(HISTORY, {"majority class": 0.17}, "title").savefig(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert dict(matplotlib.rcParams) == before


def test_an_empty_history_gives_an_empty_figure(tmp_path):
    training_curves({"step": []}).savefig(tmp_path / "empty.png")


@pytest.mark.parametrize(
    "history", [{"train_loss": [1.0]}, {"step": [1, 2], "train_loss": [1.0]}]
)
def test_refuses_a_broken_history(history):
    with pytest.raises(ValueError, match="`history`"):
        training_curves(history)
