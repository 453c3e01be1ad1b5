"""Official LRA models: logits, gradients and sizes of the authors' code."""

import functools

import gradients
import keras
import numpy as np
import pytest
from golden_cases import (
    GoldenFile,
    assert_close,
    assert_gradients_close,
    cases,
    formula_weights,
)
from official import official_gradients

from luna_tf.interop import fairseq
from luna_tf.models import LRAClassifier
from luna_tf.models.lra_architectures import architecture

golden = functools.cache(GoldenFile)
TREES = {"rel2021": "2021", "head": "newest"}
# With XLA, which takes seconds: what only this model has, values for tokens.
COMPILED = ("lra_head_cifar10_image", "default", "absorbed")


def pooling_of(data, case):
    pooling = {"mp": "mean", "use_p": "packed"}.get(case, case)
    if pooling in ("mean", "packed", "cls"):
        return pooling
    return "mean" if data.meta["sen_rep_type"] == "mp" else "cls"


@functools.cache
def official_model(name, pooling, contraction):
    """Our model with the sizes and weights of a small official one."""
    data = golden(name)
    meta = data.meta
    arguments = architecture(meta["arch"], TREES[meta["official_tree"]])
    arguments |= dict(
        vocabulary_size=meta["vocab"],
        max_sequence_length=meta["max_positions"],
        num_layers=meta["layers"],
        share_layers=meta["shared_layer"],
        num_heads=meta["num_heads"],
        hidden_dim=meta["embed_dim"],
        intermediate_dim=meta["ffn_dim"],
        packed_length=meta["projection_length"],
        head_hidden_dim=meta["classifier_out_dim"],
        padding_id=meta["padding_idx"],
        pooling=pooling,
        contraction=contraction,
        dropout=0.0,
        attention_dropout=0.0,
        head_dropout=0.0,
    )
    if "embedding_scale" in arguments:
        arguments["embedding_scale"] = meta["embed_dim"] ** 0.5
    if pooling == "packed":
        # The newest official mean skips padded tokens, but not padded slots.
        arguments["pooling_includes_padding"] = True
    if meta["input_type"] == "image":
        arguments |= dict(
            input_type="values", vocabulary_size=None, first_position=0
        )
    model = LRAClassifier(**arguments)
    fairseq.load_weights(
        model, data.weights, layer_norm_offset=data.layer_norm_offset
    )
    return model


def model_input(data, key, drop_first=False):
    """The input of a case; two documents are padded to one length."""
    inputs = data.below(f"{key}/in/")
    if "pixels" in inputs:
        return inputs["pixels"]
    tokens = inputs["src_tokens"][:, int(drop_first) :]
    if "src1_tokens" not in inputs:
        return tokens
    documents = [tokens, inputs["src1_tokens"]]
    longest = max(d.shape[1] for d in documents)
    return np.stack(
        [
            np.pad(
                d,
                ((0, 0), (0, longest - d.shape[1])),
                constant_values=data.meta.get("padding_idx", 1),
            )
            for d in documents
        ],
        axis=1,
    )


@pytest.mark.parametrize("contraction", ["direct", "absorbed"])
@pytest.mark.parametrize("name,case", cases("lra_*"))
def test_small_models(name, case, contraction):
    data = golden(name)
    model = official_model(name, pooling_of(data, case), contraction)
    # The release takes the first token away where it pools packed rows.
    drop_first = case == "use_p" and data.meta["official_tree"] == "rel2021"
    cotangents = data.below(f"{case}/cot/") or None
    outputs, g_inputs, g_weights = gradients.run(
        lambda inputs: {"logits": model(inputs)},
        model.trainable_variables,
        {"inputs": model_input(data, case, drop_first)},
        cotangents,
        jit=(name, case, contraction) == COMPILED,
    )
    assert_close(outputs["logits"], data.below(f"{case}/out/")["logits"])
    if cotangents:
        expected = data.below(f"{case}/gw/")
        got = official_gradients(model, g_weights)
        # Official lookups give padding no gradient; zeroed rows give it none
        # here either. Weights that the official code leaves out are zero.
        for key in got.keys() - expected.keys():
            assert key in data.meta["no_grad"][case], key
            expected[key] = np.zeros_like(got[key])
        assert_gradients_close(got, expected, 3e-5)
        for gradient in data.below(f"{case}/gin/").values():
            assert_close(g_inputs["inputs"], gradient, 3e-5)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("key", ["listop", "imdb", "aan", "cifar10", "pf32"])
def test_full_size(key, tree):
    data = golden(f"fullsize_{tree}")
    meta = data.meta["models"][key]
    weights = formula_weights(data.meta, data, key)
    arguments = architecture(meta["arch"], TREES[tree])
    arguments |= dict(vocabulary_size=meta["vocab"], padding_id=1)
    if "encoder_layers" in meta["options"]:
        arguments["num_layers"] = meta["options"]["encoder_layers"]
    for contraction in ("direct", "absorbed"):
        model = LRAClassifier(**arguments, contraction=contraction)
        assert model.count_params() == meta["parameter_count"]
        fairseq.load_weights(
            model, weights, layer_norm_offset=data.layer_norm_offset
        )
        logits = keras.ops.convert_to_numpy(model(model_input(data, key)))
        assert_close(logits, data.below(f"{key}/out/")["logits"], 3e-5)
