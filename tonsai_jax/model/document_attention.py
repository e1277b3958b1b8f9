"""Attention inside documents on a GPU, without a mask: cuDNN is told where each document begins.

A mask of B x T x T would be a bias for cuDNN, with which it multiplies each query with all keys of the sequence. The mask remains
as what a batch with too many documents falls back to, and as what the packed form is compared with when a run starts.

Array names carry their shape: B batch, T sequence, H query heads, K heads of keys and values, Dh head size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tonsai_jax.model import cudnn_packed
from tonsai_jax.model.attention import attention, segment_mask
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.cudnn_packed import Packing


def pack(segments_BxT: jax.Array, mesh: Mesh | None) -> Packing:
    """`cudnn_packed.pack` on each device for its own sequences; once per step, for all layers."""
    return _on_each_device(cudnn_packed.pack, mesh)(segments_BxT)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def document_attention(
    q_BxTxHxDh: jax.Array,
    k_BxTxKxDh: jax.Array,
    v_BxTxKxDh: jax.Array,
    packing: Packing,
    scale: float,
    mesh: Mesh | None,
) -> jax.Array:
    """Causal softmax attention inside each document: [B, T, H, Dh] in the dtype of `v`, which is bfloat16.

    Args:
      packing: from `pack`. Where it does not hold all documents of a device, this device uses the mask.
      scale: what scores are multiplied by.
      mesh: the devices over which sequences are spread; None for one device.
    """
    return _on_each_device(partial(_forward, scale=scale, training=False), mesh)(
        q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, packing
    )[0]


def _document_attention_fwd(
    q_BxTxHxDh: jax.Array,
    k_BxTxKxDh: jax.Array,
    v_BxTxKxDh: jax.Array,
    packing: Packing,
    scale: float,
    mesh: Mesh | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    qkv_and_packing = (q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, packing)
    forward = _on_each_device(partial(_forward, scale=scale, training=True), mesh)
    # Named, or the backward pass with remat would run the condition again, only to copy what is kept.
    out_BxTxHxDh, statistics = (checkpoint_name(each, "packed_attention") for each in forward(*qkv_and_packing))
    return out_BxTxHxDh, (*qkv_and_packing, out_BxTxHxDh, statistics)


def _document_attention_bwd(
    scale: float, mesh: Mesh | None, kept: tuple[Any, ...], gradient_BxTxHxDh: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    return (*_on_each_device(partial(_backward, scale=scale), mesh)(*kept, gradient_BxTxHxDh), None)


document_attention.defvjp(_document_attention_fwd, _document_attention_bwd)


@jax.named_scope("attention")
def _forward(
    q_BxTxHxDh: jax.Array,
    k_BxTxKxDh: jax.Array,
    v_BxTxKxDh: jax.Array,
    packing: Packing,
    *,
    scale: float,
    training: bool,
) -> tuple[jax.Array, ...]:
    def packed(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        return cudnn_packed.forward(q, k, v, packing, scale=scale, training=training)

    def masked(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        # Both branches must give statistics. Here nothing reads them.
        statistics = [jnp.full(each.shape, q[0, 0, 0, 0], each.dtype) for each in jax.eval_shape(packed, q, k, v)[1:]]
        return (_masked(q, k, v, packing.segments_BxT, scale), *statistics)

    return jax.lax.cond(_fits(q_BxTxHxDh, packing), packed, masked, q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh)


@jax.named_scope("attention")
def _backward(
    q_BxTxHxDh: jax.Array,
    k_BxTxKxDh: jax.Array,
    v_BxTxKxDh: jax.Array,
    packing: Packing,
    out_BxTxHxDh: jax.Array,
    statistics: jax.Array,
    gradient_BxTxHxDh: jax.Array,
    *,
    scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def packed(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        return cudnn_packed.backward(q, k, v, packing, *rest, scale=scale)

    def masked(q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        # It computes the output again, so that the usual case keeps nothing for it.
        return jax.vjp(lambda *qkv: _masked(*qkv, packing.segments_BxT, scale), q, k, v)[1](rest[-1])

    arrays = (q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, out_BxTxHxDh, statistics, gradient_BxTxHxDh)
    return jax.lax.cond(_fits(q_BxTxHxDh, packing), packed, masked, *arrays)


def _fits(q_BxTxHxDh: jax.Array, packing: Packing) -> jax.Array:
    return packing.fits_B[0] & (q_BxTxHxDh.size < 2**31)  # offsets count elements in int32


@partial(jax.checkpoint, static_argnums=4)
def _masked(
    q_BxTxHxDh: jax.Array, k_BxTxKxDh: jax.Array, v_BxTxKxDh: jax.Array, segments_BxT: jax.Array, scale: float
) -> jax.Array:
    # `jax.checkpoint` keeps the mask inside the branch. Without it JAX moves the parts of the mask that are the same for all
    # layers before the first one, where each step writes them, needed or not.
    mask = segment_mask(segments_BxT)
    return attention(q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, attention_backend="cudnn", scale=scale, mask=mask)


def _on_each_device(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The function of the sequences of one device, applied to those of all; every array is split along its first axis."""
    is_on_one_device = bool(jax.sharding.get_abstract_mesh().manual_axes)  # already: the step adds up micro-batches so
    if mesh is None or mesh.size == 1 or is_on_one_device:
        return function
    split = P(mesh.axis_names)
    return jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)


def difference_on_this_gpu(config: ModelConfig) -> str | None:
    """Compares packed documents with the mask on this process's first GPU: what is wrong, or None.

    Two sequences of 512 tokens with the heads and the dtype of the model, one of them with documents of 1 token to 300, forward
    and backward. The largest difference may be 2 % of the largest value: bfloat16 has 8 bits, and a document that sees another
    one's tokens differs by more.
    """
    B, T, heads, width = 2, 512, (config.num_heads, config.kv_heads, config.kv_heads), config.head_dim
    lengths = np.array([1, 37, 300, 64, 1, T - 403, T])
    segments_BxT = np.repeat(np.arange(len(lengths)), lengths).reshape(B, T)
    random = np.random.default_rng(0)
    *qkv, weights = (jnp.asarray(random.normal(size=(B, T, each, width)), config.dtype) for each in (*heads, heads[0]))

    def compare(q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array, segments_BxT: jax.Array) -> jax.Array:
        packing = cudnn_packed.pack(segments_BxT)
        scale = config.attention_scale
        packed, packed_vjp = jax.vjp(lambda *qkv: document_attention(*qkv, packing, scale, None), q, k, v)
        masked, masked_vjp = jax.vjp(lambda *qkv: _masked(*qkv, segments_BxT, scale), q, k, v)
        pairs = zip((packed, *packed_vjp(weights)), (masked, *masked_vjp(weights)), strict=True)
        in_float32 = [(mine.astype(jnp.float32), right.astype(jnp.float32)) for mine, right in pairs]
        return jnp.stack([jnp.max(jnp.abs(mine - right)) / jnp.max(jnp.abs(right)) for mine, right in in_float32])

    try:
        with jax.default_device(jax.local_devices()[0]):
            differences = np.asarray(jax.jit(compare)(*qkv, weights, jnp.asarray(segments_BxT, jnp.int32)))
    except Exception as error:  # cuDNN or a private function can fail in any way; the mask needs neither
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"packed documents do not run here ({first_line[:120]})"
    if not np.all(differences <= 0.02):  # also where one is NaN
        worst = ", ".join(
            f"{name} {each:.1%}" for name, each in zip(("output", "dq", "dk", "dv"), differences, strict=True)
        )
        return f"packed documents differ from the mask on this GPU ({worst})"
    return None
