"""Weights under the names of the official fairseq code, both ways.

An official state dict maps names such as
`encoder.encoder.layers.0.self_attn.pq_proj.weight` to arrays, linear weights
as `(out, in)`. Each of our layers lists its entries once, in `_entries`;
loading, saving and the official initialisation all go through that list.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from luna_tf.layers import (
    LunaAttention,
    LunaCausalAttention,
    LunaDecoderBlock,
    LunaEmbedding,
    LunaTransformerBlock,
    PackedEmbedding,
)

if TYPE_CHECKING:  # KerasHub, which most of them need, is slow to import
    from luna_tf.models import (
        LRAClassifier,
        LunaSeq2SeqBackbone,
        LunaSeq2SeqLM,
    )

# Entries of a state dict that are tables or bookkeeping, not weights.
_BUFFERS = re.compile(r"(^|\.)(version|_float_tensor|projected_positions)$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One weight under its official name.

    Attributes:
        name: str, official name without the prefix.
        variable: The Keras variable.
        role: str, what it is: decides initialisation and layer norm offset.
        shape: tuple of int, official shape.
        aliases: tuple of str, further official names of the same weight.
    """

    name: str
    variable: Any
    role: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()

    def from_official(self, array: np.ndarray) -> np.ndarray:
        """Brings an array of the official layout into ours."""
        if len(self.shape) == 2 and not self._is_table:
            array = array.T
        return array.reshape(self.variable.shape)

    def to_official(self, array: np.ndarray) -> np.ndarray:
        """Brings an array of our layout into the official one."""
        array = np.asarray(array)
        if len(self.shape) == 2 and not self._is_table:
            return array.reshape(self.shape[::-1]).T
        return array.reshape(self.shape)

    @property
    def _is_table(self) -> bool:
        return self.role in ("tokens", "positions", "packed")


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
            `LunaDecoderBlock`, `LRAClassifier`, `LunaSeq2SeqBackbone` or
            `LunaSeq2SeqLM`.
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
    entries = {prefix + entry.name: entry for entry in _entries_of(target)}
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
    for entry in _entries_of(target):
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
            paper's ListOps and Text models use. `p` has standard deviation
            `D ** -0.5` in both.
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
    rng = np.random.default_rng(seed)
    entries = {entry.name: entry for entry in _entries_of(target)}
    for name, entry in entries.items():
        # A bias is bounded by the number of inputs of its weight.
        weight = entries.get(re.sub(r"bias$", "weight", name), entry)
        draw = _bert if scheme == "bert" else _fairseq
        array = draw(rng, entry.role, entry.shape, weight.shape[-1])
        entry.variable.assign(entry.from_official(array))


def _fairseq(rng, role, shape, inputs):
    if role == "norm_gain":
        return np.ones(shape)
    if role in ("norm_bias", "attention_output_bias"):
        return np.zeros(shape)
    if role in ("tokens", "positions", "packed", "token_output"):
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


def _entries_of(target: Any) -> list[Entry]:
    for cls in type(target).__mro__:
        entries = _ENTRIES.get(cls.__name__)
        if entries is not None and cls.__module__.startswith("luna_tf."):
            if not target.weights:
                raise ValueError(
                    f"`target` {target.name!r} has no weights yet: build it, "
                    "or call it once."
                )
            return list(entries(target))
    allowed = list(_ENTRIES)
    raise TypeError(f"`target` must be one of {allowed}. Got: {target!r}")


def _below(prefix: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    for entry in entries:
        yield dataclasses.replace(entry, name=prefix + entry.name)


def _linear(
    name: str, layer: Any, role: str, outputs: int | None = None
) -> Iterator[Entry]:
    # `EinsumDense` has kernels of rank 3; the last axes are the outputs,
    # unless the caller knows better.
    shape = tuple(layer.kernel.shape)
    outputs = outputs or int(np.prod(shape[1:]))
    inputs = int(np.prod(shape)) // outputs
    yield Entry(f"{name}.weight", layer.kernel, role, (outputs, inputs))
    if layer.bias is not None:
        yield Entry(f"{name}.bias", layer.bias, f"{role}_bias", (outputs,))


def _layer_norm(name: str, layer: Any) -> Iterator[Entry]:
    shape = tuple(layer.gamma.shape)
    yield Entry(f"{name}.weight", layer.gamma, "norm_gain", shape)
    yield Entry(f"{name}.bias", layer.beta, "norm_bias", shape)


def _attention(layer: LunaAttention) -> Iterator[Entry]:
    names = {"pq_proj": layer.pack_query, "q_proj": layer.query}
    if layer.tie_key_value:
        names |= {"pc_proj": layer.pack_key_value, "c_proj": layer.key_value}
    else:
        names |= {
            "pk_proj": layer.pack_key,
            "pv_proj": layer.pack_value,
            "k_proj": layer.key,
            "v_proj": layer.value,
        }
    yield from _projections(names, layer)


def _causal_attention(layer: LunaCausalAttention) -> Iterator[Entry]:
    names = {
        "pq_proj": layer.pack_query,
        "pc_proj": layer.pack_key,
        "q_proj": layer.query,
    }
    if layer.tie_key_value:
        names |= {"c_proj": layer.key_value}
    else:
        names |= {"k_proj": layer.key, "v_proj": layer.value}
    yield from _projections(names, layer)


def _projections(names: Mapping[str, Any], layer: Any) -> Iterator[Entry]:
    for name, projection in names.items():
        yield from _linear(name, projection, "attention_input")
    output = layer.attention_output
    width = output.kernel.shape[-1]
    yield from _linear("out_proj", output, "attention_output", width)


def _block(layer: LunaTransformerBlock) -> Iterator[Entry]:
    yield from _below("self_attn.", _attention(layer.self_attention))
    yield from _layer_norm(
        "self_attn_layer_norm", layer.self_attention_layer_norm
    )
    yield from _layer_norm(
        "self_atten_proj_layer_norm",
        layer.packed_layer_norm,  # sic
    )
    yield from _feedforward(layer)


def _decoder_block(layer: LunaDecoderBlock) -> Iterator[Entry]:
    yield from _below("self_attn.", _causal_attention(layer.self_attention))
    yield from _layer_norm(
        "self_attn_layer_norm", layer.self_attention_layer_norm
    )
    if layer.has_cross_attention:
        yield from _below("encoder_attn.", _attention(layer.cross_attention))
        yield from _layer_norm(
            "encoder_attn_layer_norm", layer.cross_attention_layer_norm
        )
        yield from _layer_norm(
            "encoder_atten_proj_layer_norm",
            layer.packed_layer_norm,  # sic
        )
    yield from _feedforward(layer)


def _softmax_block(block: Any) -> Iterator[Entry]:
    """fairseq's Transformer blocks, of the encoder and of the decoder.

    KerasHub's decoder block keeps its layers to itself: weights are found by
    their paths.
    """
    layers: dict[str, Any] = {}
    for variable in block.weights:
        *_, parent, name, kind = f"{variable.path}".split("/")
        inner = name if parent == block.name else f"{parent}/{name}"
        layer = layers.setdefault(inner, types.SimpleNamespace(bias=None))
        setattr(layer, kind, variable)
    for ours, theirs in (
        ("self_attention", "self_attn"),
        ("cross_attention", "encoder_attn"),
    ):
        if f"{ours}_layer_norm" not in layers:
            continue
        for name in ("query", "key", "value"):
            yield from _linear(
                f"{theirs}.{name[0]}_proj",
                layers[f"{ours}/{name}"],
                "attention_input",
            )
        output = layers[f"{ours}/attention_output"]
        width = output.kernel.shape[-1]
        yield from _linear(
            f"{theirs}.out_proj", output, "attention_output", width
        )
        norm = layers[f"{ours}_layer_norm"]
        yield from _layer_norm(f"{theirs}_layer_norm", norm)
    yield from _layer_norm("final_layer_norm", layers["feedforward_layer_norm"])
    for name, ours in (("fc1", "intermediate"), ("fc2", "output")):
        dense = layers[f"feedforward_{ours}_dense"]
        yield from _linear(name, dense, "dense")


def _feedforward(layer: Any) -> Iterator[Entry]:
    yield from _layer_norm("final_layer_norm", layer.feedforward_layer_norm)
    yield from _linear("fc1", layer.feedforward_intermediate_dense, "dense")
    yield from _linear("fc2", layer.feedforward_output_dense, "dense")


def _table(name: str, variable: Any, role: str) -> Iterator[Entry]:
    yield Entry(name, variable, role, tuple(variable.shape))


def _packed(layer: PackedEmbedding) -> Iterator[Entry]:
    yield from _table("projected_embeddings", layer.embeddings, "packed")


def _embedding(layer: LunaEmbedding) -> Iterator[Entry]:
    if layer.packed_embedding is not None:
        yield from _packed(layer.packed_embedding)
    tokens = layer.token_embedding.embeddings
    yield from _table("embed_tokens.weight", tokens, "tokens")
    yield from _positions(layer)
    if layer.normalize:
        yield from _layer_norm("emb_layer_norm", layer.layer_norm)
        if layer.packed_embedding is not None:
            norm = layer.packed_layer_norm
            yield from _layer_norm("proj_emb_layer_norm", norm)


def _positions(layer: LunaEmbedding) -> Iterator[Entry]:
    if layer.position_embedding == "learned":
        positions = layer.positions.embeddings
        yield from _table("embed_positions.weight", positions, "positions")


def _lra(model: LRAClassifier) -> Iterator[Entry]:
    yield from _below("encoder.encoder.", _embedding(model.embedding))
    for index, block in enumerate(model.blocks):
        entries = _ENTRIES[type(block).__name__]
        yield from _below(f"encoder.encoder.layers.{index}.", entries(block))
    *hidden, output = [layer for layer in model.head if layer.weights]
    for index, layer in enumerate(hidden):
        yield from _linear(f"classifier.{index}", layer, "dense")
    yield from _linear("sentence_projection_layer", output, "output")


def _token_tables(model: LunaSeq2SeqBackbone) -> Iterator[Entry]:
    shape = (model.vocabulary_size, model.hidden_dim)
    names = [
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.output_projection.weight",
    ]
    if model.share_embeddings != "all":
        own = model.encoder_embedding.token_embedding.embeddings
        yield Entry(names.pop(0), own, "tokens", shape)
    table = model.token_embedding
    if model.share_embeddings == "none":
        output = table.reverse_embeddings
        yield Entry(names.pop(), output, "token_output", shape)
    name, *aliases = names
    yield Entry(name, table.embeddings, "tokens", shape, tuple(aliases))


def _seq2seq(model: LunaSeq2SeqBackbone) -> Iterator[Entry]:
    yield from _token_tables(model)
    luna = model.attention == "luna"
    if luna:
        yield from _below(
            "encoder.", _packed(model.encoder_embedding.packed_embedding)
        )
    for side, embedding, blocks, entries in (
        ("encoder", model.encoder_embedding, model.encoder_blocks, _block),
        (
            "decoder",
            model.decoder_embedding,
            model.decoder_blocks,
            _decoder_block,
        ),
    ):
        yield from _below(f"{side}.", _positions(embedding))
        if embedding.normalize:
            yield from _layer_norm(
                f"{side}.layernorm_embedding", embedding.layer_norm
            )
        for index, block in enumerate(blocks):
            of_block = entries(block) if luna else _softmax_block(block)
            yield from _below(f"{side}.layers.{index}.", of_block)
    if luna and model.encoder_embedding.normalize:
        norm = model.encoder_embedding.packed_layer_norm
        yield from _layer_norm(
            "encoder.layernorm_porjected_embedding", norm
        )  # sic
    if model.normalize_first and not luna:
        for side in ("encoder", "decoder"):
            norm = getattr(model, f"{side}_layer_norm")
            yield from _layer_norm(f"{side}.layer_norm", norm)
    elif model.normalize_first:
        decoder_norm = model.decoder_layer_norm
        for name, norm in (
            ("encoder.layer_norm", model.encoder_layer_norm),
            ("encoder.proj_layer_norm", model.encoder_packed_layer_norm),
            ("decoder.layer_norm", decoder_norm.layer_norm),
            ("decoder.proj_layer_norm", decoder_norm.packed_layer_norm),
        ):
            yield from _layer_norm(name, norm)


def _seq2seq_lm(model: LunaSeq2SeqLM) -> Iterator[Entry]:
    yield from _seq2seq(model.backbone)


# By name, so that the classes need not be imported.
_ENTRIES: dict[str, Callable[[Any], Iterator[Entry]]] = {
    "LunaAttention": _attention,
    "LunaCausalAttention": _causal_attention,
    "LunaTransformerBlock": _block,
    "LunaDecoderBlock": _decoder_block,
    "SoftmaxTransformerBlock": _softmax_block,
    "PackedEmbedding": _packed,
    "LunaEmbedding": _embedding,
    "LRAClassifier": _lra,
    "LunaSeq2SeqBackbone": _seq2seq,
    "LunaSeq2SeqLM": _seq2seq_lm,
}
