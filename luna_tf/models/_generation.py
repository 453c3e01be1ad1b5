"""Generation with KerasHub's samplers over a cache of running sums."""

from typing import Any

import keras_hub
from keras import ops

from luna_tf.models._task import LunaTask, check_vocabulary


class CachedLanguageModel(LunaTask):
    """What the two language models share; comes before the task class.

    The model has a `backbone` with `token_embedding` and `decode`, and the
    `sampler` of a KerasHub task.
    """

    sampler: Any

    def _logits(self, x):
        x = ops.copy(x)  # without its Keras mask, which ends here
        logits = self.backbone.token_embedding(x, reverse=True)
        return ops.cast(logits, "float32")

    def next_logits(self, token_ids, cache, index, padding_mask=None):
        """Feeds the next tokens.

        Args:
            token_ids: integer tensor `(B, T)`, `T` static.
            cache: from `initial_cache` or an earlier call.
            index: int or integer scalar tensor, position of the first token.
            padding_mask: `(B, T)`, nonzero = keep. With Luna attention, other
                tokens leave no trace in the cache.

        Returns:
            Logits `(B, T, vocabulary_size)`, float32, and the new cache.

        Raises:
            ValueError: if the cache is not of this model, or tokens lie beyond
                learned positions or the softmax baseline's cache. Inside of a
                graph, where `index` is unknown, the latter is not noticed.
        """
        x, cache = self.backbone.decode(token_ids, cache, index, padding_mask)
        return self._logits(x), cache

    def make_generate_function(self, *args, **kwargs):
        check_vocabulary(self.backbone, self.preprocessor)
        return super().make_generate_function(  # type: ignore[misc]
            *args, **kwargs
        )

    def get_compile_config(self):
        """Adds the sampler to what is saved of `compile`."""
        config = super().get_compile_config()
        if not config:
            return config
        sampler = keras_hub.samplers.serialize(self.sampler)
        return {**config, "sampler": sampler}

    def compile_from_config(self, config, **arguments):
        """Compiles as `get_compile_config` has it."""
        config = dict(config)
        sampler = keras_hub.samplers.deserialize(config.pop("sampler"))
        super().compile_from_config(config, sampler=sampler, **arguments)


def continue_prompts(
    model: Any,
    cache: Any,
    token_ids: Any,
    padding_mask: Any,
    stop_token_ids: Any = None,
) -> tuple[Any, Any]:
    """Fills the free places of prompts with what a sampler chooses.

    Args:
        model: task with `sampler` and `next_logits`.
        cache: of the model, for no tokens yet.
        token_ids: int32 `(B, T)`, prompts, padded on the right.
        padding_mask: `(B, T)`, nonzero = given, at least one token per row.
        stop_token_ids: ints at which a row ends, or None.

    Returns:
        int32 `(B, T)`, and bool `(B, T)`, True up to the end of each row.
    """
    given = ops.cast(padding_mask, "bool")
    # The first place that some row has to fill.
    index = ops.min(ops.sum(ops.cast(given, "int32"), axis=-1))
    # The sampler feeds token `index - 1` itself, and a running sum must not
    # see a token twice: this leaves it, and all after it, out.
    places = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]
    before = ops.broadcast_to(places < index - 1, ops.shape(token_ids))
    _, cache = model.next_logits(token_ids, cache, 0, before)

    def next(prompt, cache, index):
        start = [0, index - 1]
        last = ops.slice(prompt, start, [ops.shape(prompt)[0], 1])
        logits, cache = model.next_logits(last, cache, index - 1)
        return ops.squeeze(logits, axis=1), None, cache

    token_ids = model.sampler(
        next=next,
        prompt=token_ids,
        cache=cache,
        index=index,
        mask=given,
        stop_token_ids=stop_token_ids,
        model=model,
    )
    ends = ops.zeros_like(given)
    for stop in stop_token_ids or ():
        ends = ops.logical_or(ends, ops.equal(token_ids, stop))
    ends = ops.cast(ops.logical_and(ends, ops.logical_not(given)), "int32")
    # The end itself belongs to its row.
    ended_before = ops.cumsum(ends, axis=-1) - ends
    return token_ids, ops.equal(ended_before, 0)
