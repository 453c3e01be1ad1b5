"""Subwords that a corpus teaches, by the libraries that know how."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from luna_tf.data.corpus.documents import explained
from luna_tf.data.parallel.vocabulary import VocabularyError, train_vocabulary

KINDS = ("wordpiece", "unigram", "bpe")
MASK_PIECE = "<mask>"
_WORDPIECE_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_vocabulary(
    documents: tf.data.Dataset,
    kind: str,
    size: int,
    lowercase: bool = False,
    max_bytes: int = 50_000_000,
    character_coverage: float = 1.0,
) -> bytes | list[str]:
    """Learns the subwords of a corpus.

    Args:
        documents: from `read_documents`.
        kind: `"unigram"` or `"bpe"` (SentencePiece), or `"wordpiece"` (BERT; by
            KerasHub, much slower).
        size: number of token ids, special ones included. Of word pieces it is
            a limit.
        lowercase: whether to fold case.
        max_bytes: of text to learn from, that of the first documents.
        character_coverage: see `train_vocabulary`; SentencePiece alone.

    Returns:
        A SentencePiece model, with `MASK_PIECE` among its pieces; or the word
        pieces, BERT's special ones first.

    Raises:
        VocabularyError: the text does not have so many subwords, or more
            different characters than `size`.
        CorpusError: a document is malformed.
        ValueError: there is no such kind.

    Example:

    >>> from luna_tf.data.corpus import find_files, read_documents, sample_path
    >>> from luna_tf.models import LunaSentencePieceTokenizer
    >>> documents = read_documents(find_files(sample_path())).take(10)
    >>> proto = learn_vocabulary(documents, "unigram", 500)
    >>> tokenizer = LunaSentencePieceTokenizer(proto)
    >>> tokenizer.vocabulary_size(), tokenizer.detokenize(tokenizer("a word"))
    (500, 'a word')
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}"
        )
    texts = documents.map(lambda document: document["text"])
    if kind == "wordpiece":
        return _word_pieces(texts, size, lowercase, max_bytes)
    return train_vocabulary(
        _sentences(texts, max_bytes),
        size,
        kind,
        # As written, but for what looks alike.
        normalization="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
        character_coverage=character_coverage,
        control_symbols=(MASK_PIECE,),
    )


def _first(texts: tf.data.Dataset, max_bytes: int) -> Any:
    """Texts up to a number of bytes, as bytes."""
    size = 0
    with explained():
        for text in texts.as_numpy_iterator():
            size += len(text)
            yield text
            if size > max_bytes:
                return
    if not size:
        raise VocabularyError("a vocabulary cannot be learned from no text.")


def _sentences(texts: tf.data.Dataset, max_bytes: int) -> Any:
    """Lines: SentencePiece has limits on what it takes for a sentence."""
    for text in _first(texts, max_bytes):
        for line in text.decode().splitlines():
            if line.strip():
                yield line.strip()


def _word_pieces(
    texts: tf.data.Dataset, size: int, lowercase: bool, max_bytes: int
) -> list[str]:
    from keras_hub.tokenizers import compute_word_piece_vocabulary

    count = sum(1 for _ in _first(texts, max_bytes))
    return compute_word_piece_vocabulary(
        texts.take(count),
        vocabulary_size=size,
        lowercase=lowercase,
        strip_accents=lowercase,  # as `LunaWordPieceTokenizer` does
        reserved_tokens=list(_WORDPIECE_SPECIAL),
    )
