"""Subwords that a corpus teaches: one SentencePiece vocabulary for both sides.

The ids of the special tokens are those of fairseq's dictionaries, so that
weights trained there keep their meaning. Words that the vocabulary lacks are
spelt in bytes: nothing becomes `<unk>`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from luna_tf.data.parallel.tokens import TokenLists

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

_MODEL_TYPES = ("unigram", "bpe")
# A fixed number, whatever the machine: sums of floats depend on it.
_TRAINING_THREADS = 4
_CHUNK = 65_536  # sentences encoded at a time: lists of Python are large


class VocabularyError(ValueError):
    """A vocabulary that cannot be learned or read."""


class Vocabulary:
    """Turns sentences into ids and back.

    Args:
        proto: a SentencePiece model, the content of a `.model` file.

    Attributes:
        size: number of ids.

    Raises:
        VocabularyError: `proto` is no such model, or its special tokens have
            other ids than ours.

    Example:

    >>> from luna_tf.data.parallel import read_tsv, sample_path
    >>> pairs = read_tsv(sample_path(), "en", "es")
    >>> vocabulary = Vocabulary(train_vocabulary(pairs.sources[:300], 400))
    >>> tokens = vocabulary.encode(["a sentence"])
    >>> vocabulary.size, vocabulary.decode([tokens[0]])
    (400, ['a sentence'])
    """

    def __init__(self, proto: bytes) -> None:
        import sentencepiece

        self._model: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise VocabularyError(
                f"not a SentencePiece model: {len(proto):,} bytes."
            ) from error
        self.proto = proto
        self.size = int(self._model.get_piece_size())
        found = {
            "bos": self._model.bos_id(),
            "pad": self._model.pad_id(),
            "eos": self._model.eos_id(),
            "unk": self._model.unk_id(),
        }
        wanted = {"bos": BOS_ID, "pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID}
        if found != wanted:
            raise VocabularyError(
                f"the special tokens of the SentencePiece model have the ids "
                f"{found}; allowed are {wanted}."
            )

    def encode(self, sentences: Sequence[str]) -> TokenLists:
        """Divides sentences into subwords, on all cores.

        Args:
            sentences: text without special tokens.

        Returns:
            Their ids, without special tokens.
        """
        chunks = [
            TokenLists.of(
                # -1: as many threads as there are cores.
                self._model.encode(
                    list(sentences[start : start + _CHUNK]),
                    out_type=int,
                    num_threads=-1,
                )
            )
            for start in range(0, len(sentences), _CHUNK)
        ]
        return TokenLists.join(chunks)

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Puts subwords together again.

        Args:
            ids: token ids of sentences; special tokens leave no trace.

        Returns:
            The sentences.
        """
        special = (BOS_ID, PAD_ID, EOS_ID)
        rows = [[int(i) for i in row if i not in special] for row in ids]
        return self._model.decode(rows) if rows else []


def train_vocabulary(
    sentences: Iterable[str],
    size: int,
    model_type: str = "unigram",
    normalization: str = "nmt_nfkc",
    character_coverage: float = 1.0,
    max_sentences: int = 2_000_000,
    control_symbols: Sequence[str] = (),
) -> bytes:
    """Learns subwords, the same from the same sentences on every machine.

    Args:
        sentences: text of both languages.
        size: number of ids, the four special ones and 256 bytes included.
        model_type: "unigram" (Kudo, 2018) or "bpe" (Sennrich et al., 2016).
        normalization: name of a rule of SentencePiece for characters that
            look alike; "identity" leaves all text as it is.
        character_coverage: part of the characters that get ids of their own;
            the rest is spelt in bytes. Less than 1 for scripts with thousands
            of characters.
        max_sentences: of more sentences, an even selection is used.
        control_symbols: further special tokens, with the ids from 4 on.

    Returns:
        A SentencePiece model, as in a `.model` file.

    Raises:
        VocabularyError: `size` is too small for the characters that occur, or
            larger than the sentences can fill.
        ValueError: an argument is not possible.

    Example:

    >>> from luna_tf.data.parallel import read_tsv, sample_path
    >>> pairs = read_tsv(sample_path(), "en", "es")
    >>> proto = train_vocabulary(pairs.sources[:300] + pairs.targets[:300], 500)
    >>> Vocabulary(proto).size
    500
    """
    import sentencepiece

    if model_type not in _MODEL_TYPES:
        raise ValueError(
            f"model_type must be one of {', '.join(map(repr, _MODEL_TYPES))}. "
            f"Received: {model_type!r}"
        )
    if size < 1:
        raise ValueError(f"size must be at least 1. Received: {size}")
    texts = list(sentences)
    texts = texts[:: -(-len(texts) // max_sentences) or 1]
    if not any(text.strip() for text in texts):
        raise VocabularyError("a vocabulary cannot be learned from no text.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            normalization_rule_name=normalization,
            character_coverage=character_coverage,
            byte_fallback=True,
            bos_id=BOS_ID,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            control_symbols=list(control_symbols),
            # By default it leaves out long sentences without a word.
            max_sentence_length=1 << 30,
            num_threads=_TRAINING_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise VocabularyError(_explain(size, str(error))) from error
    return model.getvalue()


def _explain(size: int, message: str) -> str:
    """What the library means, in our words."""
    too_high = re.search(r"too high .*<= (\d+)", message)
    if too_high:
        return (
            f"a vocabulary of size {size:,} cannot be filled: these sentences "
            f"have at most {int(too_high[1]):,} subwords."
        )
    too_low = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if too_low:
        return (
            f"a vocabulary of size {size:,} is too small: special tokens, "
            "bytes and the characters that occur need at least "
            f"{int(too_low[1]):,}. A lower character_coverage needs fewer."
        )
    return f"SentencePiece could not learn a vocabulary: {message}"


def load_or_train(
    path: str,
    sentences: Sequence[str],
    size: int,
    may_train: bool = True,
    **options: Any,
) -> bytes:
    """The vocabulary of a corpus, from its file if it is there.

    Next to `path` lies `path.json`, which tells what it was learned from.
    Where that is not what is asked for now, it is learned anew.

    Args:
        path: file for the model; any path that `tf.io.gfile` knows.
        sentences: see `train_vocabulary`.
        size: see `train_vocabulary`.
        may_train: whether to learn it anew. A model that was trained with the
            one in the file could not be used with another.
        options: further arguments of `train_vocabulary`.

    Returns:
        A SentencePiece model, as in a `.model` file.

    Raises:
        VocabularyError: as `train_vocabulary`, or it would have to be learned
            anew and must not be.
        ValueError: as `train_vocabulary`.

    Example:

    >>> from luna_tf.data.parallel import load, read_tsv, sample_path
    >>> pairs = read_tsv(sample_path(), "en", "es")
    >>> proto = load_or_train("vocabulary.model", pairs.sources[:300], 400)
    >>> load("vocabulary.model").proto == proto
    True
    """
    import tensorflow as tf

    gfile = tf.io.gfile
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(sentence.encode() + b"\n")
    made_of = {
        "sentences": len(sentences),
        "sha256": digest.hexdigest(),
        "size": size,
        **options,
    }
    origin = f"{path}.json"
    if gfile.exists(path) and gfile.exists(origin):
        with gfile.GFile(path, "rb") as file:
            proto = file.read()
        present = {**made_of, "model_sha256": _sha256(proto)}
        if _read_json(origin) == present:
            return proto
    if not may_train:
        raise VocabularyError(
            f"{path} is missing, or was learned from other sentences or "
            "settings than those of now; the model that was trained with it "
            "cannot go on with another."
        )
    proto = train_vocabulary(sentences, size, **options)
    present = {**made_of, "model_sha256": _sha256(proto)}
    _write(path, proto)
    # Last: without it, or with an old one, the model is learned anew.
    _write(origin, json.dumps(present, indent=2).encode())
    return proto


def load(path: str) -> Vocabulary:
    """Reads the vocabulary that a model was trained with.

    Args:
        path: file that `load_or_train` wrote.

    Returns:
        The vocabulary.

    Raises:
        VocabularyError: the file is damaged, or is not the one that
            `path.json` tells of.

    Example:

    >>> from luna_tf.data.parallel import read_tsv, sample_path
    >>> pairs = read_tsv(sample_path(), "en", "es")
    >>> _ = load_or_train("vocabulary.model", pairs.sources[:300], 400)
    >>> load("vocabulary.model").size
    400
    """
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        proto = file.read()
    vocabulary = Vocabulary(proto)
    origin = f"{path}.json"
    known = _read_json(origin) if tf.io.gfile.exists(origin) else None
    digest = known.get("model_sha256") if isinstance(known, dict) else None
    # One of the same size would be taken for it without a word.
    if digest != _sha256(proto):
        raise VocabularyError(
            f"{origin} does not tell of this SentencePiece model, so that it "
            "is not known to be the one that the weights were trained with."
        )
    return vocabulary


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_json(path: str) -> Any:
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        return json.loads(content)
    except ValueError:
        return None


def _write(path: str, content: bytes) -> None:
    import tensorflow as tf

    folder, _, _ = path.rpartition("/")
    if folder:
        tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(f"{path}.unfinished", "wb") as file:
        file.write(content)
    tf.io.gfile.rename(f"{path}.unfinished", path, overwrite=True)
