from pathlib import Path

import keras
import numpy as np
import pytest

from luna_tf.training.schedules import (
    CosineWithWarmup,
    InverseSquareRoot,
    Milestones,
    Polynomial,
)

GOLDEN = Path(__file__).parents[1] / "golden/luna/lr_schedules.npz"
SCHEDULES = {
    "listops": InverseSquareRoot(1e-4, warmup_steps=1000),
    "imdb": InverseSquareRoot(5e-5, warmup_steps=8000),
    "wmt": Milestones(
        0.1,
        [300_000, 450_000],
        factor=0.1,
        warmup_steps=1000,
        initial_learning_rate=1e-5,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_the_official_schedule(name):
    with np.load(GOLDEN) as golden:
        updates = golden[f"{name}/in/updates"]
        expected = golden[f"{name}/out64/lr"]
    got = [float(SCHEDULES[name](int(update))) for update in updates]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_first_update_is_made_at_step_zero_of_the_schedule():
    variable = keras.Variable(np.zeros(1, "float32"))
    schedule = InverseSquareRoot(1.0, 4, initial_learning_rate=0.5)
    optimizer = keras.optimizers.SGD(schedule)
    steps = []
    for _ in range(6):
        before = float(variable.numpy()[0])
        optimizer.apply([np.ones(1, "float32")], [variable])
        steps.append(before - float(variable.numpy()[0]))
    expected = [0.5, 0.625, 0.75, 0.875, 1.0, np.sqrt(4 / 5)]
    np.testing.assert_allclose(steps, expected, rtol=1e-5)


def test_milestones_without_warmup_drop_once_each():
    schedule = Milestones(1.0, [2, 4, 5], factor=0.5)
    values = [float(schedule(step)) for step in range(7)]
    assert values == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125, 0.125]
    assert float(Milestones(1.0, [])(10**6)) == 1.0


def test_cosine_rises_peaks_and_ends():
    schedule = CosineWithWarmup(2.0, train_steps=110, warmup_steps=10)
    values = [float(schedule(step)) for step in range(111)]
    np.testing.assert_allclose(values[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    assert values[10] == pytest.approx(2.0)
    assert values[60] == pytest.approx(1.0)
    assert np.all(np.diff(values[10:]) < 0)
    assert values[109] > 0.0
    assert values[110] == pytest.approx(0.0, abs=1e-6)
    assert float(schedule(500)) == pytest.approx(0.0, abs=1e-6)


def test_cosine_without_warmup_keeps_a_final_fraction():
    schedule = CosineWithWarmup(1.0, train_steps=4, final_fraction=0.1)
    assert float(schedule(0)) == pytest.approx(1.0)
    assert float(schedule(4)) == pytest.approx(0.1)


def test_polynomial_rises_and_falls_to_zero():
    schedule = Polynomial(2.0, train_steps=110, warmup_steps=10)
    values = [float(schedule(step)) for step in (0, 5, 10, 60, 110, 500)]
    np.testing.assert_allclose(values, [0, 1, 2, 1, 0, 0], atol=1e-6)
    square = Polynomial(1.0, train_steps=10, power=2.0)
    assert float(square(5)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "schedule",
    [
        SCHEDULES["imdb"],
        SCHEDULES["wmt"],
        CosineWithWarmup(1e-3, 100, 7, 0.2),
        Polynomial(1e-3, 100, 7, 2.0),
    ],
)
def test_survives_serialization_inside_an_optimizer(schedule):
    optimizer = keras.optimizers.AdamW(schedule)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)._learning_rate
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: InverseSquareRoot(0.0, 10), "learning_rate"),
        (lambda: InverseSquareRoot(1.0, 0), "warmup_steps"),
        (lambda: InverseSquareRoot(1.0, 1, -1.0), "initial_learning_rate"),
        (lambda: Milestones(0.0, [10]), "learning_rate"),
        (lambda: Milestones(1.0, [10, 10]), "milestones"),
        (lambda: Milestones(1.0, [10], warmup_steps=11), "milestones"),
        (lambda: Milestones(1.0, [0]), "milestones"),
        (lambda: Milestones(1.0, [10], factor=0.0), "factor"),
        (lambda: Milestones(1.0, [10], warmup_steps=-1), "warmup_steps"),
        (
            lambda: Milestones(1.0, [10], initial_learning_rate=-1.0),
            "initial_learning_rate",
        ),
        (lambda: CosineWithWarmup(-1.0, 10), "learning_rate"),
        (lambda: CosineWithWarmup(1.0, 0), "train_steps"),
        (lambda: CosineWithWarmup(1.0, 10, 11), "warmup_steps"),
        (lambda: CosineWithWarmup(1.0, 10, 1, 2.0), "final_fraction"),
        (lambda: Polynomial(0.0, 10), "learning_rate"),
        (lambda: Polynomial(1.0, 0), "train_steps"),
        (lambda: Polynomial(1.0, 10, 11), "warmup_steps"),
        (lambda: Polynomial(1.0, 10, power=0.0), "power"),
    ],
)
def test_names_the_wrong_argument(make, named):
    with pytest.raises(ValueError, match=f"`{named}` must"):
        make()
