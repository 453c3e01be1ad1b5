"""What the backbones share: configuration, LoRA, presets."""

import operator
from typing import Any

import keras
import keras_hub

from luna_tf.layers._arguments import (
    check_positive,
    check_rank,
    packed_length_of,
)
from luna_tf.models._model_card import write_model_card


class LunaFamilyBackbone(keras_hub.models.Backbone):
    """A KerasHub backbone that remembers how it was made.

    Subclasses build their layers, call `super().__init__` with the functional
    model and the constructor's arguments as `config`, and get `get_config`,
    LoRA on the projections of Luna attention, and presets with a model card.

    Args:
        config: dict of str to value, the constructor's own arguments. Each
            becomes an attribute.
        **kwargs: of `keras_hub.models.Backbone`.
    """

    # The KerasHub class that most use this backbone in.
    task_name = "CausalLM"

    def __init__(self, *, config, **kwargs):
        super().__init__(**kwargs)
        for name, value in config.items():
            setattr(self, name, value)
        self._config_names = tuple(config)

    def get_config(self):
        config = {name: getattr(self, name) for name in self._config_names}
        config["activation"] = keras.activations.serialize(
            keras.activations.get(self.activation)
        )
        return {**super().get_config(), **config}

    def default_lora_layer_names(self):
        """Returns the names of the projections that LoRA adapts."""
        return (
            "pack_query pack_key_value pack_value query key_value value"
        ).split()

    def enable_lora(self, rank, target_layer_names=None):
        """Freezes the backbone but for LoRA factors of its projections.

        Args:
            rank: int, rank of the factors.
            target_layer_names: list of str, names of layers to adapt.
                Defaults to `default_lora_layer_names()`.
        """
        super().enable_lora(rank, target_layer_names)
        # KerasHub leaves biases trainable, but its LoRA files have no room
        # for them: what was saved would differ from what was trained.
        for variable in self.trainable_variables:
            if "lora" not in variable.name:
                variable.trainable = False

    def save_to_preset(self, preset_dir, **kwargs):
        """Saves the backbone, and a model card, to a folder.

        Args:
            preset_dir: str, folder to write to.
            **kwargs: of `keras_hub.models.Backbone.save_to_preset`.
        """
        super().save_to_preset(preset_dir, **kwargs)
        write_model_card(preset_dir, self, self.task_name)


class GenerativeBackbone(LunaFamilyBackbone):
    """A backbone that decodes token by token, with a cache."""

    def check_max_length(self, max_length):
        """Raises unless the positions cover `max_length` tokens."""
        check_positive(max_length=max_length)
        if (
            self.position_embedding == "learned"
            and max_length > self.max_sequence_length
        ):
            raise ValueError(
                "`max_length` must not exceed `max_sequence_length`, "
                f"{self.max_sequence_length}, with learned positions. "
                f"Got: {max_length}"
            )

    def check_cache(self, cache, token_ids, *others):
        """Raises unless a cache fits this model, and tokens are `(B, T)`.

        Blocks check its shapes, but take the packed length from the cache.

        Args:
            cache: what was given.
            token_ids: likewise.
            *others: str, names of entries that are of no block.
        """
        check_rank(2, token_ids=token_ids)
        expected = {*others, *(block.name for block in self.decoder_blocks)}
        got = set(cache) if isinstance(cache, dict) else cache
        if got != expected:
            raise ValueError(
                "`cache` must come from `initial_cache` of the same model: a "
                f"dict with the keys {sorted(expected)}. Got: {got}"
            )
        for block in self.decoder_blocks:
            parts = cache[block.name]
            for part in parts.values() if isinstance(parts, dict) else ():
                length = packed_length_of(part)
                if length not in (None, self.packed_length):
                    raise ValueError(
                        "`cache` must come from `initial_cache` of the same "
                        f"model, with `packed_length` {self.packed_length}. "
                        f"Got: {length} in {block.name}"
                    )

    def known_index(self, index, token_ids, max_length=None):
        """Returns the position of the first token, an int where it is known.

        Args:
            index: int, array or scalar tensor.
            token_ids: `(B, T)`, `T` static.
            max_length: int, most tokens of the cache, or None without limit.

        Returns:
            int, or `index` as it is inside of a graph.

        Raises:
            ValueError: if tokens lie beyond the cache or learned positions;
                inside of a graph, if they do whatever `index` is.
        """
        try:
            # Not `int`, which AutoGraph turns into a cast of unknown values.
            start = index = operator.index(index)
        except (TypeError, AttributeError):  # the latter: of a float tensor
            start = 0
        limits = {"`max_length` of the cache": max_length}
        if self.position_embedding == "learned":
            limits["`max_sequence_length`"] = self.max_sequence_length
        length = token_ids.shape[1]
        for name, limit in limits.items():
            if None not in (limit, length) and start + length > limit:
                raise ValueError(
                    "`index` and the tokens from there on must not exceed "
                    f"{name}, {limit}. Got: index {index}, {length} tokens"
                )
        if start < 0:
            raise ValueError(f"`index` must not be negative. Got: {start}")
        return index


def layer_seed(seed: int | None, index: int) -> int | None:
    """Returns a seed for the layer of an index, far from its neighbours'."""
    return None if seed is None else seed + 1000 * index


def check_unused(reason: str, **given: tuple[Any, Any]) -> None:
    """Raises unless arguments without effect have their default values.

    Args:
        reason: str, when they have none, such as `"attention='softmax'"`.
        **given: name to (value, default).
    """
    for name, (value, default) in given.items():
        if value != default:
            raise ValueError(
                f"`{name}` must be {default!r} with {reason}, which does not "
                f"use it. Got: {value!r}"
            )
