"""Luna attention: pack the context into a few slots, then unpack them."""

import keras
from keras import ops

from luna_tf.layers import _arguments, _masks
from luna_tf.layers._attention import NestedAttention, is_foldable
from luna_tf.ops import packing, unused_zeros


@keras.saving.register_keras_serializable(package="luna_tf")
class LunaAttention(NestedAttention):
    """Linear unified nested attention over a sequence and a packed sequence.

    Two attentions are nested. *Pack*: the packed sequence `p` of fixed length
    `L` attends to the context. *Unpack*: the query attends to the packed
    context. Time and memory are linear in the sequence length (Luna: Linear
    Unified Nested Attention, Ma et al., NeurIPS 2021, section 3.1, equations 4
    and 5). The packed context is also returned: it is the next `p`.

    Shapes use `B` batch, `T` query length, `S` context length, `L` packed
    length, `D` width, `H` `num_heads`, `Hp` `num_pack_heads`.

    Args:
        num_heads: int, heads of the unpack attention.
        key_dim: int, width of a head. Defaults to `D // num_heads`;
            `num_heads * key_dim` must equal `D`, because the packed context has
            no output projection.
        num_pack_heads: int, heads of the pack attention, a divisor of `D`.
            Defaults to `num_heads`.
        tie_key_value: bool, one projection serves as key and value in each of
            the two attentions, as in the paper's main model.
        dropout: float in [0, 1), rate on the weights of both attentions.
        use_bias: bool, whether the projections have biases.
        contraction: `"direct"` forms keys, values and queries of full length;
            `"absorbed"` folds the projections into the packed side and never
            does; `"auto"` takes for each of the two attentions the one with
            fewer multiply-adds per token, from `D`, heads and `L` alone (never
            from the length, so that an exported model computes what the
            trained one did). Pack is absorbed when `Hp·L < r·D/2 + L` (`r` = 1
            when key and value are tied, else 2) and unpack when
            `H·L < D + L`; see `luna_tf.ops.choose_contraction`. Both orders are
            equal up to rounding. A projection that is quantized or has an
            activity regularizer is always formed, whatever this says.
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
        packed: `(B, L, D)`, the packed sequence `p`.
        context: `(B, S, C)`, what is packed. Defaults to `query` (self
            attention). Its width may differ from `D`.
        query_mask: `(B, T)`, bool or integer, nonzero = keep. In self attention
            it masks the keys of the pack attention. Taken from the Keras mask
            of `query` when not given; likewise the other two masks.
        packed_mask: `(B, L)`, masks the keys of the unpack attention.
        context_mask: `(B, S)`, masks the keys of the pack attention.
        return_attention_scores: bool, whether to return both weights too.
        training: bool, whether dropout is active.
        dropout_seeds: Pair of drawn seeds (integer tensors of shape `(2,)`) for
            the two dropouts, instead of the layer's own. A caller that runs the
            layer twice for one step (rematerialisation) passes the same pair.

    Returns:
        `output` `(B, T, D)` and `packed_output` `(B, L, D)`, each carrying the
        Keras mask of its sequence; with `return_attention_scores` also the
        pack weights `(B, Hp, L, S)` and unpack weights `(B, H, T, L)` in
        float32, before dropout. Weights of masked keys are 0, and a row whose
        keys are all masked has weights 0.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.

    Example:

    >>> import numpy as np
    >>> from luna_tf import LunaAttention
    >>> x, p = np.ones((2, 100, 32)), np.ones((2, 8, 32))
    >>> y, p = LunaAttention(num_heads=4)(x, p)
    >>> tuple(y.shape), tuple(p.shape)
    ((2, 100, 32), (2, 8, 32))
    """

    def __init__(
        self,
        num_heads,
        key_dim=None,
        num_pack_heads=None,
        tie_key_value=True,
        dropout=0.0,
        use_bias=True,
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
            layer_arguments=kwargs,
        )
        if num_pack_heads is not None:
            _arguments.check_positive(num_pack_heads=num_pack_heads)
        self.num_pack_heads = num_pack_heads or num_heads

    def build(self, query_shape, packed_shape, context_shape=None):
        context_shape = context_shape or query_shape
        _arguments.check_rank(
            3, query=query_shape, packed=packed_shape, context=context_shape
        )
        _arguments.check_companions("query", query_shape, packed=packed_shape)
        self._context_width = context_shape[-1]
        width = query_shape[-1]
        for name, heads in (
            ("num_heads", self.num_heads),
            ("num_pack_heads", self.num_pack_heads),
        ):
            if width % heads:
                raise ValueError(
                    f"`{name}` must divide the width of `query`, {width}. "
                    f"Got: {heads}"
                )
        if self.key_dim not in (None, width // self.num_heads):
            raise ValueError(
                "`key_dim` must be the width of `query` over `num_heads`, "
                f"{width // self.num_heads}. Got: {self.key_dim}"
            )
        pack = (self.num_pack_heads, width // self.num_pack_heads)
        head = (self.num_heads, width // self.num_heads)
        self.pack_query = self._projection("pack_query", packed_shape, pack)
        if self.tie_key_value:
            self.pack_key_value = self._projection(
                "pack_key_value", context_shape, pack
            )
            self.key_value = self._projection("key_value", packed_shape, head)
        else:
            self.pack_key = self._projection("pack_key", context_shape, pack)
            self.pack_value = self._projection(
                "pack_value", context_shape, pack
            )
            self.key = self._projection("key", packed_shape, head)
            self.value = self._projection("value", packed_shape, head)
        self.query = self._projection("query", query_shape, head)
        self.attention_output = self._output_projection(query_shape, head)

    def call(
        self,
        query,
        packed,
        context=None,
        query_mask=None,
        packed_mask=None,
        context_mask=None,
        return_attention_scores=False,
        training=None,
        dropout_seeds=None,
    ):
        masks = self._checked_masks(
            query, packed, context, query_mask, packed_mask, context_mask
        )
        query_mask, packed_mask, context_mask = masks
        if dropout_seeds is None:
            dropout_seeds = self.draw_seeds(training)
        if context is None:
            context, context_mask = query, query_mask
        packed_output, pack_scores = self._pack(
            packed, context, context_mask, dropout_seeds[0]
        )
        key, value = self._unpack_key_and_value(packed_output)
        output, unpack_scores = self._unpack(
            query, key, value, packed_mask, dropout_seeds[1]
        )
        _masks.set_mask(output, query_mask)
        _masks.set_mask(packed_output, packed_mask)
        if return_attention_scores:
            return output, packed_output, pack_scores(), unpack_scores()
        return output, packed_output

    def _pack(self, packed, context, mask, seed):
        if self.tie_key_value:
            key_layer = value_layer = self.pack_key_value
        else:
            key_layer, value_layer = self.pack_key, self.pack_value
        width = packed.shape[-1]
        query = self.pack_query(packed)
        query = query * (width // self.num_pack_heads) ** -0.5
        query = self._link_cancelled_bias(query, key_layer, value_layer)
        drop = self._drop(seed)
        order = self._order(
            width,
            self.num_pack_heads,
            packed.shape[1],
            1 if self.tie_key_value else 2,
            context.shape[-1],
        )
        foldable = is_foldable(key_layer) and is_foldable(value_layer)
        if order == "absorbed" and foldable:
            key_kernel, _ = self._folded(key_layer)
            value_kernel, value_bias = self._folded(value_layer)
            values, scores = packing.pack_absorbed(
                query,
                context,
                key_kernel,
                value_kernel,
                value_bias,
                mask,
                drop,
            )
        else:
            key, value = self._key_and_value(key_layer, value_layer, context)
            values, scores = packing.pack_direct(query, key, value, mask, drop)
        return ops.reshape(values, (*ops.shape(packed)[:2], width)), scores

    def _unpack_key_and_value(self, packed):
        if self.tie_key_value:
            key_layer = value_layer = self.key_value
        else:
            key_layer, value_layer = self.key, self.value
        key, value = self._key_and_value(key_layer, value_layer, packed)
        return self._link_cancelled_bias(key, key_layer, value_layer), value

    def _unpack(self, query, key, value, mask, seed, order=None):
        width = query.shape[-1]
        scale = (width // self.num_heads) ** -0.5
        drop = self._drop(seed)
        order = order or self._order(width, self.num_heads, key.shape[1], 2)
        foldable = is_foldable(self.query)
        foldable = foldable and is_foldable(self.attention_output)
        if order == "absorbed" and foldable:
            query_kernel, query_bias = self._folded(self.query)
            kernel, bias = self._folded(self.attention_output)
            output, scores = packing.unpack_absorbed(
                query,
                query_kernel,
                query_bias,
                key,
                value,
                kernel,
                scale,
                mask,
                drop,
            )
            return output if bias is None else output + bias, scores
        output, scores = packing.unpack_direct(
            self.query(query) * scale, key, value, mask, drop
        )
        return self.attention_output(output), scores

    def initial_cache(
        self, packed, context, packed_mask=None, context_mask=None
    ):
        """Packs a context once, to be unpacked by `unpack` step by step.

        Args:
            packed: `(B, L, D)`, the packed sequence `p`.
            context: `(B, S, C)`, what is packed.
            packed_mask: `(B, L)`, as in the call, Keras masks included.
            context_mask: `(B, S)`, likewise.

        Returns:
            cache: dict of tensors with the batch on axis 0, `"key"` and, unless
                key and value are tied, `"value"`, both `(B, L, H, K)`, and
                `"packed_mask"` `(B, L)`. Its size does not depend on `S`.
            packed_output: `(B, L, D)`, as from the call.

        Raises:
            ValueError: naming the argument, what was given and what is allowed.

        Example:

        >>> import numpy as np
        >>> from luna_tf import LunaAttention
        >>> x, p = np.ones((2, 100, 32)), np.ones((2, 8, 32))
        >>> layer = LunaAttention(num_heads=4)
        >>> cache, p = layer.initial_cache(p, x)
        >>> tuple(layer.unpack(x[:, :1], cache).shape)
        (2, 1, 32)
        """
        if packed_mask is None:
            packed_mask = _masks.get_mask(packed)
        if context_mask is None:
            context_mask = _masks.get_mask(context)
        packed, context = (
            ops.cast(x, self.compute_dtype) for x in (packed, context)
        )
        _arguments.check_rank(3, packed=packed, context=context)
        if not self.built:
            batch, _, width = packed.shape
            self.build((batch, None, width), packed.shape, context.shape)
        _, packed_mask, context_mask = self._checked_masks(
            packed, packed, context, None, packed_mask, context_mask
        )
        packed_output, _ = self._pack(packed, context, context_mask, None)
        key, value = self._unpack_key_and_value(packed_output)
        if packed_mask is None:
            packed_mask = ops.ones(ops.shape(packed)[:2], "bool")
        cache = {"key": key, "packed_mask": packed_mask}
        if not self.tie_key_value:
            cache["value"] = value
        return cache, _masks.set_mask(packed_output, packed_mask)

    def unpack(self, query, cache):
        """Attends from tokens to a context that `initial_cache` packed.

        Args:
            query: `(B, T, D)`, any number of tokens. One token is attended in
                the direct order, which is cheaper when nothing of the folded
                projections is shared between tokens.
            cache: dict of tensors from `initial_cache` of this layer.

        Returns:
            `(B, T, D)`: what the call returns for these tokens.

        Raises:
            ValueError: if `cache` is not from this layer or of another batch
                size.

        Example: see `initial_cache`.
        """
        query = ops.cast(query, self.compute_dtype)
        self._check_cache(query, cache)
        key = cache["key"]
        output, _ = self._unpack(
            query,
            key,
            cache.get("value", key),
            ops.cast(cache["packed_mask"], "bool"),
            None,
            "direct" if query.shape[1] == 1 else None,
        )
        return output

    def _check_cache(self, query, cache):
        batch, _, width = query.shape
        slots = _arguments.packed_length_of(cache)
        rows = (batch, slots, self.num_heads, width // self.num_heads)
        expected = {"key": rows, "packed_mask": (batch, slots)}
        if not self.tie_key_value:
            expected["value"] = rows
        _arguments.check_cache(cache, expected)

    def _key_and_value(self, key_layer, value_layer, inputs):
        value = value_layer(inputs)
        if key_layer is value_layer:
            return value, value
        if not is_foldable(key_layer):
            return key_layer(inputs), value
        # A softmax does not see the bias of its keys. Left out, the bias gets
        # a gradient of exactly zero instead of rounding noise, which Adam
        # would blow up to full steps.
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel = ops.cast(key_layer.kernel, self.compute_dtype)
        return ops.einsum("btd,dhk->bthk", inputs, kernel), value

    def _link_cancelled_bias(self, x, key_layer, value_layer):
        """Ties an untied key's unused bias to the graph with gradient zero.

        Without it Keras warns about a missing gradient at every `fit`.
        """
        if key_layer is value_layer or not self.use_bias:
            return x
        return x + ops.cast(unused_zeros(key_layer.bias), x.dtype)

    def _checked_masks(
        self, query, packed, context, query_mask, packed_mask, context_mask
    ):
        _arguments.check_rank(3, query=query, packed=packed)
        _arguments.check_companions("query", query, packed=packed)
        if context is not None:
            _arguments.check_rank(3, context=context)
            expected = (query.shape[0], None, context.shape[-1])
            _arguments.check_companions("query", expected, context=context)
        width = (query if context is None else context).shape[-1]
        if width != getattr(self, "_context_width", width):
            raise ValueError(
                "`context`, which is `query` when not given, must have the "
                f"width that the layer was built for, {self._context_width}. "
                f"Got: {width}"
            )
        if context is None and context_mask is not None:
            raise ValueError(
                "`context_mask` needs a `context`. In self attention the keys "
                "are masked by `query_mask`."
            )
        return (
            _masks.check_mask("query_mask", query_mask, "query", query),
            _masks.check_mask("packed_mask", packed_mask, "packed", packed),
            _masks.check_mask("context_mask", context_mask, "context", context),
        )

    def compute_output_spec(
        self,
        query,
        packed,
        context=None,
        query_mask=None,
        packed_mask=None,
        context_mask=None,
        return_attention_scores=False,
        training=None,
        dropout_seeds=None,
    ):
        query_mask, packed_mask, _ = self._checked_masks(
            query, packed, context, query_mask, packed_mask, context_mask
        )
        outputs = tuple(
            _masks.set_mask(
                keras.KerasTensor(x.shape, dtype=self.compute_dtype), mask
            )
            for x, mask in ((query, query_mask), (packed, packed_mask))
        )
        if not return_attention_scores:
            return outputs
        (batch, length), slots = query.shape[:2], packed.shape[1]
        keys = length if context is None else context.shape[1]
        return *outputs, *(
            keras.KerasTensor(shape, dtype="float32")
            for shape in (
                (batch, self.num_pack_heads, slots, keys),
                (batch, self.num_heads, length, slots),
            )
        )

    def get_config(self):
        return {**super().get_config(), "num_pack_heads": self.num_pack_heads}
