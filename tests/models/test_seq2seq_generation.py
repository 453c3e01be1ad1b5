"""`LunaSeq2SeqLM`: cached decoding, `generate`, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_hub import samplers
from models.text_models import (
    OTHERS,
    SOFTMAX,
    SOURCES,
    TARGETS,
    VOCABULARY,
    array,
    batch,
    randomize,
    seq2seq_lm,
    seq2seq_preprocessor,
    splits,
)

ATTENTIONS = [{}, SOFTMAX]
PAIRS = {"encoder_text": np.array(SOURCES), "decoder_text": np.array(TARGETS)}


@pytest.fixture(scope="module", params=ATTENTIONS, ids=["luna", "softmax"])
def model(request):
    return seq2seq_lm(**request.param)


@pytest.fixture(scope="module")
def luna():
    return seq2seq_lm(seq2seq_preprocessor())


@pytest.fixture(scope="module")
def softmax():
    return seq2seq_lm(**SOFTMAX)


@pytest.fixture(scope="module")
def learned():
    return seq2seq_lm(position_embedding="learned", max_sequence_length=7)


def varied_model(**kwargs):
    # A model that shares its tables repeats itself.
    model = seq2seq_lm(**kwargs, share_embeddings="none")
    return randomize(model, seed=3, by_path=True)


@pytest.fixture(scope="module")
def varied():
    return varied_model()


def empty_cache(model, inputs, max_length=8):
    return model.initial_cache(
        inputs["encoder_token_ids"],
        inputs["encoder_padding_mask"],
        max_length,
    )


# === Cached decoding ===


@pytest.mark.parametrize("split", splits(6), ids=str)
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


INDICES = [int, np.int64, np.array, tf.constant]


@pytest.mark.parametrize("kind", INDICES)
def test_the_end_of_learned_positions_is_an_error(learned, kind):
    inputs = batch()
    cache = empty_cache(learned, inputs, 7)
    ids = inputs["decoder_token_ids"]
    learned.next_logits(ids, cache, kind(1))
    message = "`index` .* `max_sequence_length`, 7. Got: index 2, 6 tokens"
    with pytest.raises(ValueError, match=message):
        learned.next_logits(ids, cache, kind(2))
    with pytest.raises(ValueError, match="`index` .* not be negative. Got: -1"):
        learned.next_logits(ids, cache, kind(-1))


def test_learned_positions_must_cover_the_cache(learned):
    with pytest.raises(ValueError, match="`max_length` must not exceed.*7"):
        empty_cache(learned, batch(), 8)


@pytest.mark.parametrize("kind", INDICES)
def test_the_end_of_a_softmax_cache_is_an_error(softmax, kind):
    inputs = batch()
    cache = empty_cache(softmax, inputs, 4)
    ids = inputs["decoder_token_ids"]
    softmax.next_logits(ids[:, :1], cache, kind(3))
    message = "`index` .* `max_length` of the cache, 4. Got: index 9, 1 tokens"
    with pytest.raises(ValueError, match=message):
        softmax.next_logits(ids[:, :1], cache, kind(9))


def test_a_prefill_beyond_a_softmax_cache_is_an_error_in_a_graph(softmax):
    inputs = batch()
    cache = empty_cache(softmax, inputs, 4)

    @tf.function
    def prefill(index):
        return softmax.next_logits(inputs["decoder_token_ids"], cache, index)

    with pytest.raises(ValueError, match="of the cache, 4. Got: .* 6 tokens"):
        prefill(tf.constant(0))


def check_refused(model, other, message):
    inputs = batch()
    cache = empty_cache(other, inputs)
    ids = inputs["decoder_token_ids"][:, :1]
    other.next_logits(ids, cache, 0)
    with pytest.raises(ValueError, match=message):
        model.next_logits(ids, cache, 0)


@pytest.mark.parametrize("name", OTHERS)
def test_the_cache_of_another_model_is_an_error(luna, name):
    message = "`cache` must come from"
    if name == "packed_length":
        message += ".* `packed_length` 3. Got: 4 in decoder_block_0"
    check_refused(luna, seq2seq_lm(**OTHERS[name]), message)


@pytest.mark.parametrize("name", ["num_heads", "hidden_dim"])
def test_the_cache_of_another_baseline_is_an_error(softmax, name):
    other = seq2seq_lm(**SOFTMAX, **OTHERS[name])
    check_refused(softmax, other, "`cache` must come from.*'self'.*Got")


@pytest.mark.parametrize("kwargs", ATTENTIONS, ids=["luna", "softmax"])
def test_the_cache_of_a_shallower_model_is_an_error(luna, softmax, kwargs):
    other = seq2seq_lm(num_decoder_layers=1, **kwargs)
    model = softmax if kwargs else luna
    check_refused(model, other, "`cache` must come from .*block_1")


def test_the_cache_of_another_batch_is_an_error(softmax):
    cache = empty_cache(softmax, batch())
    with pytest.raises(ValueError, match="`cache` .* for this batch"):
        softmax.next_logits(np.array([[2]] * 3), cache, 0)


def test_a_source_shorter_than_the_packed_sequence(luna):
    # Dynamic packing masks rows of the packed sequence, and keeps them all.
    inputs = batch((2, 1), (6, 6))
    expected = array(luna(inputs))
    cache = empty_cache(luna, inputs)
    logits, _ = luna.next_logits(inputs["decoder_token_ids"], cache, 0)
    np.testing.assert_allclose(logits, expected, atol=5e-5)


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
    model = varied_model(**kwargs)
    inputs = prompts(4)
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


def prompts(new_tokens, seed=0):
    """Inputs whose targets have free places after 4 and 2 tokens."""
    inputs = batch((7, 3), (4, 2), seed)
    for name in ("decoder_token_ids", "decoder_padding_mask"):
        inputs[name] = np.pad(inputs[name], ((0, 0), (0, new_tokens)))
    return inputs


def sampled(model, inputs, sampler):
    # Eager: a trace costs more than these few tokens.
    model.compile(sampler=sampler, run_eagerly=True)
    return array(
        model.generate(dict(inputs), stop_token_ids=None)["decoder_token_ids"]
    )


def log_probabilities(model, inputs, ids):
    """Returns `(B, T)`, of each token but the first given those before it."""
    everything = {
        **{k: np.repeat(v, len(ids) // len(v), 0) for k, v in inputs.items()},
        "decoder_token_ids": ids,
        "decoder_padding_mask": np.ones_like(ids),
    }
    every = array(tf.nn.log_softmax(model(everything)[:, :-1]))
    return np.take_along_axis(every, ids[:, 1:, None], -1)[..., 0], every


@pytest.fixture(scope="module")
def greedy(varied):
    return sampled(varied, prompts(3), "greedy")


@pytest.mark.parametrize(
    "sampler,arguments,narrow",
    [
        (samplers.TopKSampler, dict(k=4), dict(k=1)),
        (samplers.TopPSampler, dict(p=0.9), dict(p=1e-6)),
        (samplers.RandomSampler, {}, dict(temperature=1e-4)),
    ],
)
def test_narrow_samplers_are_greedy(varied, greedy, sampler, arguments, narrow):
    inputs = prompts(3)
    got = sampled(varied, inputs, sampler(seed=1, **narrow))
    np.testing.assert_array_equal(got, greedy)
    wide = sampled(varied, inputs, sampler(seed=1, **arguments))
    assert (wide != greedy).any()
    given = inputs["decoder_padding_mask"].astype(bool)
    np.testing.assert_array_equal(wide[given], greedy[given])


def test_top_k_takes_one_of_the_best(varied):
    inputs = prompts(3)
    ids = sampled(varied, inputs, samplers.TopKSampler(k=3, seed=2))
    chosen, every = log_probabilities(varied, inputs, ids)
    ranks = (every > chosen[..., None]).sum(-1)
    new = ranks[inputs["decoder_padding_mask"][:, 1:] == 0]
    assert new.max() < 3
    assert len({*new}) > 1


def test_a_beam_of_all_tokens_finds_the_best_of_all_texts(varied):
    # Two new tokens: the first step keeps every one, the second is the last.
    inputs = {k: v[:1] for k, v in prompts(2, seed=1).items()}
    beam = samplers.BeamSampler(num_beams=VOCABULARY)
    got = sampled(varied, inputs, beam)
    ids = np.repeat(inputs["decoder_token_ids"], VOCABULARY**2, 0)
    ids[:, 4:] = np.indices((VOCABULARY, VOCABULARY)).reshape(2, -1).T
    chosen, _ = log_probabilities(varied, inputs, ids)
    best = chosen[:, 3:].sum(-1).argmax()
    np.testing.assert_array_equal(got[0], ids[best])
    # Greedy decoding misses it.
    assert (sampled(varied, inputs, "greedy") != got).any()


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


START, END, PADDING = 2, 2, 1


@pytest.mark.parametrize("room", [2, 0, -2], ids="{:+}".format)
def test_texts_are_packed_as_in_fairseq(room):
    tokenizer = seq2seq_preprocessor().tokenizer
    source = [int(i) for i in tokenizer(SOURCES[0])]
    target = [int(i) for i in tokenizer(TARGETS[0])]
    assert min(len(source), len(target)) > 3
    # Lengths that leave `room` beside the end token: none cuts nothing yet.
    x, y, weight = seq2seq_preprocessor(
        encoder_sequence_length=len(source) + 1 + room,
        decoder_sequence_length=len(target) + 1 + room,
    )(PAIRS)
    if room < 0:
        source, target = source[:room], target[:room]
    source = [*source, END] + [PADDING] * room
    target = [START, *target, END] + [PADDING] * room
    for ids, mask, expected in (
        (x["encoder_token_ids"], x["encoder_padding_mask"], source),
        (x["decoder_token_ids"], x["decoder_padding_mask"], target[:-1]),
        (y, weight, target[1:]),
    ):
        assert array(ids)[0].tolist() == expected
        assert array(mask)[0].tolist() == [int(i != PADDING) for i in expected]
        assert array(ids).dtype == array(mask).dtype == np.int32


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


@pytest.mark.parametrize("kind", [list, np.array, tf.constant])
def test_empty_sources_are_no_training_texts(luna, kind):
    x = {"encoder_text": kind(["light", " "]), "decoder_text": kind(["a"] * 2)}
    message = "`encoder_text` must not be empty. Got ' ' in row 1"
    with pytest.raises(ValueError, match=message):
        luna.preprocessor(x)


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
