import matplotlib
import pytest

from luna_tf.visualize import growth_from_csv, growth_plot

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


class TestCsv:
    LINES = (
        "contender,mode,length,packed_length,median_seconds,extra_bytes,status",
        "auto,xla,512,16,0.01,4000000,ok",
        "auto,xla,1024,16,0.02,0,ok",
        "softmax,xla,512,0,0.03,,ok",
        "softmax,xla,1024,0,,,out of memory",
        "auto,eager,512,16,0.5,,ok",
        "auto,memory,512,16,,5,ok",
    )

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "attention.csv"
        path.write_text("\n".join(self.LINES))
        return path

    def test_one_mode_of_a_table(self, path):
        time, memory = growth_from_csv(path).axes
        assert {tuple(line.get_ydata()) for line in time.lines} == {
            (0.01, 0.02),
            (0.03,),
        }
        assert len(memory.lines) == 1

    def test_an_unknown_mode(self, path):
        with pytest.raises(ValueError, match=r"eager, memory, xla.*'fast'"):
            growth_from_csv(path, "fast")

    def test_memory_alone(self, path):
        with pytest.raises(
            ValueError, match="no time measured in mode 'memory'"
        ):
            growth_from_csv(path, "memory")

    def test_another_table(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("mode,length\n")
        with pytest.raises(ValueError, match="no column 'contender'"):
            growth_from_csv(path)
