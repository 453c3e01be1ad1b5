import matplotlib
import pytest

from luna_tf.visualize.growth import growth_plot

TIME = {
    ("softmax", 0): {512: 0.03, 1024: 0.12},
    ("auto", 16): {512: 0.01, 1024: 0.02, 2048: 0.04},
}
MEMORY = {("auto", 16): {512: 4e6, 1024: 8e6}}


def test_draws_curves_with_their_slopes():
    figure = growth_plot(TIME, MEMORY)
    time, memory = figure.axes
    labels = {line.get_label(): line for line in time.lines}
    (softmax,) = (x for x in labels if x.startswith("softmax attention"))
    (luna,) = (x for x in labels if x.startswith("Luna, l = 16"))
    assert "2.00" in softmax and "1.00" in luna
    assert list(labels[luna].get_xdata()) == [512, 1024, 2048]
    assert list(labels[luna].get_ydata()) == [0.01, 0.02, 0.04]
    assert time.get_xscale() == time.get_yscale() == "log"
    assert len(memory.lines) == 1 and memory.get_legend()


def test_leaves_out_memory_that_was_not_measured(tmp_path):
    before = dict(matplotlib.rcParams)
    figure = growth_plot(TIME, {("auto", 16): {}}, "title")
    assert len(figure.axes) == 1
    figure.savefig(tmp_path / "growth.png")
    assert dict(matplotlib.rcParams) == before


def test_needs_a_point():
    with pytest.raises(ValueError, match="at least one point"):
        growth_plot({("auto", 16): {}}, {})
