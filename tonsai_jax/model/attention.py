"""Attention, behind one function: which kernel runs is chosen once, said aloud, and never changed silently."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig

CAUSAL_BLOCKS = 4  # parts of the queries, each of which is given only the keys that it may see


def choose_attention_backend(config: ModelConfig, backend: str, seq_lens: Sequence[int] = ()) -> tuple[str, str]:
    """The attention kernel for `backend` ("cpu", "gpu", "tpu") and why: ("xla" or "cudnn", reason to print).

    Args:
      seq_lens: lengths of the sequences that the model is trained on.

    Raises `UserError` when the kernel asked for cannot run there with these settings.
    """
    if config.attention == "xla":
        return "xla", "asked for by model.attention"
    obstacle = _cudnn_obstacle(config, backend, seq_lens)
    if obstacle is None:
        return "cudnn", "fused attention of the GPU"
    if config.attention == "cudnn":
        raise UserError(f"model.attention=cudnn cannot be used: {obstacle}; set model.attention=xla")
    return "xla", f"not cudnn: {obstacle}"


def _cudnn_obstacle(config: ModelConfig, backend: str, seq_lens: Sequence[int]) -> str | None:
    if backend != "gpu":
        return f"it needs an NVIDIA GPU and this run is on {backend}"
    if config.dtype != "bfloat16":
        return f"it needs model.dtype=bfloat16, not {config.dtype}"
    if config.head_dim > 256 or config.head_dim % 8:
        return f"it needs a head size that is a multiple of 8 up to 256, not {config.head_dim}"
    if odd := [length for length in seq_lens if length % 2]:
        return f"it needs sequences of an even length, not {odd[0]}"
    if config.attention_dropout:
        return "it has no dropout on attention probabilities (model.attention_dropout)"
    return None


def attention(
    q_BxTxHxDh: jax.Array,
    k_BxSxKxDh: jax.Array,
    v_BxSxKxDh: jax.Array,
    *,
    kernel: str,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention scaled by 1/sqrt(head size); returns [B, T, H, Dh] in the dtype of `v`.

    Each of the K heads of keys and values serves H / K heads of queries that stand side by side (arXiv:2305.13245).

    Args:
      kernel: "xla" or "cudnn", from `choose_attention_backend`.
      mask: boolean, [B or 1, 1, T, S], True where a query may look; None means causal (T == S).
      dropout: rate on the attention probabilities, applied only where `dropout_key` is given.
    """
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(
            q_BxTxHxDh, k_BxSxKxDh, v_BxSxKxDh, mask=mask, is_causal=mask is None, implementation="cudnn"
        )
    B, T, H, Dh = q_BxTxHxDh.shape
    K = k_BxSxKxDh.shape[2]
    q_BxKxGxTxDh = q_BxTxHxDh.reshape(B, T, K, H // K, Dh).transpose(0, 2, 3, 1, 4) * (1.0 / math.sqrt(Dh))
    k_BxKxSxDh, v_BxKxSxDh = k_BxSxKxDh.transpose(0, 2, 1, 3), v_BxSxKxDh.transpose(0, 2, 1, 3)
    if mask is not None:
        out_BxKxGxTxDh = _attend(q_BxKxGxTxDh, k_BxKxSxDh, v_BxKxSxDh, mask[:, :, None], dropout, dropout_key)
    else:
        # No query looks past its own block, so the keys after it are never multiplied: 3/8 of the work is saved.
        blocks = CAUSAL_BLOCKS if T % CAUSAL_BLOCKS == 0 else 1
        keys = (None,) * blocks if dropout_key is None else jax.random.split(dropout_key, blocks)
        outs = []
        for block, key in enumerate(keys):
            start, end = block * T // blocks, (block + 1) * T // blocks
            causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)
            part = (q_BxKxGxTxDh[:, :, :, start:end], k_BxKxSxDh[:, :, :end], v_BxKxSxDh[:, :, :end])
            outs.append(_attend(*part, causal, dropout, key))
        out_BxKxGxTxDh = jnp.concatenate(outs, axis=3)
    return out_BxKxGxTxDh.transpose(0, 3, 1, 2, 4).reshape(B, T, H, Dh)


def _attend(
    q_BxKxGxTxDh: jax.Array,
    k_BxKxSxDh: jax.Array,
    v_BxKxSxDh: jax.Array,
    mask: jax.Array,
    dropout: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Attention of queries that are scaled already; the softmax's sum divides the narrow output, not the wide weights."""
    scores_BxKxGxTxS = jnp.einsum("bkgtd,bksd->bkgts", q_BxKxGxTxDh, k_BxKxSxDh, preferred_element_type=jnp.float32)
    scores_BxKxGxTxS = jnp.where(mask, scores_BxKxGxTxS, jnp.finfo(jnp.float32).min)
    max_BxKxGxTx1 = jax.lax.stop_gradient(scores_BxKxGxTxS.max(axis=-1, keepdims=True))
    weights_BxKxGxTxS = jnp.exp(scores_BxKxGxTxS - max_BxKxGxTx1)
    sum_BxKxGxTx1 = weights_BxKxGxTxS.sum(axis=-1, keepdims=True)
    if dropout and dropout_key is not None:
        keep = jax.random.bernoulli(dropout_key, 1.0 - dropout, weights_BxKxGxTxS.shape)
        weights_BxKxGxTxS = jnp.where(keep, weights_BxKxGxTxS / (1.0 - dropout), 0)
    out_BxKxGxTxDh = jnp.einsum(
        "bkgts,bksd->bkgtd", weights_BxKxGxTxS.astype(v_BxKxSxDh.dtype), v_BxKxSxDh, preferred_element_type=jnp.float32
    )
    return (out_BxKxGxTxDh / sum_BxKxGxTx1).astype(v_BxKxSxDh.dtype)


def document_mask(is_end_BxT: jax.Array) -> jax.Array:
    """Causal mask [B, 1, T, T] in which no token sees another document.

    `is_end_BxT` is True at end-of-text tokens. Each belongs to the document that it opens: from there the first token of
    the next document is predicted, and generation begins a document with it too.
    """
    segment_ids_BxT = jnp.cumsum(is_end_BxT.astype(jnp.int32), axis=1)
    T = is_end_BxT.shape[1]
    same_document = segment_ids_BxT[:, None, :, None] == segment_ids_BxT[:, None, None, :]
    return same_document & jnp.tril(jnp.ones((T, T), dtype=bool))
