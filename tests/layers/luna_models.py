"""One model with every layer, cross attention included, in two styles."""

import keras
import numpy as np
from layers.luna_reference import randomize, sequences

from luna_tf import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)
from luna_tf.layers import LunaDecoderBlock

INPUTS = [
    np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]], "int32"),
    sequences(length=6, width=6)[0],
]
OTHER = [
    np.array([[3, 4], [2, 0], [8, 8]], "int32"),
    sequences(batch=3, length=1, width=6)[0],
]


def functional():
    ids = keras.Input((None,), dtype="int32", name="ids")
    context = keras.Input((None, 6), name="context")
    x, p = LunaEmbedding(9, 8, 3, 20)(ids)
    x, p = LunaTransformerBlock(6, 2, num_pack_heads=4)(x, p)
    x, p = LunaAttention(2, tie_key_value=False)(x, p, context)
    x, p = LunaDecoderBlock(6, 2, chunk_size=2)(x, p, context)
    x, p = LunaDecoderBlock(6, 2)(x, p)
    return randomize(keras.Model([ids, context], [x, p]))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = LunaEmbedding(9, 8, 3, 20)
        self.block = LunaTransformerBlock(6, 2, num_pack_heads=4)
        self.cross = LunaAttention(2, tie_key_value=False)
        self.decoder = LunaDecoderBlock(6, 2, chunk_size=2)
        self.packed = PackedEmbedding(4)

    def build(self, input_shape):
        ids, context = input_shape
        x, p = (*ids, 8), (None, 3, 8)
        self.embedding.build(ids)
        self.block.build(x, p)
        self.cross.build(x, p, context)
        self.decoder.build(x, p, context)
        self.packed.build(x)

    def call(self, inputs):
        ids, context = inputs
        # `tf.saved_model.save` also traces a subclassed model with floats.
        ids = keras.ops.cast(ids, "int32")
        x, p = self.block(*self.embedding(ids))
        x, p = self.cross(x, p, context)
        x, _ = self.decoder(x, p, context)
        return x, self.packed(x)


def subclassed():
    model = Subclassed()
    model(INPUTS)
    return randomize(model)
