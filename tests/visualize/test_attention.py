import html

import numpy as np
import pytest

from luna_tf.visualize import attention_over_images, attention_over_tokens
from luna_tf.visualize.attention import perplexity


def test_perplexity_counts_places():
    weights = np.array([[2.0, 0, 0, 0], [1, 1, 0, 0], [3, 3, 3, 3]])
    np.testing.assert_allclose(perplexity(weights), [1, 2, 4])


class TestImages:
    @pytest.fixture(scope="class")
    def figure(self):
        images = np.arange(2 * 9).reshape(2, 3, 3)
        weights = np.full((2, 5, 9), 1 / 9)
        weights[0, 3] = np.eye(9)[4]  # the sharpest slot
        titles = ["first", "second"]
        return attention_over_images(images, weights, titles, max_slots=2)

    def test_a_row_per_picture_and_a_map_per_slot(self, figure):
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == [
            "first",
            "slot 3: 1 pixels",
            "slot 0: 9 pixels",
            "second",
            "slot 0: 9 pixels",
            "slot 1: 9 pixels",
        ]

    def test_the_map_lies_over_the_picture(self, figure):
        picture, heat = figure.axes[1].images
        np.testing.assert_array_equal(
            picture.get_array(), [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        )
        expected = np.eye(9)[4].reshape(3, 3)
        np.testing.assert_array_equal(heat.get_array(), expected)
        assert 0 < heat.get_alpha() < 1

    def test_no_pictures(self):
        with pytest.raises(ValueError, match=r"\(pictures, slots, pixels\)"):
            attention_over_images(np.zeros((0, 3, 3)), np.zeros((0, 5, 9)))

    @pytest.mark.parametrize("shape", [(2, 5, 8), (1, 5, 9), (2, 9)])
    def test_shapes_must_fit(self, shape):
        with pytest.raises(ValueError, match=r"\(pictures, slots, pixels\)"):
            attention_over_images(np.zeros((2, 3, 3)), np.zeros(shape))


class TestTokens:
    def test_what_is_above_uniform_is_marked(self):
        tokens = ["a ", "film", "!", "?"]
        marked = attention_over_tokens(tokens, [2.0, 16.0, 1.0, 0.2])
        assert marked == (
            '<span style="background: rgba(194, 65, 12, 0.25)">a </span>'
            '<span style="background: rgba(194, 65, 12, 1.00)">film</span>!?'
        )

    def test_almost_uniform_attention_stays_light(self):
        marked = attention_over_tokens(["a", "b"], [1.0, 1.2])
        assert marked.count("rgba") == 1
        assert "0.13" in marked

    def test_texts_are_escaped(self):
        text = "<script>alert('&')</script>"
        for lift in (0.0, 5.0):
            marked = attention_over_tokens(["x", text], [1.0, lift])
            assert "<script>" not in marked
            assert html.escape(text) in marked

    def test_no_attention_at_all(self):
        assert attention_over_tokens(["a", "b"], [0.0, 0.0]) == "ab"

    def test_nan_is_no_attention(self):
        assert attention_over_tokens(["a", "b"], [np.nan, 1.0]) == "ab"

    def test_a_number_per_token(self):
        with pytest.raises(ValueError, match="2 tokens"):
            attention_over_tokens(["a", "b"], [0.1])
