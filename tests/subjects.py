"""Two small trainings for all tests of the training core and of the TPU path.

`classification` is the step of the LRA trainer, `masked_tokens` one shaped
like masked language modelling: embedding, masked positions, tied output.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from luna_tf.layers import LunaTransformerBlock, PackedEmbedding
from luna_tf.models import LRAClassifier
from luna_tf.training.loop import Loop
from luna_tf.training.sources import IndexedSource
from luna_tf.training.tasks import Classification, MaskedTokens

VOCABULARY, LENGTH, CLASSES, MASKS, EXAMPLES = 18, 12, 10, 3, 50

# True gradient zero: the softmax cancels these biases, so what they get is
# rounding noise, which Adam blows up to full steps.
CANCELLED = ("key/bias", "pack_key/bias")


def make_lra(dropout=0.0, **arguments):
    return Classification(
        LRAClassifier(
            vocabulary_size=VOCABULARY,
            num_classes=CLASSES,
            max_sequence_length=LENGTH,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            packed_length=4,
            dropout=dropout,
            seed=1,
            **arguments,
        )
    )


class TiedMaskedModel(keras.Model):
    """The least masked language model with Luna attention."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.embedding = keras.layers.Embedding(
            VOCABULARY, 8, mask_zero=True, name="embedding"
        )
        self.packed = PackedEmbedding(4, name="packed")
        self.block = LunaTransformerBlock(
            16, 2, dropout=dropout, seed=2, name="block"
        )

    def build(self, input_shape=None):
        self.embedding.build((None, LENGTH))
        self.packed.build((None, LENGTH, 8))
        self.block.build((None, LENGTH, 8), (None, 4, 8))

    def call(self, inputs, training=None):
        x = self.embedding(inputs["token_ids"])
        x, _ = self.block(x, self.packed(x), training=training)
        places = ops.expand_dims(inputs["mask_positions"], -1)
        x = ops.take_along_axis(x, places, axis=1)
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


def make_masked(dropout=0.0):
    model = TiedMaskedModel(dropout)
    model.build()
    return MaskedTokens(model)


def lra_source(size=EXAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(1, VOCABULARY, (size, LENGTH))
    lengths = rng.integers(3, LENGTH + 1, size)
    token_ids[np.arange(LENGTH) >= lengths[:, None]] = 0
    token_ids = tf.constant(token_ids, tf.int32)
    labels = tf.constant(rng.integers(0, CLASSES, size), tf.int32)
    return IndexedSource(
        size,
        lambda i: {
            "token_ids": tf.gather(token_ids, i),
            "labels": tf.gather(labels, i),
        },
    )


def masked_source(size=EXAMPLES, seed=0):
    """Rows have between none and `MASKS` masked tokens."""
    rng = np.random.default_rng(seed)
    lra = lra_source(size, seed)
    arrays = {
        "mask_positions": rng.integers(0, 3, (size, MASKS)),
        "labels": rng.integers(1, VOCABULARY, (size, MASKS)),
    }
    counts = rng.integers(0, MASKS + 1, size)
    weights = np.arange(MASKS) < counts[:, None]
    tensors = {n: tf.constant(a, tf.int32) for n, a in arrays.items()}
    tensors["mask_weights"] = tf.constant(weights, tf.float32)
    return IndexedSource(
        size,
        lambda i: {
            "token_ids": lra.gather(i)["token_ids"],
            **{name: tf.gather(t, i) for name, t in tensors.items()},
        },
    )


SUBJECTS = {
    "lra": (make_lra, lra_source),
    "masked": (make_masked, masked_source),
}


def make_optimizer(name, clip=0.5):
    if name == "sgd":
        return keras.optimizers.SGD(0.1, global_clipnorm=clip)
    # The default epsilon would turn rounding into full steps where a
    # gradient is tiny.
    return keras.optimizers.AdamW(1e-2, epsilon=1e-4, global_clipnorm=clip)


def make_loop(subject, optimizer, strategy=None, dropout=0.0, **arguments):
    """A loop on a subject with the same initial weights every time."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        keras.utils.set_random_seed(0)
        task = SUBJECTS[subject][0](dropout)
        if isinstance(optimizer, str):
            optimizer = make_optimizer(optimizer)
    return Loop(task, optimizer, strategy, **arguments)
