"""Short sentence pairs, and the sizes of the smallest translator."""

import pytest
from luna_tf.trainers import translate
from luna_tf.trainers.translate_recipe import PROGRAM, TranslateRecipe

from luna_tf.data import parallel
from luna_tf.training import recipes

TINY = (
    "--config=quick --validation_groups=B --test_groups=C "
    "--vocabulary_size=400 --max_length=32 --num_buckets=2 --hidden_dim=16 "
    "--intermediate_dim=16 --num_layers=1 --num_heads=2 --packed_length=4 "
    "--tokens_per_batch=256 --train_steps=6 --warmup_steps=2 --eval_every=4 "
    "--steps_per_loop=2 --validation_bleu_pairs=4 --average_checkpoints=2 "
    "--beam_size=2 --num_shown=2 --nojit_compile"
).split()


def call(*arguments):
    """Runs luna-translate in this process; returns its status."""
    with pytest.raises(SystemExit) as end:
        translate.main(["luna-translate", *map(str, arguments)])
    return end.value.code


def short_pairs(count=64):
    """The shortest pairs of the sample."""
    pairs = parallel.read_tsv(parallel.sample_path(), "en", "es")
    found = zip(pairs.sources, pairs.targets, strict=True)
    return sorted(found, key=lambda pair: len("".join(pair)))[:count]


def write_tsv(path, pairs):
    """Writes pairs, 3/4 of them to the group A, the rest to B and C."""
    lines = [("book", "en", "es")]
    lines += [("ABAAACAA"[i % 8], *pair) for i, pair in enumerate(pairs)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    path.write_text(text, encoding="utf8")
    return path


def read_recipe(name_or_path, **changed):
    values = recipes.read_yaml(str(name_or_path), PROGRAM.folder)
    return recipes.build(
        TranslateRecipe, {**values, **changed}, origin=str(name_or_path)
    )
