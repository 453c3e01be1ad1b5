"""Mixers of `LRAClassifier`: the registry, and what Luna's attends to."""

import keras
import numpy as np
import pytest

from luna_tf.models import LRAClassifier
from luna_tf.models.lra_mixers import MIXERS, Mixer, find_mixer

SMALL = dict(
    vocabulary_size=11,
    num_classes=4,
    max_sequence_length=9,
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=12,
)
LUNA = dict(SMALL, packed_length=3, num_pack_heads=4)
IDS = np.array([[2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0]], "int32")


class AloneBlock(keras.layers.Layer):
    """Mixes nothing: every token is alone."""

    def __init__(self, intermediate_dim, activation, dtype, name, **others):
        super().__init__(dtype=dtype, name=name)
        self.supports_masking = True
        self.dense = keras.layers.Dense(8, activation)

    def build(self, inputs_shape):
        self.dense.build(inputs_shape)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_new_mixer_is_one_line(monkeypatch):
    monkeypatch.setitem(MIXERS, "alone", Mixer(AloneBlock))
    model = LRAClassifier(**SMALL, attention="alone")
    assert [type(block) for block in model.blocks] == [AloneBlock] * 2
    assert model.get_config()["attention"] == "alone"
    first = np.array(model(IDS))
    changed = IDS.copy()
    changed[:, 1:] = 10
    # Only the first token counts, and no other reaches it.
    np.testing.assert_allclose(np.array(model(changed)), first, atol=1e-6)
    with pytest.raises(ValueError, match="`contraction`.*'alone'"):
        LRAClassifier(**SMALL, attention="alone", contraction="direct")
    with pytest.raises(ValueError, match="`pooling`.*'alone'.*no packed"):
        LRAClassifier(**SMALL, attention="alone", pooling="packed")


def test_an_unknown_mixer_is_named_beside_those_that_there_are():
    with pytest.raises(ValueError, match="`attention`.*'luna'.*Got: 'alone'"):
        find_mixer("alone", "cls", {})


# === What Luna attends to ===


@pytest.fixture(scope="module")
def model():
    return LRAClassifier(**LUNA, seed=1)


@pytest.mark.parametrize("options", [{}, {"share_layers": True}])
def test_attention_scores_are_those_of_the_blocks(options):
    model = LRAClassifier(**LUNA, **options, dropout=0.5)
    blocks = [model.blocks[0], model.blocks[-1]]
    x, p = model.embedding(IDS)
    expected = []
    for block in blocks:
        x, p, *scores = block(x, p, return_attention_scores=True)
        expected += scores
    got = [w for pair in model.attention_scores(IDS) for w in pair]
    assert [tuple(w.shape) for w in got] == [(2, 4, 3, 6), (2, 2, 6, 3)] * 2
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    pack, unpack = (np.array(w) for w in got[:2])
    np.testing.assert_allclose(pack.sum(-1)[0], 1, rtol=1e-5)
    np.testing.assert_allclose(unpack.sum(-1)[0], 1, rtol=1e-5)
    assert not pack[1, :, :, 2:].any()  # padding
    assert not unpack[1, ..., 2:].any()  # two tokens: two rows in use


def test_attention_scores_of_two_documents_are_those_of_each(model):
    pairs = LRAClassifier(**LUNA, num_documents=2)
    pairs.embedding.set_weights(model.embedding.get_weights())
    for ours, theirs in zip(pairs.blocks, model.blocks, strict=True):
        ours.set_weights(theirs.get_weights())
    documents = np.stack([IDS, IDS[::-1]], axis=1)
    for got, expected in zip(
        pairs.attention_scores(documents),
        model.attention_scores(np.concatenate([IDS, IDS[::-1]])),
        strict=True,
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-6)


def test_attention_scores_of_softmax_are_refused():
    model = LRAClassifier(**SMALL, attention="softmax")
    with pytest.raises(ValueError, match="'luna'. Got: attention='softmax'"):
        model.attention_scores(IDS)
