"""A model that cannot learn 64 pairs by heart is broken."""

import csv
import json

import pytest
from translation_runs import call, short_pairs, write_tsv

RECIPE = (
    "--config=quick --validation_groups=null --test_groups=null "
    "--vocabulary_size=450 --max_length=40 --num_buckets=1 --hidden_dim=64 "
    "--intermediate_dim=128 --num_layers=1 --num_heads=4 --packed_length=8 "
    "--dropout=0 --label_smoothing=0 --tokens_per_batch=2560 "
    "--train_steps=240 --eval_every=120 --steps_per_loop=20 "
    "--warmup_steps=40 --learning_rate=5e-3 --schedule=cosine "
    "--validation_bleu_pairs=64 --average_checkpoints=0 --beam_size=1 "
    "--nojit_compile"
).split()


@pytest.mark.long
@pytest.mark.slow
def test_64_pairs_are_learned_by_heart(tmp_path):
    data = write_tsv(tmp_path / "pairs.tsv", short_pairs())
    places = [f"--{kind}_data={data}" for kind in ("validation", "test")]
    folder = tmp_path / "run"
    places += [f"--train_data={data}", f"--model_dir={folder}"]
    assert call(*RECIPE, *places) == 0
    test = json.loads((folder / "results.json").read_text())["test"]
    assert test["sentences"] == 64
    assert test["bleu"] > 95
    with open(folder / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    # The same pairs, the same search, the same weights.
    assert float(last["validation_bleu"]) == pytest.approx(test["bleu"])
