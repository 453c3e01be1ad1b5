import pytest

from luna_tf.training.statistics import wilson_interval


def test_equals_a_published_example():
    # 15 of 148: Newcombe (1998), table I, method 3, gives 0.0624 to 0.1605.
    low, high = wilson_interval(15, 148)
    assert low == pytest.approx(0.0624, abs=5e-5)
    assert high == pytest.approx(0.1605, abs=5e-5)


@pytest.mark.parametrize("trials", [1, 7, 2000])
def test_stays_inside_zero_and_one(trials):
    low, high = wilson_interval(0, trials)
    assert low == 0.0 < high < 1.0
    mirrored = wilson_interval(trials, trials)
    assert mirrored == pytest.approx((1.0 - high, 1.0))


def test_narrows_with_more_trials_and_less_confidence():
    def width(*arguments):
        low, high = wilson_interval(*arguments)
        return high - low

    assert width(400, 1000) < width(40, 100)
    assert width(40, 100, 0.8) < width(40, 100, 0.95)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 0), "trials"), ((3, 2), "successes"), ((1, 2, 1.0), "confidence")],
)
def test_refuses_impossible_arguments(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        wilson_interval(*arguments)
