"""SavedModels from strings on, read where neither luna_tf nor Keras is."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.interop.litert import export_litert
from luna_tf.interop.text_encoder import (
    _Server,
    export_text_model,
    token_texts,
)
from luna_tf.models import (
    LunaBackbone,
    LunaBytePairTokenizer,
    LunaMaskedLM,
    LunaMaskedLMPreprocessor,
    LunaTextClassifier,
    LunaTextClassifierPreprocessor,
    LunaWordPieceTokenizer,
)

PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the moon ##s shines shine at night and day"
).split()
CHILD = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_text

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("luna_tf", "keras_hub"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
loaded = tf.saved_model.load(sys.argv[1]).signatures
texts = json.loads(sys.argv[3])
columns = {n: tf.constant(v) for n, v in texts.items()}
found = loaded[sys.argv[2]](**columns)
print(json.dumps({
    name: [[x.decode() for x in row] for row in value.numpy().tolist()]
    if value.dtype == tf.string else value.numpy().tolist()
    for name, value in found.items()
}))
"""


def backbone(**arguments):
    return LunaBackbone(14, 1, 2, 8, 12, 3, max_sequence_length=16, **arguments)


@pytest.fixture(scope="module")
def tokenizer():
    return LunaWordPieceTokenizer(PIECES)


@pytest.fixture(scope="module")
def masked_lm(tokenizer, tmp_path_factory):
    model = LunaMaskedLM(
        backbone(), LunaMaskedLMPreprocessor(tokenizer, sequence_length=12)
    )
    path = tmp_path_factory.mktemp("mlm") / "saved"
    export_text_model(model, path, top_k=3)
    return model, path


def call_elsewhere(path, signature, **texts):
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), signature, json.dumps(texts)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(path).parent,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.multiprocess
def test_fill_mask(masked_lm):
    model, path = masked_lm
    long = " ".join(["day"] * 30)
    texts = ["the [MASK] shines", "no blank", f"{long} [MASK] {long}"]
    found = call_elsewhere(path, "fill_mask", text=texts)
    assert found["tokens"][1] == ["", "", ""]
    ids = np.array([[2, 5, 4, 8, 3]])
    logits = model(
        {
            "token_ids": ids,
            "padding_mask": np.ones_like(ids),
            "mask_positions": np.array([[2]]),
        },
        training=False,
    )
    values = np.array(logits)[0, 0]
    values[:5] = -np.inf  # special tokens and [UNK] are no guess
    shares = np.exp(values - values.max())
    shares /= shares.sum()
    best = np.argsort(-shares)[:3]
    assert found["tokens"][0] == [PIECES[i] for i in best]
    np.testing.assert_allclose(
        found["probabilities"][0], shares[best], atol=1e-5
    )
    assert sum(found["probabilities"][2]) > 0  # the blank was not cut off


@pytest.mark.multiprocess
def test_embeddings(masked_lm):
    model, path = masked_lm
    found = call_elsewhere(path, "embed", text=["the moon", "moons shine"])
    x = model.preprocessor.tokenizer(["the moon"])
    ids = np.array([[2, *[int(i) for i in x[0]], 3]])
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    outputs = model.backbone(inputs, training=False)
    sequence = np.array(outputs["sequence_output"])
    np.testing.assert_allclose(found["first"][0], sequence[0, 0], atol=1e-5)
    np.testing.assert_allclose(
        found["mean"][0], sequence[0].mean(axis=0), atol=1e-5
    )
    packed = np.array(outputs["packed_output"])[0].mean(axis=0)
    np.testing.assert_allclose(found["packed"][0], packed, atol=1e-5)


def test_a_classifier_and_its_litert_file(tokenizer, tmp_path):
    import tensorflow as tf

    model = LunaTextClassifier(
        backbone(),
        2,
        LunaTextClassifierPreprocessor(tokenizer, sequence_length=12),
        activation="softmax",
    )
    export_text_model(model, tmp_path / "saved")
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures
    texts = ["the moon shines", "day " * 40, ""]
    found = served["serving_default"](text=tf.constant(texts))
    expected = model.predict(texts, verbose=0)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    assert found["label"].numpy().tolist() == expected.argmax(1).tolist()
    pairs = (["the moon"], ["day " * 40])
    found = served["classify_pair"](
        text=tf.constant(pairs[0]), text_pair=tf.constant(pairs[1])
    )
    expected = model.predict(pairs, verbose=0)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)

    report = export_litert(model, tmp_path / "a.tflite", 12)
    assert report.largest_difference < 1e-5 < report.largest_output
    assert report.size == (tmp_path / "a.tflite").stat().st_size


def test_texts_of_tokens(tokenizer):
    assert token_texts(tokenizer)[5:8] == ["the", "moon", "##s"]


def test_what_cannot_be_exported(tokenizer, tmp_path):
    bare = LunaMaskedLM(backbone())
    with pytest.raises(ValueError, match="`task` must have a preprocessor"):
        export_text_model(bare, tmp_path / "a")
    preprocessor = LunaMaskedLMPreprocessor(tokenizer)
    model = LunaMaskedLM(backbone(), preprocessor)
    with pytest.raises(ValueError, match="at most the 16 learned positions"):
        export_text_model(model, tmp_path / "a", max_length=17)
    with pytest.raises(ValueError, match="`top_k` must be from 1 to"):
        export_text_model(model, tmp_path / "a", top_k=15)
    with pytest.raises(ValueError, match="at most the 16 learned positions"):
        export_litert(model, tmp_path / "a.tflite", 17)
    half = LunaMaskedLM(backbone(dtype="mixed_bfloat16"), preprocessor)
    with pytest.raises(ValueError, match="must compute in float32"):
        export_text_model(half, tmp_path / "a")


def test_a_classifier_that_gives_several_answers(tokenizer, tmp_path):
    task = LunaTextClassifier(
        backbone(),
        3,
        LunaTextClassifierPreprocessor(tokenizer),
        activation="sigmoid",
    )
    with pytest.raises(ValueError, match="None or 'softmax' to be exported"):
        export_text_model(task, tmp_path / "a")


def test_a_space_before_the_blank_is_no_subword():
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"mon", "mo", "\u0120", "<mask>"]
    tokenizer = LunaBytePairTokenizer(
        {token: i for i, token in enumerate(tokens)}, ["m o"]
    )
    task = LunaMaskedLM(
        LunaBackbone(len(tokens), 1, 2, 8, 12, 3, max_sequence_length=16),
        LunaMaskedLMPreprocessor(tokenizer, sequence_length=16),
    )
    signature = [tf.TensorSpec([None], tf.string)]
    fill_mask = tf.function(_Server(task, 16, 2).fill_mask, signature)
    found = [
        fill_mask(tf.constant([text]))["probabilities"].numpy()
        for text in ("mon [MASK] no", "mon[MASK] no", "mon[MASK]no")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[1] != found[2]).any()
