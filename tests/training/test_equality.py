"""The same training on one device, several, and in two processes."""

import children
import numpy as np
import pytest

PROGRAM = "training/equality_child.py"
ACCUMULATED = "masked/adamw/2"
RUNS = [f"{s}/{o}/1" for s in ("lra", "masked") for o in ("sgd", "adamw")]
# Tracing takes time with every replica: where there are many, one run is
# enough to tell.
PLACES = {
    "one": [*RUNS, ACCUMULATED],
    "mirrored:2": [*RUNS, ACCUMULATED],
    "mirrored:4": ["lra/sgd/1"],
    "mirrored:8": ["masked/adamw/1"],
    "workers": [*RUNS, ACCUMULATED],
}
# Bounds on weights after five steps. AdamW divides by the root of squared
# gradients, which makes more of rounding where a gradient is tiny.
WEIGHTS = {"sgd": 1e-6, "adamw": 2e-5}

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    found = {}

    def get(place):
        if place not in found:
            path = folder / f"{place}.npz"
            run = children.run_pair if place == "workers" else children.run
            run(PROGRAM, path, place, *PLACES[place])
            found[place] = dict(np.load(path))
        return found[place]

    return get


def weights(results, run):
    start = f"{run}/weights/"
    named = {
        # Keras numbers the models of a process.
        name.removeprefix(start).replace("_model_", "_model").rstrip(): value
        for name, value in results.items()
        if name.startswith(start)
    }
    assert named
    return list(named.values())


def check(results, place, run, reference):
    one, several = results("one"), results(place)
    for kind in ("losses", "norms", "evaluation"):
        np.testing.assert_allclose(
            several[f"{run}/{kind}"],
            one[f"{reference}/{kind}"],
            atol=1e-6,
            err_msg=kind,
        )
    np.testing.assert_array_equal(
        several[f"{run}/predictions"], one[f"{reference}/predictions"]
    )
    bound = WEIGHTS[run.split("/")[1]]
    for got, expected in zip(
        weights(several, run), weights(one, reference), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("place", "run"),
    [
        (place, run)
        for place, runs in PLACES.items()
        for run in runs
        if place != "one" or run == ACCUMULATED
    ],
)
def test_several_replicas_train_as_one(results, place, run):
    # Accumulated parts train as the whole.
    whole = "masked/adamw/1" if run == ACCUMULATED else run
    check(results, place, run, whole)


@pytest.mark.parametrize("run", RUNS)
def test_the_comparison_is_not_empty(results, run):
    one = results("one")
    # Clipping at 0.5 acts in every step, losses differ from step to step,
    # every example of the last, partial batch counts once.
    assert one[f"{run}/norms"].min() > 0.5
    assert len(set(one[f"{run}/losses"])) == 5
    if run.startswith("lra"):
        assert one[f"{run}/evaluation"][1] == 29
    assert len(one[f"{run}/predictions"]) == 29


def test_keras_alone_trains_something_else(results):
    """Clipping per replica and sparse gradients, if the loop let them be."""
    several = results("mirrored:2")
    difference = max(
        np.abs(several[name.replace("two/", "keras/")] - value).max()
        for name, value in several.items()
        if name.startswith("two/")
    )
    assert difference > 1e-3


def test_plain_fit_of_our_layers_is_the_same_on_two_devices(results):
    one, several = results("one"), results("mirrored:2")
    names = [name for name in one if name.startswith("fit/")]
    assert len(names) > 10
    for name in names:
        np.testing.assert_allclose(
            several[name], one[name], rtol=0, atol=1e-6, err_msg=name
        )


def test_replicas_drop_different_entries(results):
    first, second = results("mirrored:2")["dropout"]
    assert np.abs(first - second).min() > 1e-3
