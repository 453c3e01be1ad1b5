"""A SavedModel from text to text that needs TensorFlow alone."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from luna_tf.trainers.translate_decoding import Translator
from translation_runs import short_pairs

from luna_tf.data import parallel
from luna_tf.interop.translation import export_translator
from luna_tf.models import LunaSeq2SeqBackbone, LunaSeq2SeqLM

MAX_LENGTH, BEAM, PENALTY, RATIO = 16, 3, 0.8, 0.5
SENTENCES = [source for source, _ in short_pairs(4)]
LONG = "and the bread of life " * 20
BATCHES = [
    [SENTENCES[0]],
    SENTENCES[1:4],
    ["", f"  {SENTENCES[0]}\t", LONG],
    [""],
]
PROGRAM = """
import json, sys
# tensorflow_text imports Keras by itself.
sys.modules["luna_tf"] = sys.modules["keras_hub"] = None
import tensorflow as tf
import tensorflow_text
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for batch in json.loads(sys.argv[2]):
    out = {k: v.numpy() for k, v in serve(text=tf.constant(batch)).items()}
    shapes = {k: v.shape for k, v in out.items()}
    texts = {
        k: [t.decode(errors="replace") for t in out[k].reshape(-1)]
        for k in ("translation", "hypotheses")
    }
    scores = out["scores"].tolist()
    print(json.dumps({"shapes": shapes, "scores": scores, **texts}))
"""


@pytest.fixture(scope="module")
def vocabulary():
    sides = [side for pair in short_pairs() for side in pair]
    return parallel.Vocabulary(parallel.train_vocabulary(sides, 400))


@pytest.fixture(scope="module", params=["luna", "softmax"])
def model(request):
    keras.utils.set_random_seed(1)
    return make_model(request.param)


def make_model(attention="luna", size=400, dtype="float32"):
    backbone = LunaSeq2SeqBackbone(
        vocabulary_size=size,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        packed_length=4,
        attention=attention,
        dtype=dtype,
    )
    return LunaSeq2SeqLM(backbone)


@pytest.fixture(scope="module")
def served(model, vocabulary, tmp_path_factory):
    """What another process, without Keras, is given for each batch."""
    path = tmp_path_factory.mktemp("export") / "saved_model"
    options = BEAM, PENALTY, RATIO
    export_translator(model, vocabulary.proto, path, MAX_LENGTH, *options)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, json.dumps(BATCHES)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def translator(model, vocabulary):
    strategy = tf.distribute.get_strategy()
    return Translator(
        model, vocabulary, strategy, MAX_LENGTH, BEAM, PENALTY, RATIO
    )


def test_shapes_and_the_order_of_scores(served):
    for batch, out in zip(BATCHES, served, strict=True):
        rows = len(batch)
        assert out["shapes"] == {
            "translation": [rows],
            "hypotheses": [rows, BEAM],
            "scores": [rows, BEAM],
        }
        assert (np.diff(out["scores"], axis=1) <= 0).all()
        assert out["translation"] == out["hypotheses"][::BEAM]


def test_translates_as_the_trainer_does(served, translator, vocabulary):
    texts = [text.strip() for batch in BATCHES for text in batch]
    hypotheses = [
        out["hypotheses"][BEAM * row : BEAM * (row + 1)]
        for batch, out in zip(BATCHES, served, strict=True)
        for row in range(len(batch))
    ]
    scores = [row for out in served for row in out["scores"]]
    expected = translator(vocabulary.encode(texts))
    assert len({own.scores[0] for own in expected}) >= 5
    for text, got, score, own in zip(
        texts, hypotheses, scores, expected, strict=True
    ):
        if text:
            assert got == own.texts
            np.testing.assert_allclose(score, own.scores, rtol=1e-4)
        else:
            assert got == [""] * BEAM


def test_long_text_is_cut(served, translator, vocabulary):
    start = vocabulary.encode([LONG.strip()])[0][: MAX_LENGTH - 1]
    (expected,) = translator(parallel.TokenLists.of([start]))
    assert served[2]["hypotheses"][2 * BEAM :] == expected.texts


def special_ids(**options):
    """A vocabulary whose special tokens are not called as usual."""
    import io

    import sentencepiece

    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([side for p in short_pairs() for side in p]),
        model_writer=proto,
        vocab_size=400,
        minloglevel=2,
        **{"bos_id": 0, "eos_id": 2, "unk_id": 3, **options},
    )
    return proto.getvalue()


def test_special_tokens_may_have_any_names(tmp_path):
    keras.utils.set_random_seed(1)
    model = make_model()
    proto = special_ids(pad_id=1, pad_piece="[PAD]", eos_piece="[END]")
    export_translator(model, proto, tmp_path / "x", MAX_LENGTH, BEAM)
    loaded = tf.saved_model.load(str(tmp_path / "x"))
    # An unknown character is no padding, though `<pad>` has its id.
    texts = [*SENTENCES, f"\u2603 {SENTENCES[0]}"]
    found = loaded.signatures["serving_default"](text=tf.constant(texts))
    translator = Translator(
        model,
        parallel.Vocabulary(proto),
        tf.distribute.get_strategy(),
        MAX_LENGTH,
        BEAM,
    )
    own = translator(parallel.Vocabulary(proto).encode(texts))
    assert abs(own[0].scores[0] - own[-1].scores[0]) > 1e-3
    np.testing.assert_allclose(
        found["scores"], [t.scores for t in own], rtol=1e-4
    )


def test_padding_must_have_an_id(tmp_path):
    with pytest.raises(ValueError, match="for padding. Received: 2 and -1"):
        export_translator(
            make_model(), special_ids(bos_id=1, unk_id=0), tmp_path / "x", 8
        )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"size": 401}, "must have the 401 subwords of `model`. .*: 400"),
        ({"dtype": "mixed_bfloat16"}, "`model` must compute in float32"),
    ],
)
def test_refuses_what_does_not_fit(vocabulary, tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        export_translator(
            make_model(**made), vocabulary.proto, tmp_path / "x", MAX_LENGTH
        )
    assert not list(tmp_path.iterdir())
