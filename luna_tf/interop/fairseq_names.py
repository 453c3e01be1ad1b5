"""Official names of the weights of every layer and model.

Each of ours lists its entries once; loading, saving and the official
initialisation in `fairseq.py` all go through that list.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

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
        LunaBackbone,
        LunaMaskedLM,
        LunaSeq2SeqBackbone,
        LunaSeq2SeqLM,
        LunaTextClassifier,
    )


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
        return self.role in ("tokens", "positions", "packed", "mlm_packed")


def entries_of(target: Any) -> list[Entry]:
    """Returns the weights of a built layer or model under official names.

    Args:
        target: As in `fairseq.load_weights`.

    Raises:
        TypeError: if there is no official counterpart of `target`.
        ValueError: if `target` has no weights yet.
    """
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
    if layer.vocabulary_size is None:
        values = layer.value_embedding
        shape = (layer.hidden_dim,)
        yield Entry("embed_tokens.weight", values.kernel, "value_gain", shape)
        yield Entry("embed_tokens.bias", values.bias, "value_shift", shape)
    else:
        tokens = layer.token_embedding.embeddings
        yield from _table("embed_tokens.weight", tokens, "tokens")
    yield from _positions(layer)
    if layer.num_segments:
        segments = layer.segments.embeddings
        yield from _table("segment_embeddings.weight", segments, "tokens")
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
        entries = iter(entries_of(block))
        yield from _below(f"encoder.encoder.layers.{index}.", entries)
    *hidden, output = [layer for layer in model.head if layer.weights]
    for index, layer in enumerate(hidden):
        yield from _linear(f"classifier.{index}", layer, "dense")
    yield from _linear("sentence_projection_layer", output, "output")


def _sentence_encoder(model: LunaBackbone) -> Iterator[Entry]:
    for entry in _embedding(model.embedding):
        # Unlike that of the Long Range Arena, it is drawn as other tables are.
        is_packed = entry.role == "packed"
        yield dataclasses.replace(
            entry, role="mlm_packed" if is_packed else entry.role
        )
    for index, block in enumerate(model.blocks):
        entries = iter(entries_of(block))
        yield from _below(f"layers.{index}.", entries)
    if model.layer_norm is not None:
        yield from _layer_norm("layer_norm", model.layer_norm)
    if model.packed_layer_norm is not None:
        yield from _layer_norm("proj_layer_norm", model.packed_layer_norm)


def _masked_lm(model: LunaMaskedLM) -> Iterator[Entry]:
    head = {v.path.split("/", 1)[-1]: v for v in model.masked_lm_head.weights}
    shared = model.share_embeddings
    for entry in _sentence_encoder(model.backbone):
        is_table = entry.name == "embed_tokens.weight"
        yield dataclasses.replace(
            entry,
            name=f"encoder.sentence_encoder.{entry.name}",
            aliases=("encoder.lm_head.weight",) if shared and is_table else (),
        )
    for name, layer in (
        ("dense", "intermediate_dense"),
        ("layer_norm", "intermediate_layer_norm"),
    ):
        parts = types.SimpleNamespace(
            **{
                path.split("/")[-1]: variable
                for path, variable in head.items()
                if f"{layer}/" in path
            }
        )
        make = _layer_norm if name == "layer_norm" else _dense
        yield from make(f"encoder.lm_head.{name}", parts)
    size = (model.backbone.vocabulary_size,)
    yield Entry("encoder.lm_head.bias", head["output_bias"], "dense_bias", size)
    if not shared:
        kernel = head["output_kernel"]
        shape = (*size, model.backbone.hidden_dim)
        yield Entry("encoder.lm_head.weight", kernel, "dense", shape)


def _dense(name: str, layer: Any) -> Iterator[Entry]:
    return _linear(name, layer, "dense")


HEADS = {
    "first": "sentence_classification_head",
    "packed": "pooling_classification_head",
    "attention": "attention_classification_head",
}


def _text_classifier(model: LunaTextClassifier) -> Iterator[Entry]:
    yield from _below(
        "encoder.sentence_encoder.", _sentence_encoder(model.backbone)
    )
    name = f"classification_heads.{HEADS[model.pooling]}"
    if model.pooling == "packed":
        (project,) = model.pooling_layers
        yield from _dense(f"{name}.in_proj", project)
    if model.pooling == "attention":
        attend, norm = model.pooling_layers
        layers: dict[str, Any] = {}
        for variable in attend.weights:
            *_, layer, kind = variable.path.split("/")
            parts = layers.setdefault(layer, types.SimpleNamespace(bias=None))
            setattr(parts, kind, variable)
        for layer in ("query", "key", "value"):
            yield from _dense(f"{name}.attn.{layer[0]}_proj", layers[layer])
        output = layers["attention_output"]
        width = output.kernel.shape[-1]
        yield from _linear(f"{name}.attn.out_proj", output, "dense", width)
        yield from _layer_norm(f"{name}.layernorm", norm)
    yield from _dense(f"{name}.dense", model.dense)
    yield from _dense(f"{name}.out_proj", model.output_dense)


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
    "LunaBackbone": _sentence_encoder,
    "LunaMaskedLM": _masked_lm,
    "LunaTextClassifier": _text_classifier,
    "LunaSeq2SeqBackbone": _seq2seq,
    "LunaSeq2SeqLM": _seq2seq_lm,
}
