"""Which weights of a translation run are tested, and what a search may ask."""

import types

import keras
import numpy as np
import pytest
from luna_tf.trainers import session, translate_weights
from translation_runs import call, read_recipe

from luna_tf.training import files, recipes
from luna_tf.training.checkpoints import Checkpoints
from luna_tf.training.recipes import RecipeError
from luna_tf.training.records import Evaluation, TrainingResult


class TestChoose:
    @pytest.fixture
    def choose(self, tmp_path):
        """Chooses where the mean has some loss; a weight at step n is n."""
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        checkpoints = Checkpoints(
            files.join(str(tmp_path), session.CHECKPOINTS),
            {"model": model},
            keep=9,
        )

        def fill(value):
            model.set_weights([np.full_like(w, value) for w in model.weights])

        for step in (2, 4, 6, 8, 10):
            fill(step)
            checkpoints.save(step, {})

        def choose(loss, count=3):
            fill(99)
            best = Evaluation(2.0, {}, 1.0)
            result = TrainingResult(10, 1.0, None, None, 8, best, None)
            trainer = types.SimpleNamespace(
                loop=types.SimpleNamespace(model=model),
                evaluate=lambda validation: Evaluation(loss, {}, 1.0),
            )
            recipe = types.SimpleNamespace(
                average_checkpoints=count, eval_every=4
            )
            command = types.SimpleNamespace(
                recipe=recipe, model_dir=str(tmp_path)
            )
            weights = translate_weights.choose(
                trainer, command, True, "validation", result
            )
            held = {float(np.ravel(w)[0]) for w in model.get_weights()}
            return weights, held, {p.name for p in tmp_path.iterdir()}

        return choose

    def test_a_better_mean_of_validated_steps(self, choose, tmp_path):
        weights, held, names = choose(1.5)
        assert weights.name == "mean of steps 4, 8, 10"
        assert weights.validation_loss == 1.5
        assert held == {float(np.float32(22 / 3))}
        assert names >= {"mean.weights.h5", "model.keras"}

    @pytest.mark.parametrize(("loss", "count"), [(2.0, 3), (1.0, 0)])
    def test_the_best_single_ones(self, choose, loss, count):
        weights, held, names = choose(loss, count)
        assert weights.name == "of the best validation"
        assert weights.validation_loss == 2.0
        assert held == {99.0}
        assert names == {"checkpoints"}


class TestPositions:
    @pytest.fixture
    def folder(self, tmp_path):
        """What is read of a run before its weights are."""

        def write(**changed):
            recipe = read_recipe("quick", max_length=16, **changed)
            text = recipes.to_yaml(recipe)
            (tmp_path / "recipe.yaml").write_text(text)
            (tmp_path / "best.weights.h5").write_text("")
            return str(tmp_path)

        return write

    @pytest.mark.parametrize(
        ("ratio", "changed"),
        [(1.5, {}), (0.1, {}), (1.5, {"max_length": 8}), (3.0, {})],
    )
    def test_are_those_that_were_learned(self, folder, ratio, changed):
        learned = {"position_embedding": "learned"}
        path = folder(**learned, max_length_ratio=3.0)
        now = {"max_length": 16, "max_length_ratio": ratio, **changed}
        recipe = read_recipe("quick", **learned, **now)
        assert translate_weights.num_positions(recipe, path) == 58

    def test_of_sinusoids_there_are_as_many_as_are_needed(self, folder):
        path = folder(max_length_ratio=1.0)
        recipe = read_recipe("quick", max_length=32, max_length_ratio=3.0)
        assert translate_weights.num_positions(recipe, path) == 106

    @pytest.mark.parametrize("mode", ["evaluate", "export"])
    def test_too_few_are_told_at_once(self, folder, capsys, mode):
        path = folder(position_embedding="learned")
        arguments = f"--model_dir={path}", f"--mode={mode}"
        assert call(*arguments, "--max_length_ratio=1.8") == 2
        told = capsys.readouterr()
        assert (
            "max_length_ratio=1.8 with max_length=16 needs 38 learned "
            f"positions, but the weights in --model_dir={path} have 34"
        ) in told.err
        assert "Data:" not in told.out


def test_weights_that_are_none_are_refused(tmp_path):
    (tmp_path / "best.weights.h5").write_text("")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(RecipeError, match="best.weights.h5 does not fit"):
        translate_weights.read(model, str(tmp_path))
