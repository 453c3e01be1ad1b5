"""Wrong arguments: a ValueError with the name, the value, what is allowed."""

import re

import keras
import numpy as np
import pytest
from layers.luna_reference import sequences

from luna_tf import (
    LunaAttention,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)
from luna_tf.ops import sinusoidal_positions

X, P = sequences()  # (2, 7, 8) and (2, 3, 8)
GOOD = np.ones((2, 7), bool)
IDS = np.ones((2, 4), "int32")


def block(**kwargs):
    return LunaTransformerBlock(
        **{"intermediate_dim": 6, "num_heads": 2, **kwargs}
    )


def embedding(*args, **kwargs):
    return LunaEmbedding(*(args or (9, 8, 3, 5)), **kwargs)


CONSTRUCTORS = {
    # what is called: (a part of the message for each of name, value, allowed)
    "heads 0": (lambda: LunaAttention(0), "num_heads", "0", "positive"),
    "heads -1": (lambda: LunaAttention(-1), "num_heads", "-1", "positive"),
    "heads 2.0": (lambda: LunaAttention(2.0), "num_heads", "2.0", "integer"),
    "heads True": (lambda: LunaAttention(True), "num_heads", "True", "integer"),
    "heads '2'": (lambda: LunaAttention("2"), "num_heads", "'2'", "integer"),
    "pack heads 0": (
        lambda: LunaAttention(2, num_pack_heads=0),
        "num_pack_heads",
        "0",
        "positive",
    ),
    "key_dim 0": (lambda: LunaAttention(2, 0), "key_dim", "0", "positive"),
    "dropout 1": (
        lambda: LunaAttention(2, dropout=1.0),
        "dropout",
        "1.0",
        r"\[0, 1\)",
    ),
    "dropout -0.1": (
        lambda: LunaAttention(2, dropout=-0.1),
        "dropout",
        "-0.1",
        r"\[0, 1\)",
    ),
    "dropout nan": (
        lambda: LunaAttention(2, dropout=float("nan")),
        "dropout",
        "nan",
        r"\[0, 1\)",
    ),
    "dropout None": (
        lambda: LunaAttention(2, dropout=None),
        "dropout",
        "None",
        r"\[0, 1\)",
    ),
    "contraction": (
        lambda: LunaAttention(2, contraction="fast"),
        "contraction",
        "'fast'",
        "'auto', 'direct', 'absorbed'",
    ),
    "block contraction": (
        lambda: block(contraction="fast"),
        "contraction",
        "'fast'",
        "'auto', 'direct', 'absorbed'",
    ),
    "intermediate_dim": (
        lambda: block(intermediate_dim=0),
        "intermediate_dim",
        "0",
        "positive",
    ),
    "block heads": (lambda: block(num_heads=0), "num_heads", "0", "positive"),
    "block pack heads": (
        lambda: block(num_pack_heads=0),
        "num_pack_heads",
        "0",
        "positive",
    ),
    **{
        f"block {name}": (
            lambda name=name: block(**{name: 1.5}),
            name,
            "1.5",
            r"\[0, 1\)",
        )
        for name in ("dropout", "attention_dropout", "activation_dropout")
    },
    "packed_length 0": (
        lambda: PackedEmbedding(0),
        "packed_length",
        "0",
        "positive",
    ),
    "packed_length 1.5": (
        lambda: PackedEmbedding(1.5),
        "packed_length",
        "1.5",
        "integer",
    ),
    "vocabulary": (
        lambda: embedding(0, 8, 3, 5),
        "vocabulary_size",
        "0",
        "positive",
    ),
    "hidden_dim": (
        lambda: embedding(9, 0, 3, 5),
        "hidden_dim",
        "0",
        "positive",
    ),
    "embedding packed_length": (
        lambda: embedding(9, 8, 0, 5),
        "packed_length",
        "0",
        "positive",
    ),
    "learned positions without a length": (
        lambda: embedding(9, 8, 3),
        "max_sequence_length",
        "None",
        "positive",
    ),
    "positions": (
        lambda: embedding(position_embedding="rotary"),
        "position_embedding",
        "'rotary'",
        "'learned', 'sinusoidal', 'none'",
    ),
    "embedding dropout": (
        lambda: embedding(dropout=2),
        "dropout",
        "2",
        r"\[0, 1\)",
    ),
    "sinusoidal dim": (
        lambda: sinusoidal_positions([0], 2),
        "dim",
        "2",
        "at least 4",
    ),
}


def mask(*shape, dtype=bool):
    return np.ones(shape, dtype)


CALLS = {
    "heads": (
        lambda: LunaAttention(3)(X, P),
        "num_heads",
        "3",
        "divide the width of `query`, 8",
    ),
    "pack heads": (
        lambda: LunaAttention(2, num_pack_heads=3)(X, P),
        "num_pack_heads",
        "3",
        "divide the width of `query`, 8",
    ),
    "key_dim": (
        lambda: LunaAttention(2, key_dim=3)(X, P),
        "key_dim",
        "3",
        "`num_heads`, 4",
    ),
    "rank of query": (
        lambda: LunaAttention(2)(X[0], P),
        "query",
        r"\(7, 8\)",
        "rank 3",
    ),
    "rank of packed": (
        lambda: LunaAttention(2)(X, P[0]),
        "packed",
        r"\(3, 8\)",
        "rank 3",
    ),
    "rank of context": (
        lambda: LunaAttention(2)(X, P, X[0]),
        "context",
        r"\(7, 8\)",
        "rank 3",
    ),
    "width of packed": (
        lambda: LunaAttention(2)(X, P[..., :6]),
        "packed",
        r"\(2, 3, 6\)",
        "width of `query`, 8",
    ),
    "width of packed in a block": (
        lambda: block()(X, P[..., :6]),
        "packed",
        r"\(2, 3, 6\)",
        "width of `(query|inputs)`, 8",
    ),
    "batch of packed": (
        lambda: LunaAttention(2)(X, P[:1]),
        "packed",
        r"\(1, 3, 8\)",
        "batch size of `query`, 2",
    ),
    "batch of packed in a block": (
        lambda: block()(X, P[:1]),
        "packed",
        r"\(1, 3, 8\)",
        "batch size of `(query|inputs)`, 2",
    ),
    "batch of context": (
        lambda: LunaAttention(2)(X, P, X[:1]),
        "context",
        r"\(1, 7, 8\)",
        "batch size of `query`, 2",
    ),
    "context_mask without context": (
        lambda: LunaAttention(2)(X, P, context_mask=GOOD),
        "context_mask",
        None,
        "needs a `context`",
    ),
    "length of query_mask": (
        lambda: LunaAttention(2)(X, P, query_mask=mask(2, 6)),
        "query_mask",
        r"\(2, 6\)",
        r"`query`, \(2, 7\)",
    ),
    "batch of packed_mask": (
        lambda: LunaAttention(2)(X, P, packed_mask=mask(1, 3)),
        "packed_mask",
        r"\(1, 3\)",
        r"`packed`, \(2, 3\)",
    ),
    "rank of context_mask": (
        lambda: LunaAttention(2)(X, P, X, context_mask=mask(2, 1, 7)),
        "context_mask",
        r"\(2, 1, 7\)",
        r"`context`, \(2, 7\)",
    ),
    **{
        f"{dtype} {name}": (
            lambda name=name, shape=shape, dtype=dtype: LunaAttention(2)(
                X, P, X, **{name: mask(*shape, dtype=dtype)}
            ),
            name,
            dtype,
            "bool or integer",
        )
        for name, shape in (
            ("query_mask", (2, 7)),
            ("packed_mask", (2, 3)),
            ("context_mask", (2, 7)),
        )
        for dtype in ("float32",)
    },
    "rank of inputs": (
        lambda: block()(X[0], P),
        "inputs",
        r"\(7, 8\)",
        "rank 3",
    ),
    "padding_mask": (
        lambda: block()(X, P, mask(2, 3)),
        "padding_mask",
        r"\(2, 3\)",
        r"`inputs`, \(2, 7\)",
    ),
    "float padding_mask": (
        lambda: block()(X, P, mask(2, 7, dtype="float32")),
        "padding_mask",
        "float32",
        "bool or integer",
    ),
    "block packed_mask": (
        lambda: block()(X, P, GOOD, mask(2, 7)),
        "packed_mask",
        r"\(2, 7\)",
        r"`packed`, \(2, 3\)",
    ),
    "packed embedding rank": (
        lambda: PackedEmbedding(3)(X[0]),
        "inputs",
        r"\(7, 8\)",
        "rank 3",
    ),
    "packed embedding mask": (
        lambda: PackedEmbedding(3)(X, padding_mask=mask(2, 6)),
        "padding_mask",
        r"\(2, 6\)",
        r"`inputs`, \(2, 7\)",
    ),
    "packed embedding mask dtype": (
        lambda: PackedEmbedding(3)(X, mask(2, 7, dtype="float32")),
        "padding_mask",
        "float32",
        "bool or integer",
    ),
    "token rank": (
        lambda: embedding()(IDS[0]),
        "token_ids",
        r"\(4,\)",
        "rank 2",
    ),
    "float tokens": (
        lambda: embedding()(IDS.astype("float32")),
        "token_ids",
        "float32",
        "integers",
    ),
    "too long": (
        lambda: embedding()(np.ones((2, 6), "int32")),
        "token_ids",
        r"\(2, 6\)",
        "`max_sequence_length`, 5",
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_wrong_constructor_argument(case):
    call, name, value, allowed = CONSTRUCTORS[case]
    check(call, name, value, allowed)


@pytest.mark.parametrize("case", CALLS)
def test_wrong_call_argument(case):
    call, name, value, allowed = CALLS[case]
    check(call, name, value, allowed)


def check(call, name, value, allowed):
    with pytest.raises(ValueError, match=f"`{name}`") as raised:
        call()
    message = str(raised.value)
    assert re.search(allowed, message)
    if value is not None:
        assert re.search(f"Got.*: .*{value}", message)


def test_symbolic_calls_are_checked_too():
    x, p = keras.Input((None, 8)), keras.Input((3, 6))
    for layer in (LunaAttention(2), block()):
        with pytest.raises(ValueError, match="`packed` must have the width"):
            layer(x, p)


def test_symbolic_sizes_that_are_unknown_pass():
    x, p = keras.Input((None, 8)), keras.Input((3, 8), batch_size=2)
    m = keras.Input((None,), dtype="bool")
    for layer in (LunaAttention(2), block()):
        assert layer(x, p)[0].shape == (None, None, 8)
    assert block()(x, p, padding_mask=m)[1].shape == (2, 3, 8)


def test_the_limits_are_allowed():
    LunaAttention(8, key_dim=1, num_pack_heads=1, dropout=0)(X, P)
    assert PackedEmbedding(1)(X).shape == (2, 1, 8)
    embedding()(np.ones((2, 5), "int32"))
