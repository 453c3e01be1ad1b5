"""A SentencePiece tokenizer with named special tokens."""

import pathlib

from keras_hub import tokenizers

from luna_tf.models._special_tokens import SpecialTokens


class SpecialSentencePieceTokenizer(
    SpecialTokens, tokenizers.SentencePieceTokenizer
):
    """`SentencePieceTokenizer` of which a task knows the special tokens.

    Args:
        proto: str path or bytes of a SentencePiece model, see
            `keras_hub.tokenizers.SentencePieceTokenizer`.
        start_token: str, piece that decoding starts from.
        end_token: str, piece that ends a text.
        pad_token: str, piece that fills up a batch.
        mask_token: str, piece that hides another, or None.
        **kwargs: of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Raises:
        ValueError: if the vocabulary lacks one of them.
    """

    def __init__(
        self,
        proto=None,
        start_token="</s>",
        end_token="</s>",
        pad_token="<pad>",
        mask_token=None,
        **kwargs,
    ):
        self._name_special_tokens(
            start=start_token, end=end_token, pad=pad_token, mask=mask_token
        )
        super().__init__(proto=proto, **kwargs)
        # Or `quantize` of a task asks to call the tokenizer first.
        self.built = True

    def set_proto(self, proto):
        """Sets the vocabulary.

        Args:
            proto: str path or bytes of a SentencePiece model, or None.
        """
        super().set_proto(proto)
        ids = None
        if self.has_vocabulary:
            ids = {t: i for i, t in enumerate(self.get_vocabulary())}
        try:
            self._number_special_tokens(ids, "proto")
        except ValueError as error:
            raise ValueError(
                f"{error}. (SentencePiece makes no padding piece unless "
                "trained with `pad_id`, and no other piece unless it is among "
                "`control_symbols`.)"
            ) from None

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

    def get_config(self):
        return {**super().get_config(), **self._special_token_config()}
