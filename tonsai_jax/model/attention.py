"""Attention, behind one function: which kernel runs is chosen once, said aloud, and never changed silently."""

import math

import jax
import jax.numpy as jnp

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig

CAUSAL_BLOCKS = 4  # parts of the queries, each of which is given only the keys that it may see


def choose_kernel(config: ModelConfig, backend: str) -> tuple[str, str]:
    """The attention kernel for `backend` ("cpu", "gpu", "tpu") and why: ("xla" or "cudnn", reason to print).

    Raises `UserError` when the kernel asked for cannot run there with these settings.
    """
    if config.attention == "xla":
        return "xla", "asked for by model.attention"
    obstacle = _cudnn_obstacle(config, backend)
    if obstacle is None:
        return "cudnn", "fused attention of the GPU"
    if config.attention == "cudnn":
        raise UserError(f"model.attention=cudnn cannot be used: {obstacle}; set model.attention=xla")
    return "xla", f"not cudnn: {obstacle}"


def _cudnn_obstacle(config: ModelConfig, backend: str) -> str | None:
    if backend != "gpu":
        return f"it needs an NVIDIA GPU and this run is on {backend}"
    if config.dtype != "bfloat16":
        return f"it needs model.dtype=bfloat16, not {config.dtype}"
    if config.head_dim > 256 or config.head_dim % 8:
        return f"it needs a head size that is a multiple of 8 up to 256, not {config.head_dim}"
    if config.attention_dropout:
        return "it has no dropout on attention probabilities (model.attention_dropout)"
    if config.document_mask:
        return "it has no document mask (model.document_mask)"
    return None


def attention(
    q_BxTxHxDh: jax.Array,
    k_BxSxHxDh: jax.Array,
    v_BxSxHxDh: jax.Array,
    *,
    kernel: str,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention scaled by 1/sqrt(head size); returns [B, T, H, Dh] in the dtype of `v`.

    Args:
      kernel: "xla" or "cudnn", from `choose_kernel`.
      mask: boolean, [B or 1, 1, T, S], True where a query may look; None means causal (T == S).
      dropout: rate on the attention probabilities, applied only where `dropout_key` is given.
    """
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q_BxTxHxDh, k_BxSxHxDh, v_BxSxHxDh, is_causal=True, implementation="cudnn")
    q_BxHxTxDh, k_BxHxSxDh, v_BxHxSxDh = (x.transpose(0, 2, 1, 3) for x in (q_BxTxHxDh, k_BxSxHxDh, v_BxSxHxDh))
    q_BxHxTxDh = q_BxHxTxDh * (1.0 / math.sqrt(q_BxHxTxDh.shape[-1]))
    T = q_BxHxTxDh.shape[2]
    if mask is not None:
        out_BxHxTxDh = _attend(q_BxHxTxDh, k_BxHxSxDh, v_BxHxSxDh, mask, dropout, dropout_key)
    else:
        # No query looks past its own block, so the keys after it are never multiplied: 3/8 of the work is saved.
        blocks = CAUSAL_BLOCKS if T % CAUSAL_BLOCKS == 0 else 1
        keys = (None,) * blocks if dropout_key is None else jax.random.split(dropout_key, blocks)
        outs = []
        for block, key in enumerate(keys):
            start, end = block * T // blocks, (block + 1) * T // blocks
            causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)
            part = (q_BxHxTxDh[:, :, start:end], k_BxHxSxDh[:, :, :end], v_BxHxSxDh[:, :, :end])
            outs.append(_attend(*part, causal, dropout, key))
        out_BxHxTxDh = jnp.concatenate(outs, axis=2)
    return out_BxHxTxDh.transpose(0, 2, 1, 3)


def _attend(
    q_BxHxTxDh: jax.Array,
    k_BxHxSxDh: jax.Array,
    v_BxHxSxDh: jax.Array,
    mask: jax.Array,
    dropout: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Attention of queries that are scaled already; the softmax's sum divides the narrow output, not the wide weights."""
    scores_BxHxTxS = jnp.einsum("bhtd,bhsd->bhts", q_BxHxTxDh, k_BxHxSxDh, preferred_element_type=jnp.float32)
    scores_BxHxTxS = jnp.where(mask, scores_BxHxTxS, jnp.finfo(jnp.float32).min)
    max_BxHxTx1 = jax.lax.stop_gradient(scores_BxHxTxS.max(axis=-1, keepdims=True))
    weights_BxHxTxS = jnp.exp(scores_BxHxTxS - max_BxHxTx1)
    sum_BxHxTx1 = weights_BxHxTxS.sum(axis=-1, keepdims=True)
    if dropout and dropout_key is not None:
        keep = jax.random.bernoulli(dropout_key, 1.0 - dropout, weights_BxHxTxS.shape)
        weights_BxHxTxS = jnp.where(keep, weights_BxHxTxS / (1.0 - dropout), 0)
    out_BxHxTxDh = jnp.einsum(
        "bhts,bhsd->bhtd", weights_BxHxTxS.astype(v_BxHxSxDh.dtype), v_BxHxSxDh, preferred_element_type=jnp.float32
    )
    return (out_BxHxTxDh / sum_BxHxTx1).astype(v_BxHxSxDh.dtype)


def document_mask(is_end_BxT: jax.Array) -> jax.Array:
    """Causal mask [B, 1, T, T] in which no token sees another document.

    `is_end_BxT` is True at end-of-text tokens. Each belongs to the document that it opens: from there the first token of
    the next document is predicted, and generation begins a document with it too.
    """
    segment_ids_BxT = jnp.cumsum(is_end_BxT.astype(jnp.int32), axis=1)
    T = is_end_BxT.shape[1]
    same_document = segment_ids_BxT[:, None, :, None] == segment_ids_BxT[:, None, None, :]
    return same_document & jnp.tril(jnp.ones((T, T), dtype=bool))
