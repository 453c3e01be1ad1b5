"""Models: layers wired together.

The import registers all of them with Keras and KerasHub, which is what loading
a preset takes. Our own programs load a model when they ask for it: KerasHub is
slow to import, and not all of them need it.
"""

import importlib

from luna_tf import _startup

_MODULES = {
    "LRAClassifier": "lra_classifier",
    "LunaBackbone": "luna_backbone",
    "LunaBytePairTokenizer": "luna_tokenizers",
    "LunaByteTokenizer": "luna_tokenizers",
    "LunaCausalLM": "luna_causal_lm",
    "LunaCausalLMBackbone": "luna_causal_lm_backbone",
    "LunaCausalLMByteTokenizer": "luna_causal_lm_byte_tokenizer",
    "LunaCausalLMPreprocessor": "luna_causal_lm_preprocessor",
    "LunaCausalLMTokenizer": "luna_causal_lm_tokenizer",
    "LunaMaskedLM": "luna_masked_lm",
    "LunaMaskedLMPreprocessor": "luna_masked_lm_preprocessor",
    "LunaSentencePieceTokenizer": "luna_tokenizers",
    "LunaSeq2SeqBackbone": "luna_seq2seq_backbone",
    "LunaSeq2SeqLM": "luna_seq2seq_lm",
    "LunaSeq2SeqLMPreprocessor": "luna_seq2seq_lm_preprocessor",
    "LunaSeq2SeqTokenizer": "luna_seq2seq_tokenizer",
    "LunaTextClassifier": "luna_text_classifier",
    "LunaTextClassifierPreprocessor": "luna_text_classifier_preprocessor",
    "LunaWordPieceTokenizer": "luna_tokenizers",
}
__all__ = list(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def import_all():
    """Registers all models with Keras and KerasHub, in our own programs too."""
    for name in _MODULES:
        globals()[name] = __getattr__(name)


if not _startup.is_own_program():
    import_all()
