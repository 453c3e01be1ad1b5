"""Subword tokenizer of the sequence-to-sequence models."""

import keras

from luna_tf.models._sentence_piece import SpecialSentencePieceTokenizer
from luna_tf.models.luna_seq2seq_backbone import LunaSeq2SeqBackbone


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaSeq2SeqTokenizer(SpecialSentencePieceTokenizer):
    """SentencePiece tokenizer for `LunaSeq2SeqLM`.

    Source and target share the vocabulary. The default special tokens are
    fairseq's: decoding starts from the end of a sentence.

    Args:
        proto: str path or bytes of a SentencePiece model.
        start_token: str, piece that decoding starts from.
        end_token: str, piece that ends a text.
        pad_token: str, piece that fills up a batch.
        **kwargs: of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Call arguments:
        inputs: str, or a list or tensor of them.

    Returns:
        int32 token ids, ragged for a batch.

    Raises:
        ValueError: if the vocabulary lacks a special token.

    Example:

    >>> import io
    >>> import sentencepiece
    >>> from luna_tf.models import LunaSeq2SeqTokenizer
    >>> model = io.BytesIO()
    >>> sentencepiece.SentencePieceTrainer.train(
    ...     sentence_iterator=iter(["in the beginning", "the end"]),
    ...     model_writer=model, vocab_size=14, bos_id=0, pad_id=1, eos_id=2,
    ...     unk_id=3, pad_piece="<pad>", minloglevel=2)
    >>> tokenizer = LunaSeq2SeqTokenizer(model.getvalue())
    >>> tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.pad_token_id
    (2, 2, 1)
    """

    backbone_cls = LunaSeq2SeqBackbone
