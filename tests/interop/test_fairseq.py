"""Weights under official names: errors, round trips, initialisation."""

import keras
import numpy as np
import pytest

from luna_tf import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)
from luna_tf.interop import fairseq
from luna_tf.layers import LunaCausalAttention, LunaDecoderBlock
from luna_tf.layers.softmax_transformer_block import SoftmaxTransformerBlock
from luna_tf.models import LRAClassifier, LunaSeq2SeqBackbone

X, P = np.ones((1, 5, 8), "float32"), np.ones((1, 3, 8), "float32")


def attention(**kwargs):
    layer = LunaAttention(2, **kwargs)
    layer.build(X.shape, P.shape)
    return layer


def block(width=8):
    layer = LunaTransformerBlock(3 * width, 2, tie_key_value=False)
    layer.build((None, None, width), (None, 3, width))
    return layer


def causal_attention():
    layer = LunaCausalAttention(2, tie_key_value=False)
    layer.build(X.shape, P.shape)
    return layer


def decoder_block():
    layer = LunaDecoderBlock(12, 2)
    layer.build(X.shape, P.shape, X.shape)
    return layer


def decoder_only_block():
    layer = LunaDecoderBlock(12, 2)
    layer.build(X.shape, P.shape)
    return layer


def classifier(**kwargs):
    return LRAClassifier(11, 4, 9, 2, 2, 8, 12, 3, **kwargs)


def pair_classifier():
    return classifier(num_documents=2, head_hidden_dim=5)


def value_classifier():
    return LRAClassifier(
        None, 4, 9, 2, 2, 8, 12, 3, padding_id=None, input_type="values"
    )


def softmax_block():
    layer = SoftmaxTransformerBlock(12, 2)
    layer.build(X.shape)
    return layer


def softmax_classifier():
    return LRAClassifier(11, 4, 9, 2, 2, 8, 12, attention="softmax")


def softmax_translator():
    return LunaSeq2SeqBackbone(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        attention="softmax",
        normalize_first=True,
        share_embeddings="none",
    )


def embedding():
    layer = LunaEmbedding(11, 8, 3, 9)
    layer.build((None, None))
    return layer


def packed():
    layer = PackedEmbedding(3)
    layer.build(X.shape)
    return layer


def values(layer):
    return [
        keras.ops.convert_to_numpy(keras.ops.copy(w)) for w in layer.weights
    ]


TARGETS = pytest.mark.parametrize(
    "make",
    [
        attention,
        causal_attention,
        block,
        decoder_block,
        decoder_only_block,
        packed,
        embedding,
        classifier,
        pair_classifier,
        value_classifier,
        softmax_block,
        softmax_classifier,
        softmax_translator,
    ],
)


@TARGETS
def test_state_dict_round_trip(make):
    source, target = make(), make()
    fairseq.initialize(source, seed=3)
    state = fairseq.state_dict(source, prefix="some.")
    assert all(name.startswith("some.") for name in state)
    fairseq.load_weights(target, state, prefix="some.")
    for a, b in zip(values(source), values(target), strict=True):
        np.testing.assert_array_equal(a, b)


@TARGETS
def test_state_dict_holds_every_weight(make):
    target = make()
    state = fairseq.state_dict(target)
    floats = [w for w in target.weights if "float" in w.dtype]
    assert len(state) == len(floats)
    assert sum(a.size for a in state.values()) == sum(
        int(np.prod(w.shape)) for w in floats
    )


def test_the_baseline_has_the_names_of_a_transformer():
    attention = [
        f"{name}_proj.{kind}"
        for name in ("q", "k", "v", "out")
        for kind in ("weight", "bias")
    ]
    own, cross = (
        [f"{module}.{name}" for name in attention]
        for module in ("self_attn", "encoder_attn")
    )
    others = [
        f"{name}.{kind}"
        for name in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")
        for kind in ("weight", "bias")
    ]
    norm = [f"encoder_attn_layer_norm.{kind}" for kind in ("weight", "bias")]
    expected = {"encoder.embed_tokens.weight"}
    for side, names in (
        ("encoder", own + others),
        ("decoder", own + cross + others + norm),
    ):
        expected |= {f"{side}.layers.{i}.{n}" for i in (0, 1) for n in names}
        expected |= {f"{side}.layer_norm.{k}" for k in ("weight", "bias")}
    target = softmax_translator()
    state = fairseq.state_dict(target)
    assert {n for n in state if not n.startswith("decoder.embed")} >= expected
    extra = set(state) - expected
    assert all("embed_tokens" in n or "output_proj" in n for n in extra), extra
    # Queries come before keys, and the output is the transposed one.
    block = target.decoder_blocks[1]
    weights = {w.path.partition("/")[2]: w for w in block.weights}
    key = weights["cross_attention/key/kernel"]
    official = state["decoder.layers.1.encoder_attn.k_proj.weight"]
    np.testing.assert_array_equal(
        official, keras.ops.convert_to_numpy(key).reshape(8, 8).T
    )
    output = weights["self_attention/attention_output/kernel"]
    official = state["decoder.layers.1.self_attn.out_proj.weight"]
    np.testing.assert_array_equal(
        official, keras.ops.convert_to_numpy(output).reshape(8, 8).T
    )


def test_linear_weights_are_transposed():
    target = block()
    state = fairseq.state_dict(target)
    kernel = values(target.feedforward_intermediate_dense)[0]
    np.testing.assert_array_equal(state["fc1.weight"], kernel.T)
    assert state["fc1.weight"].shape == (24, 8)


def test_layer_norm_offset_is_added_and_subtracted():
    source, target = block(), block()
    state = fairseq.state_dict(source, layer_norm_offset=1.0)
    assert not state["final_layer_norm.weight"].any()
    assert not state["self_atten_proj_layer_norm.weight"].any()
    fairseq.load_weights(target, state, layer_norm_offset=1.0)
    np.testing.assert_array_equal(values(target.packed_layer_norm)[0], 1)
    np.testing.assert_array_equal(values(target.packed_layer_norm)[1], 0)


def test_every_problem_is_named_and_nothing_is_assigned():
    target = attention()
    fairseq.initialize(target, seed=1)
    before = values(target)
    state = fairseq.state_dict(target, prefix="a.")
    state = {name: array + 1 for name, array in state.items()}
    del state["a.pq_proj.weight"], state["a.out_proj.bias"]
    state["a.pk_proj.weight"] = state["a.extra"] = np.ones((2, 2))
    state["a.q_proj.weight"] = np.ones((8, 9))
    state["a.q_proj.bias"] = np.ones((8, 1))
    with pytest.raises(ValueError, match="prefix='a.'") as raised:
        fairseq.load_weights(target, state, prefix="a.")
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert set(lines) == {
        "missing: a.pq_proj.weight",
        "missing: a.out_proj.bias",
        "unused: a.pk_proj.weight",
        "unused: a.extra",
        "wrong shape: a.q_proj.weight is (8, 9), not (8, 8)",
        "wrong shape: a.q_proj.bias is (8, 1), not (8,)",
    }
    for a, b in zip(before, values(target), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_prefixes_and_tables_are_ignored():
    target = attention()
    state = fairseq.state_dict(target, prefix="a.")
    state["b.pq_proj.weight"] = np.ones(3)
    state["a.version"] = state["a.x._float_tensor"] = np.ones(1)
    state["a.projected_positions"] = np.ones((3, 8))
    fairseq.load_weights(target, state, prefix="a.")


def test_a_target_without_weights_raises():
    for call in (
        lambda t: fairseq.load_weights(t, {}),
        fairseq.state_dict,
        fairseq.initialize,
    ):
        with pytest.raises(ValueError, match="has no weights yet"):
            call(LunaAttention(2))


def test_another_type_of_target_raises():
    with pytest.raises(TypeError, match="`target` must be one of.*Luna"):
        fairseq.state_dict(keras.layers.Dense(3))


def test_unknown_scheme_raises():
    with pytest.raises(
        ValueError, match="`scheme` must be 'fairseq' or 'bert'. Got: 'xavier'"
    ):
        fairseq.initialize(attention(), "xavier")


def official(scheme):
    """State dict of a wide, initialised block and of a classifier."""
    target = block(width=64)
    fairseq.initialize(target, scheme, seed=5)
    model = LRAClassifier(
        500, 300, 400, 1, 2, 64, 192, 200, head_hidden_dim=128
    )
    fairseq.initialize(model, scheme, seed=6)
    state = {
        name.replace("encoder.encoder.", ""): array
        for name, array in fairseq.state_dict(model).items()
        if ".layers." not in name
    }
    return {**fairseq.state_dict(target), **state}


def is_uniform(array, bound):
    peak, spread = np.abs(array).max(), array.std() * 3**0.5
    return 0.9 * bound < peak <= bound and abs(spread / bound - 1) < 0.2


def is_normal(array, deviation):
    peak = np.abs(array).max()
    return abs(array.std() / deviation - 1) < 0.05 and peak > 2.5 * deviation


def test_fairseq_initialisation_by_role():
    state = official("fairseq")
    names = ("pq_proj", "q_proj", "pk_proj", "pv_proj", "k_proj", "v_proj")
    for name in names:
        # Xavier with gain 1/sqrt(2), and for biases the bound of a torch
        # linear layer.
        weight = state[f"self_attn.{name}.weight"]
        assert is_uniform(weight, (3 / 128) ** 0.5), name
        assert is_uniform(state[f"self_attn.{name}.bias"], 64**-0.5), name
    assert is_uniform(state["self_attn.out_proj.weight"], (6 / 128) ** 0.5)
    assert not state["self_attn.out_proj.bias"].any()
    for name, inputs in (("fc1", 64), ("fc2", 192), ("classifier.0", 64)):
        assert is_uniform(state[f"{name}.weight"], inputs**-0.5), name
        assert is_uniform(state[f"{name}.bias"], inputs**-0.5), name
    bound = (6 / (300 + 128)) ** 0.5
    assert is_uniform(state["sentence_projection_layer.weight"], bound)
    for name in ("embed_tokens.weight", "embed_positions.weight"):
        assert is_normal(state[name], 64**-0.5), name
    assert is_normal(state["projected_embeddings"], 64**-0.5)
    assert_norms_are_plain(state)


def test_bert_initialisation_by_role():
    state = official("bert")
    for name, array in state.items():
        if "layer_norm" in name:
            continue
        if name.endswith("bias"):
            assert not array.any(), name
        elif name == "projected_embeddings":
            assert is_normal(array, 64**-0.5)
        else:
            assert is_normal(array, 0.02), name
    assert_norms_are_plain(state)


@pytest.mark.parametrize("scheme", ["fairseq", "bert"])
def test_initialisation_of_values(scheme):
    layer = LunaEmbedding(None, 4096, 3, 2, padding_id=None)
    layer.build((None, None))
    fairseq.initialize(layer, scheme, seed=5)
    state = fairseq.state_dict(layer)
    assert state["embed_tokens.weight"].shape == (4096,)
    assert is_normal(state["embed_tokens.weight"], 1.0)
    assert is_normal(state["embed_tokens.bias"], 0.1)


def test_a_head_for_pairs_reads_both_vectors():
    state = fairseq.state_dict(pair_classifier())
    assert state["classifier.0.weight"].shape == (5, 16)
    other = classifier(num_documents=2, pair_features="interaction")
    assert fairseq.state_dict(other)[
        "sentence_projection_layer.weight"
    ].shape == (4, 32)


def assert_norms_are_plain(state):
    norms = {name: a for name, a in state.items() if "layer_norm" in name}
    assert len(norms) == 10
    for name, array in norms.items():
        assert (array == name.endswith("weight")).all(), name


def test_initialisation_is_a_function_of_the_seed():
    first, again, other = (attention() for _ in range(3))
    for target, seed in ((first, 1), (again, 1), (other, 2)):
        fairseq.initialize(target, seed=seed)
    for a, b, c in zip(*map(values, (first, again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        if a.any():
            assert np.abs(a - c).max() > 1e-3


def test_changed_kernels_are_refused_before_anything_is_assigned():
    layer = attention()
    weights = fairseq.state_dict(layer)
    layer.query.enable_lora(2)
    before = layer.get_weights()
    with pytest.raises(ValueError, match="LoRA.*q_proj.weight"):
        fairseq.load_weights(layer, {k: v + 1 for k, v in weights.items()})
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
