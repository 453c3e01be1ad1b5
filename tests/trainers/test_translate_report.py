"""What a translation run says of itself."""

import types

import pytest
from luna_tf.trainers import translate_report
from luna_tf.trainers.translate_decoding import Translated
from luna_tf.trainers.translate_weights import Weights
from translation_runs import read_recipe

from luna_tf.training.records import Evaluation, TrainingResult

APART = {"validation_data": "v.tsv", "test_data": "t.tsv"}


@pytest.mark.parametrize(
    ("changed", "title"),
    [
        ({}, "en to es"),
        ({"source_column": "es", "target_column": "en"}, "es to en"),
        ({"source_column": "1", "target_column": "2"}, "source to target"),
        ({"train_data": "data.v1/train.en::train.de"}, "en to de"),
        ({"train_data": "a.en.gz,b.en.gz::a.de,b.de"}, "en to de"),
        ({"train_data": "a.en,b.fr::a.de,b.de"}, "source to target"),
        ({"train_data": "en.txt::de.txt"}, "source to target"),
        ({"train_data": "data.v1/en::data.v1/de"}, "source to target"),
    ],
)
def test_the_title_is_what_is_known(changed, title):
    recipe = read_recipe("quick", **changed, **APART)
    assert translate_report.title(recipe) == title


@pytest.mark.parametrize("trained", [True, False])
def test_the_loss_is_that_of_the_weights_that_were_tested(trained):
    best = Evaluation(2.5, {}, 1.0)
    result = TrainingResult(10, 1.0, None, None, 8, best, None)
    results = translate_report.results(
        types.SimpleNamespace(count_params=lambda: 7),
        ["a b c d"],
        ["e f g h"],
        [Translated(["e f g h"], [-1.0])],
        result if trained else None,
        Weights("mean of steps 8, 10", 2.25) if trained else Weights("read"),
        {
            "title": "en to es",
            "search": "beam 1",
            "wall_time_seconds": 1.0,
            "device": "CPU",
            "precision": "float32",
        },
    )
    rows = translate_report.rows(results)["Run"]
    if not trained:
        assert results["validation_loss"] is None
        assert ("weights tested", "read", "") in rows
        return
    assert results["best_validation_loss"] == 2.5
    assert results["validation_loss"] == 2.25
    assert results["weights"] == "mean of steps 8, 10"
    assert (
        "weights tested",
        "mean of steps 8, 10",
        "validation loss 2.250",
    ) in rows
    best = "step 8 of 10", "loss 2.500 nats per subword"
    assert ("best validation", *best) in rows
