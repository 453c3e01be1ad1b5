"""Tokenizers of `LunaBackbone`: words' pieces of three kinds, and bytes.

All of them name four special tokens, and say of every token where words begin
and how many bytes of text it stands for: for whole-word masking, and for
cross-entropy per byte.
"""

import re
import unicodedata
from typing import Any

import keras
import keras_hub
import numpy as np

from luna_tf.models._sentence_piece import SpecialSentencePieceTokenizer
from luna_tf.models._special_tokens import SpecialTokens
from luna_tf.models.luna_backbone import LunaBackbone

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


def _stands_alone(word: str) -> bool:
    """Whether BERT makes a word of it that has no space before it in text."""
    if len(word) > 1:
        return False
    is_ideograph = "\u3400" <= word <= "\u9fff"
    return is_ideograph or unicodedata.category(word)[0] in "PS"


class _Vocabulary(SpecialTokens):
    """What the tokenizers with a vocabulary say of its tokens."""

    # What a token that begins a word begins with; what one that does not
    # begins with. One of the two is empty.
    word_mark = ""
    inner_mark = ""
    # White space other than a space, where a vocabulary has it.
    line_marks: tuple[str, ...] = ()

    get_vocabulary: Any

    def _tokens(self) -> list[str]:
        """The tokens in the order of their ids."""
        return list(self.get_vocabulary())

    def word_starts(self) -> np.ndarray:
        """Returns which tokens begin a word, bool `(V,)`.

        Special tokens do, so that no word goes on across them.
        """
        mark = self.inner_mark or self.word_mark
        tokens = self._tokens()
        marked = np.array([t.startswith(mark) for t in tokens])
        starts = ~marked if self.inner_mark else marked
        starts |= np.array([t.startswith(self.line_marks) for t in tokens])
        starts[self.special_token_ids] = True
        return starts

    def token_bytes(self) -> np.ndarray:
        """Returns how many bytes of UTF-8 tokens stand for, int32 `(V,)`.

        They are those of the text as the tokenizer has normalized it, and the
        space before a word counts as one; special and unknown tokens have
        none. Word pieces do not tell what was there: a space is taken to be
        before each word and before no punctuation.
        """
        counts = np.array([self._bytes_of(t) for t in self._tokens()], "int32")
        counts[self.unguessable_token_ids] = 0
        return counts

    def _bytes_of(self, token: str) -> int:
        if _BYTE_PIECE.fullmatch(token):
            return 1
        return len(token.replace(self.word_mark, " ").encode())


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaWordPieceTokenizer(
    _Vocabulary, keras_hub.tokenizers.WordPieceTokenizer
):
    """WordPiece tokenizer, that of BERT, for `LunaBackbone`.

    Args:
        vocabulary: list of str, or str path of a file with one per line.
        lowercase: bool, whether to fold case first and, unless
            `strip_accents` says otherwise, to strip accents, as BERT does.
        start_token: str, token that a text starts with.
        end_token: str, token that ends a text, and separates two.
        pad_token: str, token that fills up a batch.
        mask_token: str, token that hides another.
        **kwargs: of `keras_hub.tokenizers.WordPieceTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: if the vocabulary lacks a special token.

    Example:

    >>> from luna_tf.models import LunaWordPieceTokenizer
    >>> tokenizer = LunaWordPieceTokenizer(
    ...     ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "moon", "##s"])
    >>> [int(i) for i in tokenizer("moons")], tokenizer.mask_token_id
    ([5, 6], 3)
    """

    backbone_cls = LunaBackbone
    inner_mark = "##"

    def __init__(
        self,
        vocabulary=None,
        lowercase=False,
        start_token="[CLS]",
        end_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        **kwargs,
    ):
        self._name_special_tokens(
            start=start_token, end=end_token, pad=pad_token, mask=mask_token
        )
        self.unknown_token = kwargs.get("oov_token", "[UNK]")
        kwargs.setdefault("strip_accents", lowercase)
        super().__init__(vocabulary=vocabulary, lowercase=lowercase, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    def _bytes_of(self, token):
        if token.startswith(self.inner_mark):
            return len(token[len(self.inner_mark) :].encode())
        return len(token.encode()) + (not _stands_alone(token))

    @property
    def has_vocabulary(self):
        """Whether a vocabulary was set; loading a file sets it last."""
        return self.vocabulary is not None

    def set_vocabulary(self, vocabulary):
        """Sets the vocabulary.

        Args:
            vocabulary: see the constructor.
        """
        super().set_vocabulary(vocabulary)
        ids = None
        if self.has_vocabulary:
            ids = {token: i for i, token in enumerate(self.vocabulary)}
        self._number_special_tokens(ids, "vocabulary")

    def get_config(self):
        return {**super().get_config(), **self._special_token_config()}


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaBytePairTokenizer(
    _Vocabulary, keras_hub.tokenizers.BytePairTokenizer
):
    """Byte-pair tokenizer, that of GPT-2 and RoBERTa, for `LunaBackbone`.

    The official checkpoints use it; `luna-convert` makes one of their files.

    Args:
        vocabulary: dict of str to int, or str path of a JSON file with it.
        merges: list of str, or str path of a file with one per line.
        start_token: str, token that a text starts with.
        end_token: str, token that ends a text, and separates two.
        pad_token: str, token that fills up a batch.
        mask_token: str, token that hides another.
        **kwargs: of `keras_hub.tokenizers.BytePairTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: if the vocabulary lacks a special token.

    Example:

    >>> from luna_tf.models import LunaBytePairTokenizer
    >>> tokenizer = LunaBytePairTokenizer()  # the vocabulary comes later
    >>> tokenizer.has_vocabulary
    False
    """

    backbone_cls = LunaBackbone
    word_mark = "\u0120"
    line_marks = ("\u0109", "\u010a", "\u010d")  # tab, new line, return

    def __init__(
        self,
        vocabulary=None,
        merges=None,
        start_token="<s>",
        end_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
        **kwargs,
    ):
        self._name_special_tokens(
            start=start_token, end=end_token, pad=pad_token, mask=mask_token
        )
        # Or `<s>` in a text, which HTML may have, would be a special token.
        kwargs.setdefault("unsplittable_tokens", [])
        super().__init__(vocabulary=vocabulary, merges=merges, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    @property
    def has_vocabulary(self):
        """Whether a vocabulary was set; loading a file sets it last."""
        return self.vocabulary is not None

    def set_vocabulary_and_merges(self, vocabulary, merges):
        """Sets the vocabulary and the rules that make its tokens.

        Args:
            vocabulary: see the constructor.
            merges: see the constructor.
        """
        super().set_vocabulary_and_merges(vocabulary, merges)
        ids = self.vocabulary if self.has_vocabulary else None
        self._number_special_tokens(ids, "vocabulary")

    def _tokens(self):
        tokens = [""] * self.vocabulary_size()
        for token, index in self.vocabulary.items():
            tokens[index] = token
        return tokens

    def _bytes_of(self, token):
        return len(token)  # each byte is written as one character

    def get_config(self):
        return {**super().get_config(), **self._special_token_config()}


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaSentencePieceTokenizer(_Vocabulary, SpecialSentencePieceTokenizer):
    """SentencePiece tokenizer for `LunaBackbone`.

    Args:
        proto: str path or bytes of a SentencePiece model.
        start_token: str, piece that a text starts with.
        end_token: str, piece that ends a text, and separates two.
        pad_token: str, piece that fills up a batch.
        mask_token: str, piece that hides another.
        **kwargs: of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: if the vocabulary lacks a special token.

    Example:

    >>> from luna_tf.models import LunaSentencePieceTokenizer
    >>> tokenizer = LunaSentencePieceTokenizer()  # `set_proto` comes later
    >>> tokenizer.has_vocabulary
    False
    """

    backbone_cls = LunaBackbone
    word_mark = "\u2581"

    def __init__(
        self,
        proto=None,
        start_token="<s>",
        end_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
        **kwargs,
    ):
        super().__init__(
            proto, start_token, end_token, pad_token, mask_token, **kwargs
        )


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaByteTokenizer(SpecialTokens, keras_hub.tokenizers.ByteTokenizer):
    """One token per byte of UTF-8, for `LunaBackbone`.

    Nothing has to be learned, and no text is out of vocabulary. The special
    tokens are bytes that no text has: 0 is padding, and 253, 254 and 255,
    which are not valid in UTF-8, are mask, start and end. So there are 256
    tokens in all.

    Args:
        lowercase: bool, whether to fold case first.
        **kwargs: of `keras_hub.tokenizers.ByteTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: see `keras_hub.tokenizers.ByteTokenizer`.

    Example:

    >>> from luna_tf.models import LunaByteTokenizer
    >>> tokenizer = LunaByteTokenizer()
    >>> [int(i) for i in tokenizer("Luna")]
    [76, 117, 110, 97]
    >>> tokenizer.vocabulary_size(), tokenizer.special_token_ids
    (256, [0, 253, 254, 255])
    """

    backbone_cls = LunaBackbone
    has_vocabulary = True
    pad_token_id = 0
    mask_token_id = 253
    start_token_id = 254
    end_token_id = 255

    def __init__(self, lowercase=False, **kwargs):
        super().__init__(lowercase=lowercase, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    @property
    def special_tokens(self):
        """None: no special token can be written in a text."""
        return []

    @property
    def special_token_ids(self):
        """The ids of padding, mask, start and end."""
        return [
            self.pad_token_id,
            self.mask_token_id,
            self.start_token_id,
            self.end_token_id,
        ]

    def word_starts(self):
        """Returns which tokens begin a word, bool `(256,)`: white space."""
        starts = np.zeros(256, "bool")
        starts[[*b" \t\n\r", *self.special_token_ids]] = True
        return starts

    def token_bytes(self):
        """Returns how many bytes of UTF-8 tokens stand for, int32 `(256,)`."""
        counts = np.ones(256, "int32")
        counts[self.special_token_ids] = 0
        return counts

    def save_assets(self, dir_path):
        """Saves no file: there is no vocabulary to save."""

    def load_preset_assets(self, preset):
        """Loads no file: KerasHub would look for one."""
