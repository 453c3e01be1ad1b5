import numpy as np
import pytest

from luna_tf.visualize import attention_per_head

WORDS = ["to", "be", "or", "not"]


@pytest.fixture(scope="module")
def weights():
    weights = np.full((3, 5, 4), 0.25)
    weights[:, 3] = [0, 0, 1, 0]  # the sharpest slot
    weights[1, 1] = [0.5, 0.5, 0, 0]
    return weights


@pytest.fixture(scope="module")
def figure(weights):
    return attention_per_head(weights, WORDS, "Heads", max_slots=2)


def test_a_map_per_head_with_the_sharpest_slots_first(figure, weights):
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == [
        "head 0: 3.4 tokens a slot",
        "head 1: 3.0 tokens a slot",
        "head 2: 3.4 tokens a slot",
    ]
    for head, axes in enumerate(maps):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), weights[head, [3, 1]])
        assert image.get_clim() == (0, 1)
        rows = [label.get_text() for label in axes.get_yticklabels()]
        assert rows == ["3", "1"]
    assert figure.get_suptitle() == "Heads"


def test_tokens_below_the_last_maps_alone(figure):
    texts = [
        [label.get_text() for label in axes.get_xticklabels()]
        for axes in figure.axes[:3]
    ]
    assert texts == [[], WORDS, WORDS]


def test_tokens_may_be_an_array(weights):
    axes = attention_per_head(weights, np.array(WORDS)).axes[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == WORDS


def test_long_texts_have_positions(tmp_path):
    figure = attention_per_head(np.ones((1, 2, 200)), ["$"] * 200)
    assert figure.axes[0].get_xlabel() == "position"
    figure.savefig(tmp_path / "a.png")


def test_dollars_are_no_formula(tmp_path):
    figure = attention_per_head(np.ones((1, 2, 2)), [r"$\frac", "$"])
    figure.savefig(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 2), (1, 2, 3, 4)])
def test_weights_of_another_rank(shape):
    with pytest.raises(ValueError, match=r"\(heads, slots, tokens\)"):
        attention_per_head(np.ones(shape))


def test_a_text_per_token(weights):
    with pytest.raises(ValueError, match=r"the 4 of `weights`.*2 tokens"):
        attention_per_head(weights, ["a", "b"])
