"""Official masked-language-model checkpoints as models of ours, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from luna_tf.interop import fairseq

_ENCODER = "encoder.sentence_encoder."
_HEADS = "classification_heads."


class CheckpointError(ValueError):
    """A checkpoint that cannot become a model of ours."""


def official_weights(checkpoint: Any) -> dict[str, np.ndarray]:
    """The weights of an official checkpoint under the names of its code.

    Args:
        checkpoint: what `read_torch_file` returned: the state dictionary, or
            a dictionary that has it as `"model"`.

    Returns:
        Official name -> float32 array.

    Raises:
        CheckpointError: there are none.
    """
    state = checkpoint
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping):
        raise CheckpointError("the file holds no state dictionary.")
    weights = {}
    for name, array in state.items():
        if isinstance(array, np.ndarray):
            # fairseq itself once called the encoder of a RoBERTa `decoder`.
            name = re.sub(r"^decoder\.", "encoder.", str(name))
            is_float = np.issubdtype(array.dtype, np.floating)
            weights[name] = array.astype("float32") if is_float else array
    if not any(name.startswith(_ENCODER) for name in weights):
        shown = ", ".join(list(weights)[:3]) or "none"
        raise CheckpointError(
            f"the file has no weights below {_ENCODER!r}, as Luna's masked "
            f"language models have. Its first ones: {shown}."
        )
    return weights


def backbone_arguments(
    weights: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    num_heads: int | None = None,
) -> dict[str, Any]:
    """The arguments of `LunaBackbone` that official weights ask for.

    Sizes follow from the weights; the rest from the options that fairseq
    saves beside them, or its defaults.

    Args:
        weights: from `official_weights`.
        options: fairseq's, by its names, such as `encoder_attention_heads`.
        num_heads: heads, where the options do not say.

    Returns:
        Argument name -> value.

    Raises:
        CheckpointError: something is missing.
    """
    own = {
        name[len(_ENCODER) :]: array
        for name, array in weights.items()
        if name.startswith(_ENCODER)
    }
    missing = [
        name
        for name in (
            "embed_tokens.weight",
            "projected_embeddings",
            "layers.0.fc1.weight",
        )
        if name not in own
    ]
    if missing:
        raise CheckpointError(
            f"the file has no {', '.join(missing)} below {_ENCODER!r}: it is "
            "not of Luna's masked language model."
        )
    heads = num_heads or options.get("encoder_attention_heads")
    if heads is None:
        raise CheckpointError(
            "the file does not say how many attention heads the model has: "
            "give `num_heads`."
        )
    vocabulary_size, hidden_dim = own["embed_tokens.weight"].shape
    learned = "embed_positions.weight" in own
    layers = {int(n.split(".")[1]) for n in own if n.startswith("layers.")}
    # Learned positions count from the row behind that of padding, 1.
    first_position = 2
    arguments = {
        "vocabulary_size": vocabulary_size,
        "num_layers": max(layers) + 1,
        "num_heads": int(heads),
        "num_pack_heads": int(
            options.get("encoder_projected_attention_heads") or heads
        ),
        "hidden_dim": hidden_dim,
        "intermediate_dim": own["layers.0.fc1.weight"].shape[0],
        "packed_length": own["projected_embeddings"].shape[0],
        "tie_key_value": "layers.0.self_attn.pc_proj.weight" in own,
        "activation": options.get("activation_fn") or "gelu",
        "normalize_first": "layer_norm.weight" in own,
        "normalize_embeddings": "emb_layer_norm.weight" in own,
        "position_embedding": "learned" if learned else "sinusoidal",
        "embedding_scale": 1.0 if learned else float(hidden_dim) ** 0.5,
        "first_position": first_position,
        "dynamic_packing": not options.get("fix_projection_length", False),
        "num_segments": 0,
    }
    if learned:
        rows = own["embed_positions.weight"].shape[0]
        arguments["max_sequence_length"] = rows - first_position
    if "segment_embeddings.weight" in own:
        arguments["num_segments"] = own["segment_embeddings.weight"].shape[0]
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        if isinstance(options.get(name), (int, float)):
            arguments[name] = float(options[name])
    if arguments["activation"] not in ("gelu", "relu", "tanh"):
        raise CheckpointError(
            f"the activation {arguments['activation']!r} is not known: "
            "allowed are gelu, relu and tanh."
        )
    return arguments


def layer_norm_offset(weights: Mapping[str, np.ndarray]) -> float:
    """What is to be added to the layer norm gains of a checkpoint.

    The newest official tree stores them minus one, so that they start at 0;
    the release of 2021 does not.

    Args:
        weights: from `official_weights`.
    """
    gains = [
        array.mean()
        for name, array in weights.items()
        if re.search(r"layer_norm\.weight$", name)
    ]
    return 1.0 if gains and np.median(gains) < 0.5 else 0.0


def masked_lm(
    weights: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    num_heads: int | None = None,
    preprocessor: Any = None,
    gain_offset: float | None = None,
) -> Any:
    """Makes a `LunaMaskedLM` of official weights.

    Args:
        weights: from `official_weights`.
        options: see `backbone_arguments`.
        num_heads: see there.
        preprocessor: of the model, or None.
        gain_offset: added to layer norm gains; None finds out, see
            `layer_norm_offset`.

    Returns:
        The model. Classification heads are left out.

    Raises:
        CheckpointError: the weights do not fit.
    """
    from luna_tf.models import LunaBackbone, LunaMaskedLM

    arguments = backbone_arguments(weights, options, num_heads)
    own = {k: v for k, v in weights.items() if not k.startswith(_HEADS)}
    table = own[f"{_ENCODER}embed_tokens.weight"]
    output = own.get("encoder.lm_head.weight")
    shared = output is None or np.array_equal(output, table)
    try:
        model = LunaMaskedLM(
            LunaBackbone(**arguments),
            preprocessor=preprocessor,
            share_embeddings=shared,
        )
        fairseq.load_weights(
            model, own, layer_norm_offset=_offset(weights, gain_offset)
        )
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return model


def _offset(weights: Mapping[str, np.ndarray], given: float | None) -> float:
    return layer_norm_offset(weights) if given is None else given


def text_classifier(
    weights: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    head: str,
    num_heads: int | None = None,
    preprocessor: Any = None,
    gain_offset: float | None = None,
) -> Any:
    """Makes a `LunaTextClassifier` of official weights with a head.

    Args:
        weights: from `official_weights`.
        options: see `backbone_arguments`.
        head: its name in the checkpoint, such as
            `sentence_classification_head`.
        num_heads: see `backbone_arguments`.
        preprocessor: of the model, or None.
        gain_offset: see `masked_lm`.

    Returns:
        The model.

    Raises:
        CheckpointError: there is no such head, or the weights do not fit.
    """
    from luna_tf.interop.fairseq_names import HEADS
    from luna_tf.models import LunaBackbone, LunaTextClassifier

    prefix = f"{_HEADS}{head}."
    of_head = {
        name[len(prefix) :]: array
        for name, array in weights.items()
        if name.startswith(prefix)
    }
    if not of_head:
        known = sorted(
            {n.split(".")[1] for n in weights if n.startswith(_HEADS)}
        )
        raise CheckpointError(
            f"the file has no head {head!r}. Its heads: "
            f"{', '.join(known) or 'none'}."
        )
    pooling = "first"
    if "in_proj.weight" in of_head:
        pooling = "packed"
    if "attn.q_proj.weight" in of_head:
        pooling = "attention"
    arguments = backbone_arguments(weights, options, num_heads)
    own = {k: v for k, v in weights.items() if k.startswith(_ENCODER)}
    own |= {f"{_HEADS}{HEADS[pooling]}.{k}": v for k, v in of_head.items()}
    try:
        model = LunaTextClassifier(
            LunaBackbone(**arguments),
            num_classes=of_head["out_proj.weight"].shape[0],
            preprocessor=preprocessor,
            pooling=pooling,
            hidden_dim=of_head["dense.weight"].shape[0],
        )
        fairseq.load_weights(
            model, own, layer_norm_offset=_offset(weights, gain_offset)
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(str(error)) from error
    return model


def options_of(checkpoint: Any) -> dict[str, Any]:
    """The options that fairseq saved beside the weights, by its names.

    Args:
        checkpoint: what `read_torch_file` returned.

    Returns:
        Name to value; empty where there are none.
    """
    if not isinstance(checkpoint, Mapping):
        return {}
    for name in ("args", "cfg"):
        found = checkpoint.get(name)
        if found is None:
            continue
        if isinstance(found, Mapping):
            found = found.get("model", found)
        if not isinstance(found, Mapping):
            found = vars(found)
        if found:
            return dict(found)
    return {}


def gpt2_vocabulary(
    dictionary: str, encoder: str, merges: str
) -> tuple[dict[str, int], list[str]]:
    """Subwords of an official model, as `LunaBytePairTokenizer` takes them.

    fairseq numbers the numbers of GPT-2's subwords anew, by its dictionary.

    Args:
        dictionary: content of `dict.txt`: a number of GPT-2 and a count on
            each line.
        encoder: content of `encoder.json`: GPT-2's subwords and numbers.
        merges: content of `vocab.bpe`.

    Returns:
        The vocabulary and the merges.

    Raises:
        CheckpointError: a file is not what it should be.
    """
    try:
        words = {int(v): str(k) for k, v in json.loads(encoder).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"encoder.json is not a JSON object of numbers: {error}"
        ) from error
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for number, line in enumerate(dictionary.splitlines(), 1):
        line = line.removesuffix(" #fairseq:overwrite")
        word, _, count = line.rpartition(" ")
        if not word or not count.isdecimal():
            raise CheckpointError(
                f"dict.txt, line {number}: expected a token and a count, got "
                f"{line[:60]!r}."
            )
        if word.isdecimal():
            if int(word) not in words:
                raise CheckpointError(
                    f"dict.txt, line {number}: encoder.json has no subword "
                    f"{word}."
                )
            word = words[int(word)]
        # Words that only fill the dictionary up stand for themselves.
        vocabulary[word] = len(vocabulary)
    vocabulary["<mask>"] = len(vocabulary)
    lines = merges.splitlines()
    pairs = [line for line in lines if line and not line.startswith("#version")]
    if any(len(line.split(" ")) != 2 for line in pairs):
        raise CheckpointError("vocab.bpe must have two subwords on each line.")
    return vocabulary, pairs
