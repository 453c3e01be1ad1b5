"""Trains subjects on the devices of a command line; writes the result.

Usage: python equality_child.py OUT.npz one|mirrored:N|workers RUNS...

A run is `subject/optimizer/accumulation_steps`.
"""

import sys

import keras
import numpy as np
import subjects
import tensorflow as tf

from luna_tf.training.strategy import choose_strategy
from luna_tf.training.trainer import Trainer

# Grappler takes a third of the time here and has nothing to win.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

BATCH, STEPS = 8, 5


def choose(where):
    if where == "one":
        return choose_strategy("one_device")
    if where == "workers":
        return choose_strategy("multi_worker_mirrored")
    return choose_strategy("mirrored", logical_cpus=int(where.split(":")[1]))


def as_keras_does(strategy):
    """What the loop puts right, left as it is: two steps with AdamW."""
    loop = subjects.make_loop("lra", "adamw", strategy)
    with strategy.scope():
        optimizer = subjects.make_optimizer("adamw")
        optimizer.build(loop.model.trainable_variables)
    variables = loop.model.trainable_variables
    iterator = Trainer(loop, BATCH).training_iterator(
        subjects.lra_source(), 0, 2
    )

    def step(batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(loop.task(batch, training=True).losses)
            loss /= BATCH
        optimizer.apply(tape.gradient(loss, variables), variables)

    for _ in range(2):
        tf.function(lambda batch: strategy.run(step, (batch,)))(next(iterator))
    return {f"keras/{v.path}": v.numpy() for v in variables}


def losses_with_dropout(strategy):
    """Losses of the same rows on every replica, while entries are dropped."""
    loop = subjects.make_loop("lra", "sgd", strategy, dropout=0.5)
    batch = {
        **subjects.lra_source().gather(tf.range(4, dtype=tf.int64)),
        "example_weights": tf.ones(4),
    }

    def losses():
        with keras.StatelessScope(state_mapping=loop._draw_seeds(0)):
            return loop.task(batch, training=True).losses

    results = tf.function(lambda: strategy.run(losses))()
    return np.stack(strategy.experimental_local_results(results))


def fit(strategy):
    """Plain `fit` of a user's model with our layers."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = subjects.make_lra().model
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
    source = subjects.lra_source()
    batch = source.gather(tf.range(48, dtype=tf.int64))
    data = tf.data.Dataset.from_tensor_slices(
        (batch["token_ids"], batch["labels"])
    )
    history = model.fit(data.batch(BATCH), epochs=2, verbose=0)
    return {
        "fit/losses": history.history["loss"],
        **{f"fit/{v.path}": v.numpy() for v in model.trainable_variables},
    }


def train(placement, run):
    """What five steps and an evaluation give, by name."""
    subject, optimizer, parts = run.split("/")
    make_source = subjects.SUBJECTS[subject][1]
    loop = subjects.make_loop(
        subject,
        optimizer,
        placement.strategy,
        accumulation_steps=int(parts),
        jit_compile=False,
    )
    trainer = Trainer(loop, BATCH, num_workers=placement.num_workers)
    source = make_source()
    trainer.build(source)
    iterator = trainer.training_iterator(source, 0, STEPS)
    results = {}
    losses, norms = [], []
    for step in range(STEPS):
        if step == 2 and run == "lra/adamw/1":
            for v in loop.model.trainable_variables:
                results[f"two/{v.path}"] = v.numpy()
        loop.run_steps(iterator, np.int64(1))
        sums = loop.take_measurements()
        losses.append(sums.loss)
        norms.append(sums.gradient_norm)
    results[f"{run}/losses"] = losses
    results[f"{run}/norms"] = norms
    tested = trainer.evaluate(make_source(29, seed=1))
    results[f"{run}/evaluation"] = [
        tested.loss,
        tested.weight,
        tested.metrics["accuracy"],
    ]
    results[f"{run}/predictions"] = tested.predictions
    for variable in loop.model.trainable_variables:
        results[f"{run}/weights/{variable.path}"] = variable.numpy()
    return results


def main(path, where, *runs):
    placement = choose(where)
    results = {}
    for run in runs:
        results |= train(placement, run)
    if where in ("one", "mirrored:2"):
        results |= fit(placement.strategy)
    if where == "mirrored:2":
        results |= as_keras_does(placement.strategy)
        results["dropout"] = losses_with_dropout(placement.strategy)
    if placement.is_chief:
        np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
