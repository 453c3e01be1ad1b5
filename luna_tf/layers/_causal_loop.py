"""Causal Luna in a loop over blocks of tokens, to train in little memory.

Between the input and the output of the layer lie queries, keys, values and
what is read from the slots, each as long and as wide as the input. Whether
they are kept for the backward pass or computed again, they and their gradients
are alive together: XLA merges a second computation with the first one, except
inside of a loop.

Here a loop takes a block of tokens from input to output, projections included,
and keeps nothing but the two sums before each block. The gradient is written
by hand: a loop from the last block to the first one that computes each block
again. Longer than a block are then only the input, the output and their
gradients. The price is that two or three projections are computed twice.

Letters as in `LunaCausalAttention`; a block has `N` chunks of `C` tokens, see
`luna_tf.ops.causal_product`.
"""

import math

from keras import ops

from luna_tf.ops import masked_softmax, softplus_base2

# Tokens of a block, roughly. Larger ones need more memory; smaller ones add to
# the gradients of the kernels more often.
BLOCK = 256


def attend(
    x,
    projections,
    head_dim,
    counts,
    kept,
    packed_mask,
    drops,
    chunk_size,
    block,
):
    """Returns what `LunaCausalAttention` does without a cache.

    Args:
        x: `(B, T, D)`, in the dtype to compute in. `T` must be known.
        projections: list of pairs of kernel and bias: float32 `(B, D, H, L)`
            and `(B, H, L)` of the logits of `e`; those of query, of key, of
            value unless it is tied, and of the output, as in `EinsumDense`. A
            bias may be None.
        head_dim: `K`.
        counts: float32 `(B or 1, T)`, tokens up to each one.
        kept: float32 `(B or 1, T)`, 0 for padding, or None.
        packed_mask: bool `(B, L)`, or None.
        drops: pair of float32 `(B, T, H, L)`, what dropout multiplies `e` and
            `a` by, or None.
        chunk_size: int, most tokens of a chunk.
        block: int, tokens of a block, roughly.

    Returns:
        `(B, T, D)`, in the dtype of `x`.
    """
    batch, length, width = ops.shape(x)
    slots = projections[0][0].shape[3]
    blocks = -(-length // block)
    chunks = max(1, -(-length // (blocks * chunk_size)))
    chunk = -(-length // (blocks * chunks))
    if kept is None:
        kept = ops.ones((1, length), "float32")
    drops = [ops.reshape(drop, (batch, length, -1)) for drop in drops or ()]
    padding = ((0, 0), (0, blocks * chunks * chunk - length))
    if padding[1][1]:
        x, *drops = (ops.pad(a, (*padding, (0, 0))) for a in (x, *drops))
        kept = ops.pad(kept, padding)
        counts = ops.pad(counts, padding, constant_values=1.0)
    if packed_mask is None:
        packed_mask = ops.ones((1, slots), "bool")
    loop = _Loop(
        (blocks, chunks, chunk),
        (batch, projections[1][0].shape[1], head_dim, slots),
        3 + len(drops),
    )
    (logits, logits_bias), *dense, (kernel, bias) = projections
    # Matrices: the first axis goes in, the last one comes out.
    tensors = [ops.reshape(logits, (batch, width, -1))]
    tensors.append(_bias(logits_bias, (batch, 1, logits.shape[2] * slots)))
    for k, b in dense:
        tensors.append(ops.reshape(k, (width, -1)))
        tensors.append(_bias(b, (tensors[-1].shape[1],), k.dtype))
    tensors.append(ops.reshape(kernel, (-1, width)))
    tensors.append(_bias(bias, (width,), kernel.dtype))
    # Arguments too, though they need no gradient: under rematerialization JAX
    # forbids the gradient to read tensors from outside.
    packed_mask = ops.cast(packed_mask, "float32")
    masks = packed_mask, kept[..., None], counts[..., None], *drops
    return ops.custom_gradient(loop.run)(x, *masks, *tensors)[:, :length]


def _bias(bias, shape, dtype="float32"):
    if bias is None:
        return ops.zeros(shape, dtype)
    return ops.reshape(bias, shape)


class _Loop:
    """The two loops, for `blocks`, `sizes` and number of masks of `attend`."""

    def __init__(self, blocks, sizes, num_masks):
        self.blocks, self.chunks, self.chunk = blocks
        self.batch, self.heads, self.head_dim, self.slots = sizes
        self.num_masks = num_masks
        self.scale = self.head_dim**-0.5

    def run(self, x, *tensors):
        """Returns the output and the function that gives all gradients."""
        masks, tensors = tensors[: self.num_masks], tensors[self.num_masks :]
        kernel, bias = tensors[-2:]
        shape = (self.batch, self.heads, self.head_dim, self.slots)
        state = ops.zeros(shape, "float32")
        states = ops.zeros((self.blocks, *shape), "float32")

        def body(i, output, k_sums, v_sums, all_k_sums, all_v_sums):
            all_k_sums = _put(all_k_sums, k_sums[None], 0, i)
            all_v_sums = _put(all_v_sums, v_sums[None], 0, i)
            block = self._block(i, x, masks, tensors, k_sums, v_sums)
            y = ops.matmul(ops.cast(block["y"], x.dtype), kernel) + bias
            output = _put(output, y, 1, i * self._size)
            sums = block["k_sums"][1], block["v_sums"][1]
            return i + 1, output, *sums, all_k_sums, all_v_sums

        zero = ops.zeros((), "int32")
        _, output, _, _, *all_sums = ops.while_loop(
            lambda i, *_: i < self.blocks,
            body,
            (zero, ops.zeros_like(x), state, state, states, states),
            maximum_iterations=self.blocks,
        )

        def gradient(*args, upstream=None):
            # PyTorch's name for it; elsewhere it is the only argument.
            dy = args[0] if upstream is None else upstream
            dx, *gradients = self._gradients(
                x, masks, tensors, all_sums, state, dy
            )
            return dx, *map(ops.zeros_like, masks), *gradients

        return output, gradient

    def _gradients(self, x, masks, tensors, all_sums, zeros, upstream):
        def body(i, dx, dk_sums, dv_sums, *totals):
            before = [s[i] for s in all_sums]
            block = self._block(i, x, masks, tensors, *before)
            dy = self._piece(upstream, i)
            piece, sums, gradients = self._block_gradients(
                block, tensors, dy, dk_sums, dv_sums
            )
            sums += tuple(
                total + ops.cast(gradient, "float32")
                for total, gradient in zip(totals, gradients, strict=True)
            )
            return i - 1, _put(dx, piece, 1, i * self._size), *sums

        totals = [ops.zeros(ops.shape(t), "float32") for t in tensors]
        last = ops.zeros((), "int32") + (self.blocks - 1)
        _, dx, _, _, *totals = ops.while_loop(
            lambda i, *_: i >= 0,
            body,
            (last, ops.zeros_like(x), zeros, zeros, *totals),
            maximum_iterations=self.blocks,
        )
        return dx, *(
            ops.cast(total, t.dtype)
            for total, t in zip(totals, tensors, strict=True)
        )

    def _block(self, i, x, masks, tensors, k_sums, v_sums):
        """One block up to the output projection, and all in between."""
        x = self._piece(x, i)
        packed_mask = masks[0][:, None, None, None] > 0
        kept, count = (
            ops.reshape(self._piece(a, i), (-1, self.chunks, self.chunk, 1, 1))
            for a in masks[1:3]
        )
        drop_e = drop_a = 1.0
        if masks[3:]:
            drop_e, drop_a = (self._split(self._piece(a, i)) for a in masks[3:])
        logits = ops.matmul(ops.cast(x, "float32"), tensors[0]) + tensors[1]
        kept = kept * drop_e
        e = self._split(softplus_base2(logits)) * kept
        q, k, *v = (
            self._split(ops.cast(ops.matmul(x, kernel) + bias, "float32"))
            for kernel, bias in zip(
                tensors[2:-2:2], tensors[3:-2:2], strict=True
            )
        )
        q, v = q * self.scale, v[0] if v else k
        k_sums = _running(k_sums, ops.einsum("bnchk,bnchl->bnhkl", k, e))
        v_sums = _running(v_sums, ops.einsum("bnchk,bnchl->bnhkl", v, e))
        qk = self._past(ops.einsum("bnchk,bnmhk->bnhcm", q, k))
        scores = ops.einsum("bnhcm,bnmhl->bnchl", qk, e)
        scores += ops.einsum("bnchk,bnhkl->bnchl", q, k_sums[0])
        softmax = masked_softmax(scores / count, packed_mask)
        a = softmax * drop_a
        ae = self._past(ops.einsum("bnchl,bnmhl->bnhcm", a, e))
        y = ops.einsum("bnhcm,bnmhk->bnchk", ae, v)
        y += ops.einsum("bnchl,bnhkl->bnchk", a, v_sums[0])
        return {
            **{"x": x, "kept": kept, "count": count, "logits": logits},
            **{"softmax": softmax, "drop_a": drop_a},
            **{"e": e, "q": q, "k": k, "v": v, "qk": qk, "a": a, "ae": ae},
            **{"y": self._merge(y / count)},
            **{"k_sums": k_sums, "v_sums": v_sums},
        }

    def _block_gradients(self, block, tensors, dy, dk_sums, dv_sums):
        """Gradients of one block.

        Returns:
            That of `x`, those of the sums before the block, those of `tensors`.
        """
        x, e, q, k, v, a = (block[name] for name in ("x", *"eqkva"))
        count, kernel = block["count"], tensors[-2]
        grad = ops.matmul(dy, ops.transpose(kernel))
        grad = self._split(ops.cast(grad, "float32")) / count

        dv_sums = _running(
            dv_sums, ops.einsum("bnchk,bnchl->bnhkl", grad, a), back=True
        )
        dae = self._past(ops.einsum("bnchk,bnmhk->bnhcm", grad, v))
        da = ops.einsum("bnhcm,bnmhl->bnchl", dae, e)
        da += ops.einsum("bnchk,bnhkl->bnchl", grad, block["v_sums"][0])
        de = ops.einsum("bnhcm,bnchl->bnmhl", dae, a)
        de += ops.einsum("bnchk,bnhkl->bnchl", v, dv_sums[0])
        dv = ops.einsum("bnhcm,bnchk->bnmhk", block["ae"], grad)
        dv += ops.einsum("bnchl,bnhkl->bnchk", e, dv_sums[0])

        da, softmax = da * block["drop_a"], block["softmax"]
        ds = da - ops.sum(softmax * da, axis=-1, keepdims=True)
        ds = softmax * ds / count
        dk_sums = _running(
            dk_sums, ops.einsum("bnchk,bnchl->bnhkl", q, ds), back=True
        )
        dqk = self._past(ops.einsum("bnchl,bnmhl->bnhcm", ds, e))
        dq = ops.einsum("bnhcm,bnmhk->bnchk", dqk, k)
        dq += ops.einsum("bnchl,bnhkl->bnchk", ds, block["k_sums"][0])
        dk = ops.einsum("bnhcm,bnchk->bnmhk", dqk, q)
        dk += ops.einsum("bnchl,bnhkl->bnchk", e, dk_sums[0])
        de += ops.einsum("bnhcm,bnchl->bnmhl", block["qk"], ds)
        de += ops.einsum("bnchk,bnhkl->bnchl", k, dk_sums[0])

        # The derivative of log2(1 + 2^z) is 2^z / (1 + 2^z).
        slope = ops.sigmoid(block["logits"] * math.log(2.0))
        dlogits = self._merge(de * block["kept"]) * slope
        tied = len(tensors) == 8
        dense = [dq * self.scale] + ([dk + dv] if tied else [dk, dv])

        transposed = ops.transpose(tensors[0], (0, 2, 1))
        dx = ops.cast(ops.matmul(dlogits, transposed), x.dtype)
        columns = ops.transpose(ops.cast(x, "float32"), (0, 2, 1))
        gradients = [ops.matmul(columns, dlogits)]
        gradients.append(ops.sum(dlogits, axis=1, keepdims=True))
        for kernel, d in zip(tensors[2:-2:2], dense, strict=True):
            d = ops.cast(self._merge(d), x.dtype)
            dx += ops.matmul(d, ops.transpose(kernel))
            gradients += [_outer(x, d), ops.sum(d, axis=(0, 1))]
        gradients += [
            _outer(ops.cast(block["y"], x.dtype), dy),
            ops.sum(dy, axis=(0, 1)),
        ]
        return dx, (dk_sums[1], dv_sums[1]), gradients

    @property
    def _size(self):
        return self.chunks * self.chunk

    def _piece(self, a, i):
        batch, _, width = ops.shape(a)
        return ops.slice(a, (0, i * self._size, 0), (batch, self._size, width))

    def _split(self, a):
        return ops.reshape(
            a,
            (
                self.batch,
                self.chunks,
                self.chunk,
                self.heads,
                a.shape[2] // self.heads,
            ),
        )

    def _merge(self, a):
        width = self.heads * a.shape[4]
        return ops.reshape(a, (self.batch, self._size, width))

    def _past(self, products):
        places = ops.arange(self.chunk)
        return ops.where(places[:, None] >= places, products, 0.0)


def _running(start, terms, back=False):
    """Returns `start` plus the terms before each chunk, and plus all.

    With `back` the chunks are summed from the last one to the first one.
    """
    if back:
        terms = ops.flip(terms, axis=1)
    sums = ops.concatenate([start[:, None], terms], axis=1)
    sums = ops.cumsum(sums, axis=1)
    before = sums[:, :-1]
    return ops.flip(before, axis=1) if back else before, sums[:, -1]


def _outer(x, y):
    return ops.einsum("btd,bte->de", x, y)


def _put(a, piece, axis, start):
    starts = [0] * len(a.shape)
    starts[axis] = start
    return ops.slice_update(a, starts, piece)
