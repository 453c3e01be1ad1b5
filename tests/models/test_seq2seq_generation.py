"""`LunaSeq2SeqLM`: cached decoding, `generate`, what it refuses."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from models.text_models import (
    SOFTMAX,
    SOURCES,
    TARGETS,
    array,
    batch,
    randomize,
    seq2seq_lm,
    seq2seq_preprocessor,
)

ATTENTIONS = [{}, SOFTMAX]
PAIRS = {"encoder_text": np.array(SOURCES), "decoder_text": np.array(TARGETS)}


@pytest.fixture(scope="module", params=ATTENTIONS, ids=["luna", "softmax"])
def model(request):
    return seq2seq_lm(**request.param)


@pytest.fixture(scope="module")
def luna():
    return seq2seq_lm(seq2seq_preprocessor())


def empty_cache(model, inputs, max_length=8):
    return model.initial_cache(
        inputs["encoder_token_ids"],
        inputs["encoder_padding_mask"],
        max_length,
    )


# === Cached decoding ===


@pytest.mark.parametrize("split", [(6,), (1,) * 6, (3, 1, 2)], ids=str)
def test_any_split_gives_the_parallel_logits(model, split):
    inputs = batch()
    expected = array(model(inputs))
    assert expected.dtype == np.float32
    cache, start = empty_cache(model, inputs), 0
    for length in split:
        ids = inputs["decoder_token_ids"][:, start : start + length]
        logits, cache = model.next_logits(ids, cache, tf.constant(start))
        np.testing.assert_allclose(
            logits, expected[:, start : start + length], atol=5e-5
        )
        start += length


def test_caches_have_the_batch_in_front(model):
    sizes = {}
    for length in (8, 80):
        cache = empty_cache(model, batch(), length)
        leaves = keras.tree.flatten(cache)
        assert {leaf.shape[0] for leaf in leaves} == {2}
        sizes[length] = sum(np.prod(leaf.shape) for leaf in leaves)
    luna = model.backbone.attention == "luna"
    assert (sizes[8] == sizes[80]) == luna


def test_masked_tokens_leave_no_trace(luna):
    inputs = batch()
    ids = inputs["decoder_token_ids"]
    _, expected = luna.next_logits(ids[:, :3], empty_cache(luna, inputs), 0)
    keep = np.arange(6) < 3
    _, got = luna.next_logits(
        ids, empty_cache(luna, inputs), 0, np.stack([keep, keep])
    )
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected
    )


@pytest.mark.slow
def test_decoding_compiles_and_runs_on_a_strategy(luna):
    inputs = batch()
    ids = tf.constant(inputs["decoder_token_ids"])
    expected = array(luna(inputs))

    @tf.function(jit_compile=True)
    def decode(inputs, ids):
        cache = empty_cache(luna, inputs)
        _, cache = luna.next_logits(ids[:, :5], cache, 0)
        return luna.next_logits(ids[:, 5:], cache, tf.constant(5))[0]

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    tensors = {k: tf.constant(v) for k, v in inputs.items()}
    got = strategy.run(decode, (tensors, ids))
    np.testing.assert_allclose(got, expected[:, 5:], atol=5e-5)


def test_the_end_of_learned_positions_is_an_error():
    model = seq2seq_lm(position_embedding="learned", max_sequence_length=7)
    inputs = batch()
    with pytest.raises(ValueError, match="`max_length` must not exceed.*7"):
        empty_cache(model, inputs, 8)
    cache = empty_cache(model, inputs, 7)
    ids = inputs["decoder_token_ids"]
    with pytest.raises(ValueError, match="must not be longer than.*after 4"):
        model.next_logits(ids, cache, 4)
    # TensorFlow's own lookup, where the position is known only in running.
    with pytest.raises(tf.errors.InvalidArgumentError, match="9 is not in"):
        model.next_logits(ids[:, :1], cache, tf.constant(7))


def test_the_cache_of_another_model_is_an_error(luna):
    other = seq2seq_lm(num_decoder_layers=1)
    cache = empty_cache(other, batch())
    with pytest.raises(ValueError, match="`cache` must come from .*block_1"):
        luna.next_logits(np.array([[2], [2]]), cache, 0)


# === generate ===


def uncached(model, inputs, length):
    """Greedy decoding by the parallel form, prompt by prompt."""
    ids = inputs["decoder_token_ids"].copy()
    given = inputs["decoder_padding_mask"]
    for t in range(1, length):
        everything = {**inputs, "decoder_token_ids": ids}
        everything["decoder_padding_mask"] = (
            np.broadcast_to(np.arange(length) < t, ids.shape)
        ).astype("int32")
        best = array(model(everything))[:, t - 1].argmax(-1)
        ids[:, t] = np.where(given[:, t], ids[:, t], best)
    return ids


@pytest.mark.parametrize("kwargs", ATTENTIONS, ids=["luna", "softmax"])
def test_generate_is_the_argmax_of_the_parallel_form(kwargs):
    # A model that shares its tables repeats itself.
    model = seq2seq_lm(**kwargs, share_embeddings="none")
    randomize(model, seed=3)
    inputs = batch((7, 3), (4, 2))
    for name in ("decoder_token_ids", "decoder_padding_mask"):
        inputs[name] = np.pad(inputs[name], ((0, 0), (0, 4)))
    expected = uncached(model, inputs, 8)
    assert len({*expected[:, 4:].ravel()}) > 1
    # Eager: a trace costs more than these few tokens.
    model.compile(sampler="greedy", run_eagerly=True)
    got = model.generate(dict(inputs), stop_token_ids=None)
    np.testing.assert_array_equal(got["decoder_token_ids"], expected)
    assert got["decoder_padding_mask"].all()

    # The second row ends where it first repeats its fourth token.
    stop = int(expected[1, 3])
    got = model.generate(dict(inputs), stop_token_ids=(stop,))
    kept = got["decoder_padding_mask"]
    for row, start in ((0, 4), (1, 2)):
        new = list(expected[row, start:])
        end = start + new.index(stop) + 1 if stop in new else 8
        np.testing.assert_array_equal(kept[row], np.arange(8) < end)


def test_samplers_choose_among_the_tokens(luna):
    vocabulary = luna.preprocessor.tokenizer.get_vocabulary()
    samplers = keras_hub.samplers
    for sampler in (
        "greedy",
        samplers.BeamSampler(num_beams=2),
        samplers.TopKSampler(k=2, seed=1),
        samplers.TopPSampler(p=0.5, seed=1),
        samplers.RandomSampler(temperature=0.7, seed=1),
    ):
        # Eager: a trace costs more than these few tokens.
        luna.compile(sampler=sampler, run_eagerly=True)
        texts = luna.generate(SOURCES[:2], max_length=5)
        assert len(texts) == 2
        for text in texts:
            pieces = luna.preprocessor.tokenizer(text)
            assert all(int(i) < len(vocabulary) for i in pieces)


@pytest.mark.slow
def test_generate_compiles_with_xla(luna):
    luna.compile(sampler="greedy", run_eagerly=True)
    expected = luna.generate(SOURCES, max_length=6)
    luna.compile(sampler="greedy", jit_compile=True)
    assert luna.generate(SOURCES, max_length=6) == expected


def test_mixed_precision_gives_float32_logits_and_float32_sums():
    model = seq2seq_lm(dtype="mixed_bfloat16")
    inputs = batch()
    cache = empty_cache(model, inputs)
    ids = inputs["decoder_token_ids"]
    logits, cache = model.next_logits(ids, cache, 0)
    assert array(logits).dtype == model.output.dtype == "float32"
    state = cache["decoder_block_0"]["self_attention"]
    assert state["key_sums"].dtype == "float32"
    difference = np.abs(array(logits) - array(model(inputs)))
    assert difference.mean() < 0.05


# === Strings ===


def test_texts_are_packed_as_in_fairseq():
    preprocessor = seq2seq_preprocessor()
    x, y, weight = preprocessor(PAIRS)
    source = preprocessor.tokenizer(SOURCES[0])
    target = [int(i) for i in preprocessor.tokenizer(TARGETS[0])]
    start, end, padding = 2, 2, 1
    n = len(source)
    row = array(x["encoder_token_ids"])[0]
    if n < 12:
        assert list(row[: n + 1]) == [*source, end]
        assert (row[n + 1 :] == padding).all()
    given = array(x["decoder_token_ids"])[0]
    kept = ([start, *target, end] + [padding] * 12)[:11]
    kept[10] = end if len(target) > 8 else kept[10]
    assert list(given)[:9] == kept[:9]
    assert list(array(y)[0])[:8] == kept[1:9]
    for mask in (x["encoder_padding_mask"], x["decoder_padding_mask"], weight):
        assert array(mask).dtype == np.int32
    np.testing.assert_array_equal(array(weight), array(y) != padding)


@pytest.mark.slow
def test_it_learns_pairs_of_strings():
    model = seq2seq_lm(seq2seq_preprocessor())
    # KerasHub gives strings to Keras as a dataset, which it does not shuffle.
    model.compile(optimizer=keras.optimizers.SGD(0.1), sampler="greedy")
    losses = model.fit(
        PAIRS, batch_size=3, epochs=4, verbose=0, shuffle=False
    ).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    dataset = tf.data.Dataset.from_tensor_slices(PAIRS).batch(3)
    again = model.fit(dataset, verbose=0, shuffle=False).history["loss"]
    assert again[0] < losses[0]


@pytest.mark.parametrize(
    "inputs,message",
    [
        (["light", " "], "`encoder_text` must not be empty. Got ' ' in row 1"),
        (
            {"encoder_text": ["light"], "decoder_text": [" ".join(TARGETS)]},
            "`decoder_text` must have fewer than 9 tokens.*row 0",
        ),
    ],
)
def test_bad_texts(luna, inputs, message):
    luna.compile(sampler="greedy")
    with pytest.raises(ValueError, match=message):
        luna.generate(inputs)


def test_bad_training_texts(luna):
    with pytest.raises(ValueError, match="'encoder_text' and 'decoder_text'"):
        luna.preprocessor({"text": ["light"]})


def test_sources_and_targets_alone_are_enough(luna):
    luna.compile(sampler="greedy", run_eagerly=True)
    texts = luna.generate(SOURCES[0], max_length=4)
    assert texts == luna.generate({"encoder_text": SOURCES[0]}, max_length=4)


def test_vocabularies_must_agree():
    with pytest.raises(ValueError, match="`vocabulary_size`, 31. Got: 30"):
        seq2seq_lm(seq2seq_preprocessor(), vocabulary_size=31)


def test_learned_positions_must_cover_the_preprocessor():
    with pytest.raises(
        ValueError, match="`encoder_sequence_length` .* 11. Got: 12"
    ):
        seq2seq_lm(
            seq2seq_preprocessor(),
            position_embedding="learned",
            max_sequence_length=11,
        )
