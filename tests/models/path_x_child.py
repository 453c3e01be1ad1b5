"""Trains the official Path-X model on one picture; prints losses and memory."""

import json

import keras
import numpy as np
import tensorflow as tf

from luna_tf.benchmark.memory import extra_bytes
from luna_tf.models import LRAClassifier
from luna_tf.models.lra_architectures import architecture

LENGTH = 128 * 128 + 2  # the pixels between two marks

model = LRAClassifier(
    vocabulary_size=258, padding_id=None, **architecture("luna_lra_pf128")
)
optimizer = keras.optimizers.Adam(1e-3)
optimizer.build(model.trainable_variables)
rng = np.random.default_rng(0)
token_ids = tf.constant(rng.integers(0, 256, (1, LENGTH)), tf.int32)
losses = []


@tf.function
def step():
    with tf.GradientTape() as tape:
        logits = model(token_ids, training=True)
        loss = -tf.nn.log_softmax(logits)[0, 1]
    optimizer.apply(tape.gradient(loss, model.trainable_variables))
    return loss


def train():
    losses.append(float(step()))


extra = extra_bytes(train)
for _ in range(3):
    train()
print(json.dumps({"losses": losses, "extra": extra, "length": LENGTH}))
