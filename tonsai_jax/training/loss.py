"""Next-token cross-entropy that never holds the whole [tokens, vocabulary] matrix of logits.

The sequence is cut into chunks. For each chunk it computes the logits, the loss and both gradients, and drops the logits (the
idea of Liger Kernel's fused linear cross-entropy, arXiv:2410.10989). So the gradients are ready when the forward pass ends,
and the backward pass only scales them. Names: B batch, T sequence, C chunk, D model width, V padded vocabulary, N = B * C.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tonsai_jax.errors import UserError
from tonsai_jax.training.mesh import BATCH_AXES

# Loss; a scalar or a tree of scalars to report, such as the cross-entropy; and the gradients of the loss with respect to the
# hidden states [B, T, D] and the table [V, D], or None.
Sums = tuple[jax.Array, Any, jax.Array | None, jax.Array | None]


def chunk_length(batch_size: int, seq_len: int, chunk_tokens: int) -> int:
    """Positions per chunk: the largest divisor of `seq_len` with at most `chunk_tokens` tokens over `batch_size` sequences.

    It is at least 1. Raises `UserError` for `chunk_tokens` below 1.
    """
    if chunk_tokens < 1:
        raise UserError(f"loss.chunk_tokens={chunk_tokens} must be at least 1")
    longest = min(max(1, chunk_tokens // batch_size), seq_len)
    return max(length for length in range(1, longest + 1) if seq_len % length == 0)


@jax.named_scope("loss")
def cross_entropy(
    x_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    vocab_size: int,
    chunk: int,
    z_loss: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The loss to minimize and the cross-entropy to report: weighted sums over the batch, float32 scalars in nats.

    The loss is the cross-entropy plus z_loss * log(Z)^2, which keeps log Z near 0 (PaLM, arXiv:2204.02311, section 5).
    Only the loss has gradients, to `x` (in its dtype) and `table` (float32, and only computed where it is asked for).

    Args:
      x_BxTxD: hidden states in the compute dtype.
      table_VxD: float32 output embedding; the rows from `vocab_size` on are padding and get no probability. On a mesh of
        several devices [devices, V, D], a copy for each (`with_table_copies`), whose gradient is that of its own sequences.
      targets_BxT: integer ids below `vocab_size`.
      weights_BxT: float32 weight of each target; 0 leaves the target out.
      chunk: positions per chunk, from `chunk_length`; divides T.
      z_loss: coefficient of the second term.
      mesh: devices over which the batch is split; each sums over its own sequences, then one sum over devices follows.
        None for sequences of one device.
    """

    local = partial(_local, vocab_size=vocab_size, chunk=chunk, z_loss=z_loss)
    return with_ready_gradients(local, (x_BxTxD, table_VxD, targets_BxT, weights_BxT), mesh)


def with_ready_gradients(
    local: Callable[..., Sums], arrays: tuple[jax.Array, ...], mesh: Mesh | None
) -> tuple[jax.Array, Any]:
    """The loss of all devices and what it reports, from a function that computes the loss and its gradients at once.

    Args:
      local: the work of one device: called with the arrays of its sequences, `with_gradients` and `with_table` (whether the
        gradients, and that of the table, are asked for), it gives `Sums`.
      arrays: the hidden states [B, T, D] and the table, which alone get gradients, as in `cross_entropy`; then any others, which
        are split over devices along their first axis.
      mesh: as in `cross_entropy`.
    """

    def sums(*arrays: jax.Array, with_gradients: bool, with_table: bool = False) -> Sums:
        on_device = partial(local, with_gradients=with_gradients, with_table=with_table)
        if mesh is None or mesh.size == 1:
            return on_device(*arrays)

        def over_devices(*arrays: jax.Array) -> Sums:
            x_BxTxD, table_1xVxD, *others = arrays
            loss, reported, dx_BxTxD, dtable_VxD = on_device(x_BxTxD, table_1xVxD[0], *others)
            loss, reported = jax.lax.psum((loss, reported), BATCH_AXES)
            return loss, reported, dx_BxTxD, None if dtable_VxD is None else dtable_VxD[None]

        split, whole = P(BATCH_AXES), P()
        specs_out = (whole, whole, split, split)
        return jax.shard_map(over_devices, mesh=mesh, in_specs=split, out_specs=specs_out, check_vma=False)(*arrays)

    @jax.custom_vjp
    def losses(*arrays: jax.Array) -> tuple[jax.Array, Any]:
        return sums(*arrays, with_gradients=False)[:2]

    def forward(*arrays: Any) -> tuple[tuple[jax.Array, Any], Any]:
        _, table, *_ = arrays  # `perturbed`: its gradient is asked for
        values = [array.value for array in arrays]
        loss, reported, *gradients = sums(*values, with_gradients=True, with_table=table.perturbed)
        return (loss, reported), gradients

    def backward(gradients: Any, cotangents: tuple[jax.Array, Any]) -> tuple[jax.Array | None, ...]:
        dx_BxTxD, dtable_VxD = gradients
        scale = cotangents[0]
        dtable_VxD = None if dtable_VxD is None else dtable_VxD * scale
        return (dx_BxTxD * scale).astype(dx_BxTxD.dtype), dtable_VxD, *[None] * (len(arrays) - 2)

    losses.defvjp(forward, backward, symbolic_zeros=True)
    return losses(*arrays)


@jax.named_scope("loss")
def target_log_probabilities(
    x_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    vocab_size: int,
    chunk: int,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The log-probability of each target in nats, float32 [B, T]; the arguments are those of `cross_entropy`.

    It has no gradient. `cross_entropy` weighted by -c gives the gradient of sum(c * log-probabilities).
    """

    def local(x_BxTxD: jax.Array, table_VxD: jax.Array, targets_BxT: jax.Array) -> jax.Array:
        B, T, _ = x_BxTxD.shape
        table = table_VxD.astype(x_BxTxD.dtype)

        def one_chunk(x_NxD: jax.Array, target_N: jax.Array) -> jax.Array:
            logits_NxV = logits_of(x_NxD, table, vocab_size)
            log_z_N = jax.nn.logsumexp(logits_NxV, axis=-1)
            return jnp.take_along_axis(logits_NxV, target_N[:, None], axis=-1)[:, 0] - log_z_N

        inputs = (in_chunks(x_BxTxD, chunk), in_chunks(targets_BxT, chunk))
        logp = jax.lax.map(lambda of_chunk: one_chunk(*of_chunk), inputs)
        return unchunked(logp, B, T)

    arrays = jax.lax.stop_gradient((x_BxTxD, table_VxD, targets_BxT))
    if mesh is None or mesh.size == 1:
        return local(*arrays)

    def over_devices(x_BxTxD: jax.Array, table_1xVxD: jax.Array, targets_BxT: jax.Array) -> jax.Array:
        return local(x_BxTxD, table_1xVxD[0], targets_BxT)

    split = P(BATCH_AXES)
    return jax.shard_map(over_devices, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(*arrays)


def in_chunks(a_BxTx: jax.Array, chunk: int) -> jax.Array:
    """[B, T, ...] -> [T / C, B * C, ...], in the order that they have in memory."""
    B, T = a_BxTx.shape[:2]
    return a_BxTx.reshape(T // chunk, B * chunk, *a_BxTx.shape[2:])


def unchunked(chunks: jax.Array, B: int, T: int) -> jax.Array:
    """[T / C, B * C, ...] -> [B, T, ...]."""
    return chunks.reshape(B, T, *chunks.shape[2:])


def logits_of(x_NxD: jax.Array, table_VxD: jax.Array, vocab_size: int) -> jax.Array:
    """The logits of one chunk, float32 [N, V]; -inf for the padding of the vocabulary."""
    return without_padding(jnp.einsum("nd,vd->nv", x_NxD, table_VxD, preferred_element_type=jnp.float32), vocab_size)


def without_padding(logits_NxV: jax.Array, vocab_size: int) -> jax.Array:
    """The logits with -inf for the padding of the vocabulary."""
    if vocab_size == logits_NxV.shape[1]:
        return logits_NxV
    return jnp.where(jnp.arange(logits_NxV.shape[1]) < vocab_size, logits_NxV, -jnp.inf)


def softmax_parts(logits_NxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum of each row, and the sum of exp(logit - maximum); float32 [N] each."""
    return jax.lax.platform_dependent(logits_NxV, cpu=_max_and_sum, default=_max_and_sum_in_one_pass)


def _max_and_sum(logits_NxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    max_N = jnp.max(logits_NxV, axis=-1)
    return max_N, jnp.sum(jnp.exp(logits_NxV - max_N[:, None]), axis=-1)


def _max_and_sum_in_one_pass(logits_NxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `_max_and_sum`, but a GPU reads the logits once: two parts of a row join to their maximum and the sum that belongs to it
    (online softmax, arXiv:1805.02867). A CPU does not vectorize it.
    """

    def join(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        smaller = jnp.exp(-jnp.abs(left[0] - right[0]))  # what the part with the smaller maximum is multiplied by
        is_left_larger = left[0] >= right[0]
        left_sum = jnp.where(is_left_larger, left[1], left[1] * smaller)
        right_sum = jnp.where(is_left_larger, right[1] * smaller, right[1])
        return jnp.maximum(left[0], right[0]), left_sum + right_sum

    least = jnp.finfo(jnp.float32).min  # -inf minus -inf would be NaN
    logits_NxV = jnp.maximum(logits_NxV, least)
    return jax.lax.reduce((logits_NxV, jnp.ones_like(logits_NxV)), (least, jnp.float32(0)), join, (1,))


def _local(
    x_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    *,
    vocab_size: int,
    chunk: int,
    z_loss: float,
    with_gradients: bool,
    with_table: bool,
) -> Sums:
    """The work of one device; the gradients, or that of the table alone, are None where they are not asked for."""
    B, T, _ = x_BxTxD.shape
    table = table_VxD.astype(x_BxTxD.dtype)
    ids_V = jnp.arange(table.shape[0])
    # In training the logits are stored in the compute dtype: they are read more often than the products take. Their rounding is
    # random, and as large as that of their gradient. What is only reported stays in float32.
    stored_dtype = x_BxTxD.dtype if with_gradients else jnp.float32

    def one_chunk(carry, inputs):  # type: ignore[no-untyped-def]  # a scan body
        loss, nll, dtable_VxD = carry
        x_NxD, target_N, weight_N = inputs
        stored_NxV = jnp.einsum("nd,vd->nv", x_NxD, table, preferred_element_type=stored_dtype)
        logits_NxV = without_padding(stored_NxV.astype(jnp.float32), vocab_size)
        max_N, sum_N = softmax_parts(logits_NxV)
        log_z_N = max_N + jnp.log(sum_N)
        # From what is stored: a gather from anything computed of it would compute all of it.
        nll_N = log_z_N - jnp.take_along_axis(stored_NxV, target_N[:, None], axis=-1)[:, 0]
        nll += jnp.sum(weight_N * nll_N)
        loss += jnp.sum(weight_N * (nll_N + z_loss * log_z_N**2))
        if not with_gradients:
            return (loss, nll, None), None
        # d loss / d logits = weight * (p * (1 + 2 z log Z) - onehot), p = exp / sum
        p_scale_N = weight_N * (1 + 2 * z_loss * log_z_N) / sum_N
        is_target_NxV = ids_V == target_N[:, None]
        exp_NxV = jnp.exp(logits_NxV - max_N[:, None])
        dlogits_NxV = exp_NxV * p_scale_N[:, None] - jnp.where(is_target_NxV, weight_N[:, None], 0)
        dlogits_NxV = dlogits_NxV.astype(x_NxD.dtype)
        dx_NxD = jnp.einsum("nv,vd->nd", dlogits_NxV, table)
        if with_table:
            dtable_VxD += jnp.einsum("nv,nd->vd", dlogits_NxV, x_NxD, preferred_element_type=jnp.float32)
        return (loss, nll, dtable_VxD), dx_NxD

    zero = jnp.zeros((), dtype=jnp.float32)
    start = (zero, zero, jnp.zeros(table.shape, dtype=jnp.float32) if with_table else None)
    inputs = tuple(in_chunks(each, chunk) for each in (x_BxTxD, targets_BxT, weights_BxT))
    (loss, nll, dtable_VxD), dx = jax.lax.scan(one_chunk, start, inputs)
    return loss, nll, None if dx is None else unchunked(dx, B, T), dtable_VxD
