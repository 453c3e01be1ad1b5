"""Tiny pretrainings through the command line."""

import pytest
from luna_tf.trainers import finetune, mlm

TINY = (
    "--hidden_dim=8 --intermediate_dim=8 --num_layers=1 --num_heads=2 "
    "--packed_length=3 --batch_size=4 --train_steps=6 --warmup_steps=2 "
    "--eval_every=2 --steps_per_loop=2 --nojit_compile --train_minutes=null "
    "--sequence_length=24 --vocabulary_type=bytes --validation_fraction=0.2 "
    "--test_fraction=0.2"
).split()
WORDS = "the moon shines at night and the sun by day".split()


def call(*arguments, program=mlm):
    """Runs luna-mlm, or another program, in this process: its status."""
    with pytest.raises(SystemExit) as end:
        program.main(["luna-mlm", *map(str, arguments)])
    return end.value.code


def write_text(path, documents=60):
    """A text of short documents, all of them different."""
    texts = [
        " ".join(WORDS[(i + k) % len(WORDS)] for k in range(3 + i % 5))
        + f" {i}"
        for i in range(documents)
    ]
    path.write_text("\n\n".join(texts) + "\n")
    return path


def tune(*arguments):
    """Runs luna-finetune in this process: its status."""
    return call(*arguments, program=finetune)
