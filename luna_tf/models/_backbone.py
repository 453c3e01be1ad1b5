"""What the generative backbones share: configuration, LoRA, presets."""

from typing import Any

import keras
import keras_hub

from luna_tf.layers._arguments import check_positive
from luna_tf.models._model_card import write_model_card


class GenerativeBackbone(keras_hub.models.Backbone):
    """A KerasHub backbone that remembers how it was made.

    Subclasses build their layers, call `super().__init__` with the functional
    model and the constructor's arguments as `config`, and get `get_config`,
    LoRA on the projections of Luna attention, and presets with a model card.

    Args:
        config: dict of str to value, the constructor's own arguments. Each
            becomes an attribute.
        **kwargs: of `keras_hub.models.Backbone`.
    """

    # The KerasHub class that generates with this backbone.
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

    def check_cache(self, cache, *others):
        """Raises unless a cache has the entries of this model's blocks."""
        expected = {*others, *(block.name for block in self.decoder_blocks)}
        got = set(cache) if isinstance(cache, dict) else cache
        if got != expected:
            raise ValueError(
                "`cache` must come from `initial_cache` of the same model: a "
                f"dict with the keys {sorted(expected)}. Got: {got}"
            )

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
