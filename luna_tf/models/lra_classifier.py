"""Sequence classifier of the Long Range Arena, with Luna or its baseline."""

import keras
from keras import ops

from luna_tf.layers import LunaEmbedding, LunaPooling, LunaTransformerBlock
from luna_tf.layers._arguments import (
    check_choice,
    check_positive,
    check_rate,
)
from luna_tf.layers.luna_pooling import POOLING
from luna_tf.models.lra_head import (
    PAIR_FEATURES,
    join_pairs,
    make_head,
)
from luna_tf.models.lra_inputs import (
    check_inputs,
    make_input,
    stack_documents,
)
from luna_tf.models.lra_mixers import find_mixer


@keras.saving.register_keras_serializable(package="luna_tf")
class LRAClassifier(keras.Model):
    """Luna encoder and classification head of the Long Range Arena.

    Embedding with layer norms on both sequences, `num_layers` blocks, pooling,
    and a head of one or two dense layers, the last without bias. The defaults
    are those of the paper's models; the sizes are the official `luna_lra_*`
    architectures' (Luna paper, section 4.1 and appendix).

    With `attention="softmax"` it is the baseline: the same encoder with
    softmax attention in its blocks and without a packed sequence. With
    `num_documents=2` it compares two texts (Retrieval): one encoder reads
    both, and the head sees the features of the pair.

    Args:
        vocabulary_size: int, number of token ids. None with values.
        num_classes: int, number of classes.
        max_sequence_length: int, longest input that learned positions cover.
        num_layers: int, how often a block is applied.
        num_heads: int, heads of the unpack attentions.
        hidden_dim: int, width `D`.
        intermediate_dim: int, width of the feed-forward networks.
        packed_length: int, rows `L` of the packed sequence. Not used with
            softmax attention.
        num_pack_heads: int, heads of the pack attentions. Defaults to
            `num_heads`.
        tie_key_value: bool, see `LunaAttention`. The official LRA models are
            untied.
        share_layers: bool, whether one block is applied `num_layers` times.
        dynamic_packing: bool, see `PackedEmbedding`.
        dropout: float in [0, 1), on embeddings and residual branches.
        attention_dropout: float in [0, 1). Defaults to `dropout`.
        activation_dropout: float in [0, 1), after the activation.
        activation: Activation of the feed-forward networks.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"`.
        first_position: int, see `LunaEmbedding`.
        embedding_scale: float, see `LunaEmbedding`.
        pooling: `"cls"` (first token), `"mean"` or `"packed"`.
        pooling_includes_padding: bool, see `LunaPooling`.
        head_hidden_dim: int, width of a ReLU layer before the output layer, or
            None for none.
        head_dropout: float in [0, 1), on the pooled vector.
        padding_id: int, token id of padding, or None when nothing is padding.
        positions_skip_padding: bool, see `LunaEmbedding`; False for pixels of
            which the black ones are padding.
        max_real_tokens: int, most tokens of a row without its padding, which
            is then dropped (`LunaEmbedding`): the same logits at less cost
            where much is padding, as black pixels may be. None computes
            padding too.
        normalize_first: bool; True is pre-norm, False (the paper) post-norm.
        contraction: `"auto"`, `"direct"` or `"absorbed"`, see `LunaAttention`.
        remat: bool, see `LunaTransformerBlock`.
        seed: int, seed of all dropouts.
        dtype: dtype or policy of all layers but the output, which is float32.
        attention: `"luna"`, `"softmax"` or another name in
            `lra_mixers.MIXERS`. With softmax, arguments that are Luna's alone
            must keep their defaults, and `pooling` cannot be `"packed"`.
        num_documents: 1 or 2, texts per example.
        pair_features: `"concatenation"` (the second document's vector, then
            the first's) or `"interaction"` (both, their product and their
            difference): what the head sees of two documents.
        input_type: `"tokens"`, or `"values"` for sequences of real numbers such
            as grey levels. Each is multiplied by a vector, and another vector
            is added; nothing is padding, and `padding_id` must be None.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        token_ids: integer tensor `(B, T)`, or `(B, 2, T)` with two documents.
            In place of it, with values, `pixel_values`: float tensor.

    Returns:
        Logits `(B, num_classes)`, float32.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf.models import LRAClassifier
    >>> model = LRAClassifier(18, 10, 100, num_layers=2, num_heads=4,
    ...                       hidden_dim=32, intermediate_dim=64,
    ...                       packed_length=8)
    >>> tuple(model(np.array([[1, 5, 6, 2]])).shape)
    (1, 10)
    """

    def __init__(
        self,
        vocabulary_size,
        num_classes,
        max_sequence_length,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        packed_length=None,
        num_pack_heads=None,
        tie_key_value=False,
        share_layers=False,
        dynamic_packing=True,
        dropout=0.1,
        attention_dropout=None,
        activation_dropout=0.0,
        activation="gelu",
        position_embedding="learned",
        first_position=0,
        embedding_scale=1.0,
        pooling="cls",
        pooling_includes_padding=False,
        head_hidden_dim=None,
        head_dropout=0.0,
        padding_id=0,
        normalize_first=False,
        contraction="auto",
        remat=False,
        seed=None,
        dtype=None,
        attention="luna",
        num_documents=1,
        pair_features="concatenation",
        input_type="tokens",
        positions_skip_padding=True,
        max_real_tokens=None,
        **kwargs,
    ):
        check_positive(num_classes=num_classes, num_layers=num_layers)
        check_rate(head_dropout=head_dropout)
        check_choice(POOLING, pooling=pooling)
        check_inputs(input_type, vocabulary_size, padding_id, num_documents)
        check_choice(PAIR_FEATURES, pair_features=pair_features)
        if num_documents == 1 and pair_features != "concatenation":
            raise ValueError(
                "`pair_features` must be 'concatenation' with "
                f"num_documents=1, which has no pairs. Got: {pair_features!r}"
            )
        if head_hidden_dim is not None:
            check_positive(head_hidden_dim=head_hidden_dim)
        if max_real_tokens is not None:
            _check_droppable(pooling_includes_padding)
        optional = {
            "num_pack_heads": num_pack_heads,
            "tie_key_value": tie_key_value,
            "dynamic_packing": dynamic_packing,
            "contraction": contraction,
        }
        mixer = find_mixer(attention, pooling, optional)
        if mixer.packed:
            check_positive(packed_length=packed_length)

        def layer_seed(index):
            # Far apart: a block takes two seeds in a row.
            return None if seed is None else seed + 1000 * index

        # === Layers ===
        embedding = LunaEmbedding(
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            packed_length=packed_length if mixer.packed else None,
            max_sequence_length=max_sequence_length,
            position_embedding=position_embedding,
            first_position=first_position,
            scale=embedding_scale,
            dropout=dropout,
            padding_id=padding_id,
            positions_skip_padding=positions_skip_padding,
            max_real_tokens=max_real_tokens,
            dynamic_packing=dynamic_packing,
            seed=layer_seed(0),
            dtype=dtype,
            name="embedding",
        )
        blocks = [
            mixer.block(
                intermediate_dim=intermediate_dim,
                num_heads=num_heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                activation=activation,
                normalize_first=normalize_first,
                remat=remat,
                seed=layer_seed(index + 1),
                dtype=dtype,
                name=f"block_{index}",
                **{name: optional[name] for name in mixer.block_arguments},
            )
            for index in range(1 if share_layers else num_layers)
        ]
        pool = LunaPooling(
            pooling, pooling_includes_padding, dtype=dtype, name="pooling"
        )
        head = make_head(
            num_classes,
            head_hidden_dim,
            head_dropout,
            layer_seed(num_layers + 1),
            dtype,
        )

        # === Functional Model ===
        inputs = make_input(input_type, num_documents)
        x = inputs if num_documents == 1 else stack_documents(inputs)
        # The tokens and, with Luna, the packed sequence.
        sequences = keras.tree.flatten(embedding(x))
        for block in _applied(blocks, num_layers):
            sequences = keras.tree.flatten(block(*sequences))
        x = pool(sequences[0], sequences[-1])
        if num_documents == 2:
            x = join_pairs(x, pair_features)
        for layer in head:
            x = layer(x)
        super().__init__(inputs=inputs, outputs=x, **kwargs)

        # === Config ===
        self.embedding = embedding
        self.blocks = blocks
        self.head = head
        self._config = {
            "vocabulary_size": vocabulary_size,
            "num_classes": num_classes,
            "max_sequence_length": max_sequence_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": intermediate_dim,
            "packed_length": packed_length,
            "num_pack_heads": num_pack_heads,
            "tie_key_value": tie_key_value,
            "share_layers": share_layers,
            "dynamic_packing": dynamic_packing,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation_dropout": activation_dropout,
            "activation": keras.activations.serialize(
                keras.activations.get(activation)
            ),
            "position_embedding": position_embedding,
            "first_position": first_position,
            "embedding_scale": embedding_scale,
            "pooling": pooling,
            "pooling_includes_padding": pooling_includes_padding,
            "head_hidden_dim": head_hidden_dim,
            "head_dropout": head_dropout,
            "padding_id": padding_id,
            "positions_skip_padding": positions_skip_padding,
            "max_real_tokens": max_real_tokens,
            "normalize_first": normalize_first,
            "contraction": contraction,
            "remat": remat,
            "seed": seed,
            "attention": attention,
            "num_documents": num_documents,
            "pair_features": pair_features,
            "input_type": input_type,
        }

    def attention_scores(self, inputs):
        """Returns what every block attends to, for pictures.

        Dropout is off. Rows of padded tokens mean nothing.

        Args:
            inputs: those of a call.

        Returns:
            list with a pair per block, in the order of application: pack
            weights `(B, Hp, L, T)`, of each slot over the tokens, and unpack
            weights `(B, H, T, L)`, of each token over the slots (Luna paper,
            equations 4 and 5). With two documents `2 B` rows, those of the
            second documents last.

        Raises:
            ValueError: if the attention is not Luna's.

        Example:

        >>> import numpy as np
        >>> from luna_tf.models import LRAClassifier
        >>> model = LRAClassifier(18, 10, 100, 2, 4, 32, 64, packed_length=8)
        >>> scores = model.attention_scores(np.array([[1, 5, 6, 2]]))
        >>> [tuple(weights.shape) for weights in scores[-1]]
        [(1, 4, 8, 4), (1, 4, 4, 8)]
        """
        if not isinstance(self.blocks[0], LunaTransformerBlock):
            raise ValueError(
                "`attention_scores` needs a model with attention='luna'. Got: "
                f"attention={self._config['attention']!r}"
            )
        if self._config["num_documents"] == 2:
            inputs = stack_documents(inputs)
        x, p = self.embedding(inputs)
        place = None
        if self._config["max_real_tokens"] is not None:
            real = ops.not_equal(inputs, self._config["padding_id"])
            length = ops.shape(inputs)[1]
            place = ops.one_hot(self.embedding.kept(real), length)
        scores = []
        for block in _applied(self.blocks, self._config["num_layers"]):
            x, p, pack, unpack = block(x, p, return_attention_scores=True)
            if place is not None:
                pack = ops.einsum("bhlk,bkt->bhlt", pack, place)
                unpack = ops.einsum("bhkl,bkt->bhtl", unpack, place)
            scores.append((pack, unpack))
        return scores

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(
                self.embedding.dtype_policy
            ),
            **self._config,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            config["dtype"] = keras.dtype_policies.deserialize(dtype)
        return cls(**config)


def _check_droppable(pooling_includes_padding):
    if pooling_includes_padding:
        raise ValueError(
            "`pooling_includes_padding` must be False with `max_real_tokens`, "
            "which drops padding. Got: True"
        )


def _applied(blocks, num_layers):
    """Blocks in the order of application: a shared one again and again."""
    return (blocks * num_layers)[:num_layers]
