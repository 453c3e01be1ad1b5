"""Luna attention for decoders: linear in time, a cache of constant size."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _causal_loop, _masks
from luna_tf.layers._attention import NestedAttention, is_foldable
from luna_tf.ops import (
    causal_product,
    causal_step,
    masked_softmax,
    softplus_base2,
)


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaCausalAttention(NestedAttention):
    """Causal linear unified nested attention over a sequence.

    A softmax over the context would have to be computed anew for each prefix,
    so that packing has softplus weights instead, whose sums grow token by
    token (Luna paper, section 3.3). Per head, for the `t`-th token, with
    `softplus2(z) = log2(1 + 2^z)`:

        e_j = softplus2(pack_key_j · pack_queryᵀ / sqrt(K))         (L numbers)
        a_t = softmax(Σ_{j<=t} (query_t · key_j) / sqrt(K) · e_j / t)
        y_t = Σ_{j<=t} (a_t · e_j) value_j / t

    Time is linear in the length; what later tokens need of earlier ones are
    two sums of a size that does not depend on their number. The packed sequence
    `p` is read and not updated. Training on more than 256 tokens goes block
    by block and computes projections again in the backward pass, for less
    memory.

    Shapes use `B` batch, `T` query length, `L` packed length, `D` width, `H`
    `num_heads`, `K` `key_dim`.

    Args:
        num_heads: int, number of heads.
        key_dim: int, width of a head. Defaults to `D // num_heads`.
        tie_key_value: bool, one projection serves as key and value.
        dropout: float in [0, 1), rate on `e` (one draw for both sums) and on
            `a`.
        use_bias: bool, whether the projections have biases.
        chunk_size: int, tokens that share one running sum, see
            `luna_tf.ops.causal_product`.
        contraction: order of the contraction for `e`: `"direct"` forms pack
            keys of full length, `"absorbed"` folds their projection into the
            pack query; `"auto"` is absorbed when
            `H·L·D < H·K·(D + L)`, whatever the sequence length. Both are
            equal up to rounding. A cached call of one token and a projection
            that is quantized or has an activity regularizer are direct.
        kernel_initializer: Initializer of the projection kernels.
        bias_initializer: Initializer of the projection biases.
        kernel_regularizer: Regularizer of the projection kernels.
        bias_regularizer: Regularizer of the projection biases.
        activity_regularizer: Regularizer of the projections' outputs.
        kernel_constraint: Constraint on the projection kernels.
        bias_constraint: Constraint on the projection biases.
        seed: int, seed of dropout.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        query: `(B, T, D)`.
        packed: `(B, L, D)`, the packed sequence `p`. Not read, and may be None,
            when a `cache` is given.
        query_mask: `(B, T)`, bool or integer, nonzero = keep. A masked token
            adds nothing to the sums and does not count in `t`, so that results
            do not depend on the side of padding. Taken from the Keras mask of
            `query` when not given.
        packed_mask: `(B, L)`, masks the softmax. Likewise for `packed`.
        cache: dict of tensors from `initial_cache` or from an earlier call: the
            tokens then continue those of the earlier calls, however many each
            call has.
        training: bool, whether dropout is active.
        dropout_seeds: Pair of drawn seeds, see `LunaAttention`.

    Returns:
        `(B, T, D)`, carrying the Keras mask of `query`; with a `cache` also the
        next cache.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaCausalAttention
    >>> x, p = np.ones((2, 100, 32)), np.ones((2, 8, 32))
    >>> layer = LunaCausalAttention(num_heads=4)
    >>> tuple(layer(x, p).shape)
    (2, 100, 32)
    >>> cache = layer.initial_cache(p)
    >>> y, cache = layer(x[:, :99], cache=cache)
    >>> y, cache = layer(x[:, 99:], cache=cache)
    >>> tuple(y.shape), int(cache["num_tokens"][0])
    ((2, 1, 32), 100)
    """

    def __init__(
        self,
        num_heads,
        key_dim=None,
        tie_key_value=True,
        dropout=0.0,
        use_bias=True,
        chunk_size=64,
        contraction="auto",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        seed=None,
        **kwargs,
    ):
        _arguments.check_positive(chunk_size=chunk_size)
        super().__init__(
            num_heads=num_heads,
            key_dim=key_dim,
            tie_key_value=tie_key_value,
            dropout=dropout,
            use_bias=use_bias,
            contraction=contraction,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            seed=seed,
            # Keras would cast the sums in the cache to the compute dtype.
            layer_arguments={"autocast": False, **kwargs},
        )
        self.chunk_size = chunk_size

    def build(self, query_shape, packed_shape):
        _arguments.check_rank(3, query=query_shape, packed=packed_shape)
        _arguments.check_companions("query", query_shape, packed=packed_shape)
        width = query_shape[-1]
        if self.key_dim is None and width % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the width of `query`, "
                f"{width}, unless `key_dim` is given. Got: {self.num_heads}"
            )
        self._width = width
        self._head_dim = self.key_dim or width // self.num_heads
        head = (self.num_heads, self._head_dim)
        self.pack_query = self._projection("pack_query", packed_shape, head)
        self.pack_key = self._projection("pack_key", query_shape, head)
        self.query = self._projection("query", query_shape, head)
        if self.tie_key_value:
            self.key_value = self._projection("key_value", query_shape, head)
        else:
            self.key = self._projection("key", query_shape, head)
            self.value = self._projection("value", query_shape, head)
        self.attention_output = self._output_projection(query_shape, head)

    def call(
        self,
        query,
        packed=None,
        query_mask=None,
        packed_mask=None,
        cache=None,
        training=None,
        dropout_seeds=None,
    ):
        query_mask, packed_mask = self._checked_arguments(
            query, packed, query_mask, packed_mask, cache
        )
        if dropout_seeds is None:
            dropout_seeds = self.draw_seeds(training)
        query = ops.cast(query, self.compute_dtype)
        if cache is None and training is not False:
            slots = packed.shape[1]
            if self._fits_the_loop(query, slots):
                output = self._loop(
                    query, packed, query_mask, packed_mask, dropout_seeds
                )
                return _masks.set_mask(output, query_mask)
        state = cache
        if cache is None:
            state = {
                "pack_query": self._pack_query(packed),
                "packed_mask": packed_mask,
                "key_sums": None,
                "value_sums": None,
                "num_tokens": None,
            }
        product = self._product
        one_token = cache is not None and query.shape[1] == 1
        if one_token:
            product = _product_of_one

        weights = self._pack_weights(query, state["pack_query"], one_token)
        weights = _dropped(weights, self._drop(dropout_seeds[0]))
        if query_mask is not None:
            kept = ops.cast(query_mask, weights.dtype)
            weights = weights * kept[..., None, None]
        key, value = self._key_and_value(query)
        count, num_tokens = _count(query, query_mask, state["num_tokens"])
        scores, key_sums = product(
            self.query(query) * self._head_dim**-0.5,
            key,
            weights,
            state["key_sums"],
        )
        mask = state["packed_mask"]
        if mask is not None:
            mask = ops.cast(mask, "bool")[:, None, None, :]
        attention = masked_softmax(scores / count, mask)
        attention = _dropped(attention, self._drop(dropout_seeds[1]))
        values, value_sums = product(
            attention, weights, value, state["value_sums"]
        )
        values = ops.cast(values / count, self.compute_dtype)
        output = self.attention_output(values)
        _masks.set_mask(output, query_mask)
        if cache is None:
            return output
        return output, {
            **cache,
            "key_sums": key_sums,
            "value_sums": value_sums,
            "num_tokens": num_tokens,
        }

    def initial_cache(self, packed, packed_mask=None):
        """Returns the cache of no tokens, for a call with `cache`.

        Args:
            packed: `(B, L, D)`, the packed sequence `p`.
            packed_mask: `(B, L)`, as in the call, Keras mask included.

        Returns:
            dict of tensors with the batch on axis 0, of a size that does not
            depend on the number of tokens: `"pack_query"` `(B, H, L, K)`,
            `"packed_mask"` `(B, L)`, the float32 sums `"key_sums"`
            `(B, H, K, L)` and `"value_sums"` `(B, H, L, K)`, and the int32
            `"num_tokens"` `(B,)`, which padding does not count in.

        Raises:
            ValueError: naming the argument, what was given and what is allowed.

        Example: see the class.
        """
        if packed_mask is None:
            packed_mask = _masks.get_mask(packed)
        packed = ops.convert_to_tensor(packed)
        _arguments.check_rank(3, packed=packed)
        if not self.built:
            batch, _, width = packed.shape
            self.build((batch, None, width), packed.shape)
        self._check_packed((packed.shape[0], None, self._width), packed)
        mask = _masks.check_mask("packed_mask", packed_mask, "packed", packed)
        batch, slots = ops.shape(packed)[:2]
        heads, width = self.num_heads, self._head_dim
        return {
            "pack_query": self._pack_query(packed),
            "packed_mask": (
                ops.ones((batch, slots), "bool") if mask is None else mask
            ),
            "key_sums": ops.zeros((batch, heads, width, slots), "float32"),
            "value_sums": ops.zeros((batch, heads, slots, width), "float32"),
            "num_tokens": ops.zeros((batch,), "int32"),
        }

    def _pack_query(self, packed):
        query = self.pack_query(packed) * self._head_dim**-0.5
        return ops.transpose(query, (0, 2, 1, 3))

    def _pack_weights(self, query, pack_query, one_token):
        """Returns `e`, float32 `(B, T, H, L)`, before dropout and mask."""
        absorbed = not one_token and self._is_absorbed(pack_query.shape[2])
        pack_query = ops.cast(pack_query, "float32")
        if absorbed and is_foldable(self.pack_key):
            logits = self._absorbed_logits(query, pack_query)
        else:
            key = ops.cast(self.pack_key(query), "float32")
            logits = ops.einsum("bthk,bhlk->bthl", key, pack_query)
        return softplus_base2(logits)

    def _is_absorbed(self, slots):
        width = self.num_heads * self._head_dim
        order = self._order(width, self.num_heads, slots, 2, self._width)
        return order == "absorbed"

    def _absorbed_logits(self, query, pack_query):
        folded, bias = self._folded_pack_key(pack_query)
        batch, width, heads, slots = ops.shape(folded)
        folded = ops.reshape(folded, (batch, width, heads * slots))
        logits = ops.matmul(ops.cast(query, "float32"), folded)
        shape = (batch, ops.shape(query)[1], heads, slots)
        logits = ops.reshape(logits, shape)
        return logits if bias is None else logits + bias[:, None]

    def _folded_pack_key(self, pack_query):
        """Returns `(B, D, H, L)` that gives logits, and `(B, H, L)` or None."""
        kernel, bias = self._folded(self.pack_key)
        kernel = ops.cast(kernel, "float32")
        kernel = ops.einsum("dhk,bhlk->bdhl", kernel, pack_query)
        if bias is None:
            return kernel, None
        bias = ops.cast(bias, "float32")
        return kernel, ops.einsum("hk,bhlk->bhl", bias, pack_query)

    def _fits_the_loop(self, query, slots):
        # Up to one block a loop would save nothing.
        length = query.shape[1]
        if length is None or length <= _causal_loop.BLOCK:
            return False
        layers = self.pack_key, *self._loop_layers()
        return self._is_absorbed(slots) and all(map(is_foldable, layers))

    def _loop_layers(self):
        tied = self.tie_key_value
        keys = [self.key_value] if tied else [self.key, self.value]
        return [self.query, *keys, self.attention_output]

    def _loop(self, query, packed, query_mask, packed_mask, dropout_seeds):
        pack_query = ops.cast(self._pack_query(packed), "float32")
        drops = None
        if dropout_seeds[0] is not None:
            batch, length = ops.shape(query)[:2]
            ones = ops.ones(
                (batch, length, self.num_heads, packed.shape[1]), "float32"
            )
            drops = [self._drop(seed)(ones) for seed in dropout_seeds]
        kept = query_mask
        if kept is not None:
            kept = ops.cast(kept, "float32")
        return _causal_loop.attend(
            query,
            [
                self._folded_pack_key(pack_query),
                *map(self._folded, self._loop_layers()),
            ],
            self._head_dim,
            _count(query, query_mask, None)[0][:, :, 0, 0],
            kept,
            packed_mask,
            drops,
            self.chunk_size,
            _causal_loop.BLOCK,
        )

    def _key_and_value(self, query):
        if self.tie_key_value:
            key_value = self.key_value(query)
            return key_value, key_value
        return self.key(query), self.value(query)

    def _product(self, x, y, z, state):
        return causal_product(x, y, z, state, self.chunk_size)

    def _checked_arguments(self, query, packed, query_mask, packed_mask, cache):
        _arguments.check_rank(3, query=query)
        if query.shape[-1] != self._width:
            raise ValueError(
                "`query` must have the width that the layer was built for, "
                f"{self._width}. Got shape: {tuple(query.shape)}"
            )
        mask = _masks.check_mask("query_mask", query_mask, "query", query)
        if cache is not None:
            batch, heads, width = query.shape[0], self.num_heads, self._head_dim
            slots = _arguments.packed_length_of(cache)
            _arguments.check_cache(
                cache,
                {
                    "pack_query": (batch, heads, slots, width),
                    "packed_mask": (batch, slots),
                    "key_sums": (batch, heads, width, slots),
                    "value_sums": (batch, heads, slots, width),
                    "num_tokens": (batch,),
                },
            )
            return mask, None
        if packed is None:
            raise ValueError("`packed` may be None only with a `cache`.")
        self._check_packed(query, packed)
        packed_mask = _masks.check_mask(
            "packed_mask", packed_mask, "packed", packed
        )
        return mask, packed_mask

    def _check_packed(self, query, packed):
        _arguments.check_rank(3, packed=packed)
        _arguments.check_companions("query", query, packed=packed)

    def compute_output_spec(
        self,
        query,
        packed=None,
        query_mask=None,
        packed_mask=None,
        cache=None,
        training=None,
        dropout_seeds=None,
    ):
        query_mask, _ = self._checked_arguments(
            query, packed, query_mask, packed_mask, cache
        )
        output = keras.KerasTensor(query.shape, dtype=self.compute_dtype)
        _masks.set_mask(output, query_mask)
        if cache is None:
            return output
        return output, {
            name: keras.KerasTensor(x.shape, dtype=x.dtype)
            for name, x in cache.items()
        }

    def get_config(self):
        return {**super().get_config(), "chunk_size": self.chunk_size}


def _dropped(weights, drop):
    return weights if drop is None else drop(weights)


def _product_of_one(x, y, z, state):
    output, state = causal_step(x[:, 0], y[:, 0], z[:, 0], state)
    return output[:, None], state


def _count(query, mask, before):
    """Returns the divisors `(B or 1, T, 1, 1)` and the tokens so far."""
    if mask is None:
        length = ops.shape(query)[1]
        count, total = ops.arange(1, length + 1)[None], length
    else:
        mask = ops.cast(mask, "int32")
        count, total = ops.cumsum(mask, axis=1), ops.sum(mask, axis=1)
    if before is not None:
        count, total = count + before[:, None], total + before
    # Padding before the first token divides nothing by 1.
    count = ops.maximum(ops.cast(count, "float32"), 1.0)
    return count[..., None, None], total
