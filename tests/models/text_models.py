"""Tiny vocabulary and models for the tests of generation."""

import functools
import io

import keras
import numpy as np
import sentencepiece

from luna_tf.models import (
    LunaCausalLM,
    LunaCausalLMBackbone,
    LunaCausalLMByteTokenizer,
    LunaCausalLMPreprocessor,
    LunaSeq2SeqBackbone,
    LunaSeq2SeqLM,
    LunaSeq2SeqLMPreprocessor,
    LunaSeq2SeqTokenizer,
)

SOURCES = ["in the beginning", "the end of days", "let there be light"]
TARGETS = ["en el principio", "el fin de los dias", "sea la luz"]

VOCABULARY = 30
SMALL = dict(
    vocabulary_size=VOCABULARY,
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=12,
    packed_length=3,
    dropout=0.0,
)
SOFTMAX = dict(attention="softmax", packed_length=None)


@functools.cache
def proto(pad_piece="<pad>", vocabulary_size=VOCABULARY):
    """A SentencePiece model with the special tokens of fairseq."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SOURCES + TARGETS),
        model_writer=model,
        vocab_size=vocabulary_size,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece=pad_piece,
        minloglevel=2,
    )
    return model.getvalue()


def randomize(model, seed=0, by_path=False):
    """Sets weights far from zero, so that every one of them matters.

    Their order depends on the version of Keras, unless it is `by_path`.
    """
    rng = np.random.default_rng(seed)
    weights = model.weights
    if by_path:
        weights = sorted(weights, key=lambda weight: weight.path)
    for weight in weights:
        if "float" in weight.dtype:
            deviation = 0.4 if len(weight.shape) > 1 else 0.1
            value = rng.normal(size=weight.shape) * deviation
            weight.assign(value + (weight.name == "gamma"))
    return model


def seq2seq_backbone(**kwargs):
    return randomize(LunaSeq2SeqBackbone(**{**SMALL, **kwargs}))


def seq2seq_lm(preprocessor=None, **kwargs):
    return LunaSeq2SeqLM(seq2seq_backbone(**kwargs), preprocessor)


def seq2seq_preprocessor(**kwargs):
    lengths = dict(encoder_sequence_length=12, decoder_sequence_length=10)
    tokenizer = LunaSeq2SeqTokenizer(proto())
    return LunaSeq2SeqLMPreprocessor(tokenizer, **{**lengths, **kwargs})


def causal_lm(preprocessor=None, **kwargs):
    backbone = LunaCausalLMBackbone(**{**SMALL, **kwargs})
    return LunaCausalLM(randomize(backbone), preprocessor)


def byte_preprocessor(sequence_length=12):
    return LunaCausalLMPreprocessor(
        LunaCausalLMByteTokenizer(), sequence_length=sequence_length
    )


def splits(length):
    """Prefill of any number of tokens, then steps; and one of three calls."""
    prefills = [(n,) + (1,) * (length - n) for n in range(1, length + 1)]
    return [*prefills, (length - 3, 1, 2)]


# Models that differ from `SMALL`, whose caches must not be mixed up.
OTHERS = {
    "packed_length": dict(packed_length=4),
    "num_heads": dict(num_heads=4),
    "hidden_dim": dict(hidden_dim=12),
}


def array(x):
    return keras.ops.convert_to_numpy(x)


def batch(source_lengths=(7, 3), target_lengths=(6, 6), seed=0):
    """Inputs of a `LunaSeq2SeqBackbone`, padded on the right."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for side, lengths in (
        ("encoder", source_lengths),
        ("decoder", target_lengths),
    ):
        places = np.arange(max(lengths))
        mask = (places < np.array(lengths)[:, None]).astype("int32")
        ids = rng.integers(4, VOCABULARY, mask.shape).astype("int32")
        inputs[f"{side}_token_ids"] = ids * mask + (1 - mask)
        inputs[f"{side}_padding_mask"] = mask
    return inputs
