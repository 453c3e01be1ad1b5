"""A SentencePiece tokenizer with named start, end and padding tokens."""

import pathlib

from keras_hub import tokenizers


class SpecialSentencePieceTokenizer(tokenizers.SentencePieceTokenizer):
    """`SentencePieceTokenizer` of which a task knows the special tokens.

    KerasHub's own way to declare them is private. This one needs public names
    only: `set_proto`, which constructor and loading go through, and the two
    properties that tasks read.

    Args:
        proto: str path or bytes of a SentencePiece model, see
            `keras_hub.tokenizers.SentencePieceTokenizer`.
        start_token: str, piece that decoding starts from.
        end_token: str, piece that ends a text.
        pad_token: str, piece that fills up a batch.
        **kwargs: of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Raises:
        ValueError: if the vocabulary lacks one of the three.
    """

    def __init__(
        self,
        proto=None,
        start_token="</s>",
        end_token="</s>",
        pad_token="<pad>",
        **kwargs,
    ):
        self.start_token = start_token
        self.end_token = end_token
        self.pad_token = pad_token
        super().__init__(proto=proto, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    def set_proto(self, proto):
        """Sets the vocabulary.

        Args:
            proto: str path or bytes of a SentencePiece model, or None.
        """
        super().set_proto(proto)
        self.start_token_id = self.end_token_id = self.pad_token_id = None
        if not self.has_vocabulary:
            return
        vocabulary = self.get_vocabulary()
        missing = [t for t in self.special_tokens if t not in vocabulary]
        if missing:
            raise ValueError(
                "`proto` must have the pieces of `start_token`, `end_token` "
                f"and `pad_token`. Missing: {missing}. (SentencePiece makes no "
                "padding piece unless trained with `pad_id`.)"
            )
        self.start_token_id = vocabulary.index(self.start_token)
        self.end_token_id = vocabulary.index(self.end_token)
        self.pad_token_id = vocabulary.index(self.pad_token)

    def load_assets(self, dir_path):
        """Sets the vocabulary from a folder of a preset or Keras file.

        Args:
            dir_path: str, the folder.
        """
        # KerasHub would leave the file open.
        path = pathlib.Path(dir_path) / self.file_assets[0]
        self.set_proto(path.read_bytes())

    @property
    def has_vocabulary(self):
        """Whether a vocabulary was set; loading a file sets it last."""
        return self.proto is not None

    @property
    def special_tokens(self):
        """The special tokens, each once."""
        return sorted({self.start_token, self.end_token, self.pad_token})

    @property
    def special_token_ids(self):
        """The ids of the special tokens, each once."""
        ids = {self.start_token_id, self.end_token_id, self.pad_token_id}
        if None in ids:
            raise ValueError("`proto` must be set first. Got: None")
        return sorted(ids)

    def get_config(self):
        return {
            **super().get_config(),
            "start_token": self.start_token,
            "end_token": self.end_token,
            "pad_token": self.pad_token,
        }
