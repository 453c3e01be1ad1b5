"""Weights under the names of the official fairseq code, both ways.

An official state dict maps names such as
`encoder.encoder.layers.0.self_attn.pq_proj.weight` to arrays, linear weights
as `(out, in)`. Which weight has which name is in `fairseq_names.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from luna_tf.interop.fairseq_names import entries_of

# Standard deviations of the two vectors that embed values, in both schemes.
_VALUES = {"value_gain": 1.0, "value_shift": 0.1}
# Entries of a state dict that are tables or bookkeeping, not weights.
_BUFFERS = re.compile(r"(^|\.)(version|_float_tensor|projected_positions)$")


def load_weights(
    target: Any,
    state_dict: Mapping[str, np.ndarray],
    prefix: str = "",
    layer_norm_offset: float = 0.0,
) -> None:
    """Loads official weights into a built layer or model of ours.

    Nothing is assigned unless everything fits.

    Args:
        target: Built `LunaAttention`, `LunaCausalAttention`,
            `PackedEmbedding`, `LunaEmbedding`, `LunaTransformerBlock`,
            `LunaDecoderBlock`, `LRAClassifier`, `LunaBackbone`,
            `LunaMaskedLM`, `LunaTextClassifier`, `LunaSeq2SeqBackbone` or
            `LunaSeq2SeqLM`; with softmax attention under the names of
            fairseq's Transformer.
        state_dict: Official name -> array. Names that do not start with
            `prefix` are ignored, and so are the official non-trainable tables.
        prefix: str, prepended to all names, such as `"encoder.layers.3."`.
        layer_norm_offset: float, added to stored layer norm gains: 1.0 for the
            newest official tree, which stores the gain minus one; 0.0 for the
            release of 2021 and its published checkpoints.

    Raises:
        TypeError: if there is no official counterpart of `target`.
        ValueError: naming every entry that is missing, unused, of a wrong
            shape or unlike another that is the same weight here, or if
            `target` has no weights yet.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaAttention
    >>> from luna_tf.interop import fairseq
    >>> layer = LunaAttention(num_heads=2)
    >>> _ = layer(np.ones((1, 5, 4)), np.ones((1, 3, 4)))
    >>> weights = fairseq.state_dict(layer)
    >>> fairseq.load_weights(layer, weights)
    """
    entries = {prefix + entry.name: entry for entry in entries_of(target)}
    changed = [
        name
        for name, entry in entries.items()
        if not isinstance(entry.variable, keras.Variable)
    ]
    if changed:
        raise ValueError(
            f"`target` {target.name!r} must not be quantized or have LoRA "
            f"enabled: load the official weights first. Changed: {changed}"
        )
    given = {
        name: np.asarray(array)
        for name, array in state_dict.items()
        if name.startswith(prefix) and not _BUFFERS.search(name)
    }
    tied = {
        prefix + alias: given.pop(prefix + alias)
        for entry in entries.values()
        for alias in entry.aliases
        if prefix + alias in given
    }
    problems = [f"missing: {name}" for name in entries if name not in given]
    problems += [f"unused: {name}" for name in given if name not in entries]
    problems += [
        f"wrong shape: {name} is {given[name].shape}, not {entry.shape}"
        for name, entry in entries.items()
        if name in given and given[name].shape != entry.shape
    ]
    problems += [
        f"not equal: {prefix + alias} and {name}, which are one weight here"
        for name, entry in entries.items()
        for alias in entry.aliases
        if name in given
        and not np.array_equal(
            tied.get(prefix + alias, given[name]), given[name]
        )
    ]
    if problems:
        raise ValueError(
            f"`state_dict` does not fit {target.name!r} with "
            f"prefix={prefix!r}:\n  " + "\n  ".join(problems)
        )
    for name, entry in entries.items():
        array = entry.from_official(given[name])
        if entry.role == "norm_gain":
            array = array + layer_norm_offset
        entry.variable.assign(array)


def state_dict(
    target: Any, prefix: str = "", layer_norm_offset: float = 0.0
) -> dict[str, np.ndarray]:
    """Returns the weights of a built layer or model under official names.

    Args:
        target: As in `load_weights`.
        prefix: str, prepended to all names.
        layer_norm_offset: float, subtracted from the layer norm gains.

    Returns:
        Official name -> float array in the official layout.

    Raises:
        TypeError: if there is no official counterpart of `target`.
        ValueError: if `target` has no weights yet.

    Example:

    >>> import numpy as np
    >>> from luna_tf import PackedEmbedding
    >>> from luna_tf.interop import fairseq
    >>> layer = PackedEmbedding(3)
    >>> _ = layer(np.ones((1, 5, 4)))
    >>> {k: v.shape for k, v in fairseq.state_dict(layer).items()}
    {'projected_embeddings': (3, 4)}
    """
    weights = {}
    for entry in entries_of(target):
        # A copy, because numpy warns about TensorFlow's variables.
        tensor = ops.copy(entry.variable)
        array = entry.to_official(ops.convert_to_numpy(tensor))
        if entry.role == "norm_gain":
            array = array - layer_norm_offset
        for name in (entry.name, *entry.aliases):
            weights[prefix + name] = array
    return weights


def initialize(target: Any, scheme: str = "fairseq", seed: int = 0) -> None:
    """Sets a built layer or model to the official random initialisation.

    Args:
        target: As in `load_weights`.
        scheme: `"fairseq"`, the default of the official modules (attention
            inputs Xavier with gain `1/sqrt(2)` and, unlike Keras, random
            biases; tables of standard deviation `D ** -0.5`), or `"bert"`
            (normal with standard deviation 0.02 and zero biases), which the
            paper's ListOps, Text and masked language models use. In both, `p`
            has standard deviation `D ** -0.5`, but for masked language models
            with `"bert"`, and the two vectors that embed values have 1 and
            0.1.
        seed: int.

    Raises:
        TypeError: if there is no official counterpart of `target`.
        ValueError: if `scheme` is unknown or `target` has no weights yet.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaAttention
    >>> from luna_tf.interop import fairseq
    >>> layer = LunaAttention(num_heads=2)
    >>> _ = layer(np.ones((1, 5, 4)), np.ones((1, 3, 4)))
    >>> fairseq.initialize(layer, "bert", seed=1)
    """
    if scheme not in ("fairseq", "bert"):
        raise ValueError(
            f"`scheme` must be 'fairseq' or 'bert'. Got: {scheme!r}"
        )
    draw = _bert if scheme == "bert" else _fairseq
    rng = np.random.default_rng(seed)
    entries = {entry.name: entry for entry in entries_of(target)}
    for name, entry in entries.items():
        # A bias is bounded by the number of inputs of its weight.
        weight = entries.get(re.sub(r"bias$", "weight", name), entry)
        role, shape = entry.role, entry.shape
        if role in _VALUES:
            array = rng.normal(size=shape) * _VALUES[role]
        else:
            array = draw(rng, role, shape, weight.shape[-1])
        entry.variable.assign(entry.from_official(array))


def _fairseq(rng, role, shape, inputs):
    if role == "norm_gain":
        return np.ones(shape)
    if role in ("norm_bias", "attention_output_bias"):
        return np.zeros(shape)
    if role in ("tokens", "positions", "packed", "mlm_packed", "token_output"):
        return rng.normal(size=shape) * shape[-1] ** -0.5
    if role == "attention_input":
        bound = (3 / sum(shape)) ** 0.5  # Xavier with gain 1/sqrt(2)
    elif role in ("attention_output", "output"):
        bound = (6 / sum(shape)) ** 0.5
    else:  # the default of a torch linear layer, for weight and bias
        bound = inputs**-0.5
    return rng.uniform(-bound, bound, size=shape)


def _bert(rng, role, shape, inputs):
    if role == "norm_gain":
        return np.ones(shape)
    if role.endswith("bias"):
        return np.zeros(shape)
    deviation = shape[-1] ** -0.5 if role == "packed" else 0.02
    return rng.normal(size=shape) * deviation
