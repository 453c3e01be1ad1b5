"""`tf.function`, XLA, unknown shapes, what remat keeps: TensorFlow only."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.luna_models import INPUTS, OTHER, functional, subclassed
from layers.luna_reference import (
    SLOTS,
    array,
    assert_all_close,
    randomize,
    right_padded,
    sequences,
)

from luna_tf import LunaAttention, LunaTransformerBlock, PackedEmbedding


@pytest.fixture(scope="module")
def models():
    return {make: make() for make in (functional, subclassed)}


@pytest.mark.parametrize("make", [functional, subclassed])
@pytest.mark.parametrize("jit", [False, True], ids=["function", "xla"])
def test_one_trace_serves_every_batch_and_length(make, jit, models):
    model = models[make]
    traces = []

    @tf.function(
        jit_compile=jit,
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None, 6], tf.float32),
        ],
    )
    def call(ids, context):
        traces.append(1)
        return model([ids, context])

    for inputs in (INPUTS, OTHER):
        assert_all_close(call(*inputs), model(inputs), 1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("jit", [False, True], ids=["function", "xla"])
def test_unknown_sizes_with_masks_and_scores(contraction, jit):
    layer = LunaAttention(2, num_pack_heads=4, contraction=contraction)
    x, p = sequences()
    layer.build(x.shape, p.shape)
    randomize(layer)

    # Even the packed length is unknown.
    @tf.function(
        jit_compile=jit,
        input_signature=[
            tf.TensorSpec([None, None, 8]),
            tf.TensorSpec([None, None, 8]),
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    def call(x, p, x_mask, p_mask):
        return layer(x, p, None, x_mask, p_mask, return_attention_scores=True)

    for slots in (3, 2):
        x, p = sequences(slots=slots)
        masks = right_padded([7, 0]), right_padded([1, slots], slots)
        expected = layer(x, p, None, *masks, return_attention_scores=True)
        got = call(x, p, masks[0], masks[1].astype("int32"))
        assert_all_close(got, expected)


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "fixed"])
def test_packed_embedding_of_an_unknown_length(dynamic):
    layer = PackedEmbedding(4, dynamic=dynamic)
    attend = LunaAttention(2)
    layer.build((None, None, 8))

    def call(x):
        return attend(x, layer(x), return_attention_scores=True)[3]

    traced = tf.function(call, input_signature=[tf.TensorSpec([None, None, 8])])
    for length in (2, 6):
        x = sequences(length=length)[0]
        weights = array(traced(x))
        assert_all_close([weights], [call(x)])
        used = min(length, 4) if dynamic else 4
        assert (weights[..., :used] > 0).all()
        assert not weights[..., used:].any()


def test_training_step_in_xla_with_unknown_sizes_has_one_trace():
    # `fit` compiles it for every new shape, and no shape depends on data.
    block = LunaTransformerBlock(
        6, 2, dropout=0.1, tie_key_value=False, contraction="absorbed"
    )
    block.build((None, None, 8), (None, SLOTS, 8))
    variables = [v.value for v in block.trainable_variables]

    @tf.function(jit_compile=True)
    def step(x, p, mask):
        with tf.GradientTape() as tape:
            x, p = block(x, p, padding_mask=mask, training=True)
            loss = tf.reduce_sum(x**2) + tf.reduce_sum(p**2)
        return tape.gradient(loss, variables)

    x, p = sequences()
    masks = right_padded([7, 4]), right_padded([1, 0])
    for mask in masks:  # other data, same program
        got = step(tf.constant(x), tf.constant(p), tf.constant(mask))
        assert all(np.isfinite(g).all() for g in got)
    assert step.experimental_get_tracing_count() == 1


def remat_step(remat, jit):
    blocks = [
        LunaTransformerBlock(16, 2, dropout=0.0 if jit else 0.1, remat=remat)
        for _ in range(2 if jit else 3)
    ]
    x = tf.zeros((1, 256, 8))
    p = tf.zeros((1, SLOTS, 8))
    for block in blocks:
        block.build(x.shape, p.shape)
    variables = [v.value for b in blocks for v in b.trainable_variables]
    forward = []

    @tf.function(jit_compile=jit)
    def step(x, p):
        with tf.GradientTape() as tape:
            tape.watch((x, p))
            for block in blocks:
                x, p = block(x, p, training=True)
            loss = tf.reduce_sum(x**2) + tf.reduce_sum(p**2)
        forward.extend(x.graph.get_operations())
        return tape.gradient(loss, variables)

    return step, (x, p), forward


@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
def test_remat_keeps_only_the_inputs_of_a_block(remat):
    step, (x, p), forward = remat_step(remat, jit=False)
    graph = step.get_concrete_function(x, p).graph
    forward = {op.name for op in forward}
    kept = {}
    for op in graph.get_operations():
        if op.name in forward:
            continue
        for y in op.inputs:
            if y.op.name in forward and y.dtype == tf.float32:
                # Weights are kept anyway; an Identity of one is no copy.
                source = y.op
                while source.type == "Identity":
                    source = source.inputs[0].op
                if source.type not in ("Const", "ReadVariableOp"):
                    kept[y.name] = 4 * int(np.prod(y.shape))
    # The inputs of three blocks, and what the loss is computed from.
    inputs = 4 * 4 * int(tf.size(x) + tf.size(p))
    if remat:
        assert sum(kept.values()) <= 1.1 * inputs
    else:
        assert sum(kept.values()) > 5 * inputs


@pytest.mark.slow
def test_xla_does_not_undo_remat():
    # It could merge the recomputation with the forward pass.
    counts = []
    for remat in (False, True):
        step, inputs, _ = remat_step(remat, jit=True)
        program = step.experimental_get_compiler_ir(*inputs)("optimized_hlo")
        counts.append(program.count(" exponential("))
    plain, remat = counts
    assert remat > plain


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
def test_remat_in_a_graph_changes_no_gradient(contraction):
    results = []
    for remat in (False, True):
        block = LunaTransformerBlock(
            6,
            2,
            dropout=0.3,
            activation_dropout=0.4,
            remat=remat,
            contraction=contraction,
            seed=11,
        )
        x, p = (tf.constant(y) for y in sequences())
        block.build(x.shape, p.shape)
        randomize(block)
        variables = [v.value for v in block.trainable_variables]

        @tf.function
        def step(x, p, block=block, variables=variables):
            with tf.GradientTape() as tape:
                outputs = block(x, p, training=True)
                loss = sum(tf.reduce_sum(y**2) for y in outputs)
            return [loss, *tape.gradient(loss, variables)]

        results.append([step(x, p), step(x, p)])
    for plain, remat in zip(*results, strict=True):
        for a, b in zip(plain, remat, strict=True):
            np.testing.assert_array_equal(a, b)
    assert float(results[0][0][0]) != float(results[0][1][0])


def test_fit_runs_with_remat_dropout_and_mixed_precision():
    keras.utils.set_random_seed(0)
    ids = keras.Input((5, 8))
    x, p = LunaTransformerBlock(
        6, 2, dropout=0.1, remat=True, dtype="mixed_bfloat16"
    )(ids, PackedEmbedding(3)(ids))
    pooled = keras.layers.Concatenate()([x[:, 0], p[:, 0]])
    model = keras.Model(ids, keras.layers.Dense(1, dtype="float32")(pooled))
    model.compile("adam", "mse", jit_compile=False)
    data = sequences(8, length=5)[0]
    history = model.fit(data, data[:, 0, :1], batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
