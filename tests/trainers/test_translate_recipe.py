"""Recipes of the translation trainer: what they allow, and those shipped."""

import numpy as np
import pytest
from luna_tf.trainers import optimization, translate
from luna_tf.trainers.machine import Machine
from luna_tf.trainers.translate_recipe import PROGRAM, TranslateRecipe
from translation_runs import call, read_recipe

from luna_tf.interop.translation import longest_translation
from luna_tf.training.recipes import RecipeError

NAMES = [path.name[:-5] for path in PROGRAM.folder.iterdir()]
OTHERS = {"num_layers": 1, "hidden_dim": 16, "intermediate_dim": 16}


def test_help_names_every_flag_once(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("luna-translate learns to translate")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    fields = (
        *Machine.__dataclass_fields__,
        *TranslateRecipe.__dataclass_fields__,
    )
    for field in (*fields, "config", "model_dir", "mode", "overwrite"):
        heads = (f"  --{field}=", f"  --[no]{field} ", f"  --{field} ")
        assert len([x for x in lines if f"{x} ".startswith(heads)]) == 1, field


@pytest.mark.parametrize("name", sorted(NAMES))
def test_shipped_recipes_are_valid_and_say_what_to_expect(name):
    read_recipe(name)
    opening = (PROGRAM.folder / f"{name}.yaml").read_text().split("\n\n")[0]
    for word in ("Source:", "Expected:", "Time:", "Hardware:"):
        assert word in opening, word


def test_all_recipes_are_known():
    assert {"default", "quick", "verses", "wmt14"} <= set(NAMES)


def test_the_wmt14_recipe_has_the_official_size():
    # The release of 2021: 48,894,976 weights next to the shared embedding.
    recipe = read_recipe("wmt14")
    assert recipe.vocabulary_size == 2**15
    assert translate.make_model(recipe).count_params() == 65_672_192
    assert recipe.tokens_per_batch == 8 * 8192


class TestModel:
    def test_softmax_has_no_packed_sequence(self):
        luna, softmax = (
            translate.make_model(
                read_recipe("quick", attention=attention, **OTHERS)
            )
            for attention in ("luna", "softmax")
        )
        assert softmax.count_params() < luna.count_params()
        assert not any("pack" in v.path for v in softmax.variables)

    def test_fields_reach_the_model(self):
        changed = {
            "num_decoder_layers": 2,
            "num_pack_heads": 1,
            "tie_key_value": False,
            "share_embeddings": "none",
            "dropout": 0.3,
            "attention_dropout": 0.2,
            "activation_dropout": 0.1,
            "position_embedding": "learned",
            "normalize_first": True,
            "normalize_embeddings": True,
            "dynamic_packing": False,
            "remat": True,
            "packed_length": 5,
        }
        recipe = read_recipe("quick", **OTHERS, **changed, seed=3)
        backbone = translate.make_model(recipe).backbone
        config = backbone.get_config()
        for name, value in {**OTHERS, **changed, "seed": 3}.items():
            assert config[name] == value, name
        assert config["max_sequence_length"] == 2 * recipe.max_length

    @pytest.mark.parametrize(
        ("max_length", "ratio"), [(8, 1.5), (16, 1.5), (48, 0.5), (48, 3.0)]
    )
    def test_learned_positions_suffice_for_every_search(
        self, max_length, ratio
    ):
        recipe = read_recipe(
            "quick",
            **OTHERS,
            position_embedding="learned",
            max_length=max_length,
            max_length_ratio=ratio,
        )
        model = translate.make_model(recipe)
        ids = np.full((1, max_length), 5, np.int32)
        longest = longest_translation(max_length, ratio)
        model.initial_cache(ids, np.ones_like(ids), longest)
        with pytest.raises(ValueError, match="max_sequence_length"):
            model.initial_cache(ids, np.ones_like(ids), 3 * longest + 99)

    def test_the_seed_decides_on_official_weights(self):
        first, second = (
            translate.make_model(
                read_recipe(
                    "quick", initialization="fairseq", seed=seed, **OTHERS
                )
            ).get_weights()
            for seed in (0, 1)
        )
        assert any((a != b).any() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 .*divisor of hidden_dim=64"),
        ({"num_pack_heads": 3}, "num_pack_heads=3 is not possible"),
        ({"warmup_steps": 61}, "at most train_steps=60"),
        ({"warmup_steps": 0}, "1 or more"),
        ({"eval_every": 15}, "a multiple of steps_per_loop=10"),
        ({"max_length": 20}, "max_length=20 .*a multiple of 8"),
        ({"tokens_per_batch": 40}, "at most tokens_per_batch=40"),
        ({"test_groups": None}, "test_data=null with test_groups=null"),
        ({"group_column": None}, "validation_groups=Mark .*group_column"),
        ({"train_data": "a::b"}, "aligned files have no groups: give valid"),
        ({"schedule": "milestone"}, "milestones=None .*300000,450000"),
        (
            {"schedule": "milestone", "milestones": "20,10"},
            "milestones='20,10' .*rising",
        ),
        (
            {"schedule": "milestone", "milestones": "19,30"},
            "milestones='19,30' .*warmup_steps=20: allowed .* from 20 on",
        ),
        (
            {"schedule": "milestone", "milestones": "0", "warmup_steps": 0},
            "milestones='0' .*warmup_steps=0: allowed .* from 1 on",
        ),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"beam_size": 0}, "beam_size"),
    ],
)
def test_refuses_by_name(changed, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("quick", **changed)


@pytest.mark.parametrize(
    ("changed", "rates"),
    [
        ({"schedule": "inverse_sqrt"}, {20: 3e-3, 80: 1.5e-3}),
        ({"schedule": "cosine"}, {20: 3e-3, 60: 0.0}),
        (
            {"schedule": "milestone", "milestones": "30,50"},
            {20: 3e-3, 40: 3e-4, 55: 3e-5},
        ),
        ({"schedule": "milestone", "milestones": "20"}, {19: 3e-3, 20: 3e-4}),
    ],
)
def test_schedules(changed, rates):
    recipe = read_recipe("quick", **changed)
    optimizer = optimization.make_optimizer(recipe, "float32")
    for step, rate in rates.items():
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=0.05)
