"""Softmax attention behind one function. Its backend is chosen once, printed, and never replaced silently."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.model.config import ModelConfig

ATTENTION_BACKENDS = ("xla", "cudnn")
CAUSAL_BLOCKS = 4  # blocks of queries; each is multiplied only with the keys up to its own end


def choose_attention_backend(config: ModelConfig, backend: str, seq_lens: Sequence[int] = ()) -> tuple[str, str]:
    """The attention backend for `config.attention`, "xla" or "cudnn", and the reason to print.

    Args:
      backend: of JAX: "cpu", "gpu" or "tpu".
      seq_lens: the lengths in tokens of the training sequences.

    Raises `UserError` where `config.attention` asks for cuDNN and it cannot run.
    """
    if config.attention == "xla":
        return "xla", "set by model.attention"
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
        return f"it has no dropout of attention probabilities (model.attention_dropout={config.attention_dropout})"
    return None


@jax.named_scope("attention")
def attention(
    q_BxTxHxDh: jax.Array,
    k_BxSxKxDh: jax.Array,
    v_BxSxKxDh: jax.Array,
    *,
    attention_backend: str,
    scale: float,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention: [B, T, H, Dh] in the dtype of `v`.

    Each head of keys and values serves H / K consecutive heads of queries (grouped-query attention, arXiv:2305.13245).

    Args:
      attention_backend: "xla" or "cudnn", from `choose_attention_backend`.
      scale: what scores are multiplied by, such as 1/sqrt(Dh).
      mask: boolean [B or 1, 1, T, S], True where a query attends to a key; None is causal, with T == S.
      dropout: rate for the attention probabilities; without `dropout_key` nothing is dropped.

    Raises `UserError` for another backend.
    """
    if attention_backend == "cudnn":
        return jax.nn.dot_product_attention(
            q_BxTxHxDh,
            k_BxSxKxDh,
            v_BxSxKxDh,
            mask=mask,
            scale=scale,
            is_causal=mask is None,
            implementation="cudnn",
        )
    if attention_backend != "xla":
        raise unknown_name("attention backend", attention_backend, ATTENTION_BACKENDS)
    B, T, H, Dh = q_BxTxHxDh.shape
    K = k_BxSxKxDh.shape[2]
    q_BxKxGxTxDh = q_BxTxHxDh.reshape(B, T, K, H // K, Dh).transpose(0, 2, 3, 1, 4) * scale
    k_BxKxSxDh, v_BxKxSxDh = k_BxSxKxDh.transpose(0, 2, 1, 3), v_BxSxKxDh.transpose(0, 2, 1, 3)
    if mask is not None:
        out_BxKxGxTxDh = _masked_attention(q_BxKxGxTxDh, k_BxKxSxDh, v_BxKxSxDh, mask[:, :, None], dropout, dropout_key)
    else:
        # No query attends past its own block, so the keys after the block are not multiplied: 3/8 of the work is saved.
        blocks = CAUSAL_BLOCKS if T % CAUSAL_BLOCKS == 0 else 1
        dropout_keys = (None,) * blocks if dropout_key is None else jax.random.split(dropout_key, blocks)
        outputs = []
        for block, block_key in enumerate(dropout_keys):
            start, end = block * T // blocks, (block + 1) * T // blocks
            causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)
            qkv = (q_BxKxGxTxDh[:, :, :, start:end], k_BxKxSxDh[:, :, :end], v_BxKxSxDh[:, :, :end])
            outputs.append(_masked_attention(*qkv, causal, dropout, block_key))
        out_BxKxGxTxDh = jnp.concatenate(outputs, axis=3)
    return out_BxKxGxTxDh.transpose(0, 3, 1, 2, 4).reshape(B, T, H, Dh)


def _masked_attention(
    q_BxKxGxTxDh: jax.Array,
    k_BxKxSxDh: jax.Array,
    v_BxKxSxDh: jax.Array,
    mask: jax.Array,
    dropout: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Attention of queries that are already scaled. It divides the narrow output by the softmax's sum, not the wide weights."""
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
    """Causal mask, boolean [B, 1, T, T], in which a token attends only to tokens of its own document.

    Args:
      is_end_BxT: True at end-of-text tokens. Such a token belongs to the document after it: the first token of that document
        is predicted from it, and generation begins a document with it.
    """
    return segment_mask(jnp.cumsum(is_end_BxT.astype(jnp.int32), axis=1))


def segment_mask(segments_BxT: jax.Array) -> jax.Array:
    """Causal mask, boolean [B, 1, T, T], in which a token attends only to tokens with the same number, int32 [B, T]."""
    same_segment = segments_BxT[:, None, :, None] == segments_BxT[:, None, None, :]
    return same_segment & causal_mask(segments_BxT.shape[1])


def segment_positions(segments_BxT: jax.Array) -> jax.Array:
    """The position of each token in its segment, counted from 0, int32 [B, T]; the numbers of segments rise along T."""
    positions_T = jnp.arange(segments_BxT.shape[1])
    begins_BxT = jnp.diff(segments_BxT, axis=1, prepend=segments_BxT[:, :1] - 1) != 0
    return positions_T - jax.lax.cummax(jnp.where(begins_BxT, positions_T, 0), axis=1)


def causal_mask(T: int) -> jax.Array:
    """Boolean [T, T], True where a token attends to itself and those before it."""
    return jnp.tril(jnp.ones((T, T), dtype=bool))


def subtree_mask(ends_BxT: jax.Array) -> jax.Array:
    """Causal mask, boolean [B, 1, T, T], of sequences that share their beginnings: a token attends to its ancestors and itself.

    A row holds trees of tokens in depth-first order; each path from a root is a sequence. A shared token is computed once.

    Args:
      ends_BxT: int32, the index after the last token of the subtree that begins with each token.
    """
    index_T = jnp.arange(ends_BxT.shape[1])
    inside_BxTxT = index_T[:, None] < ends_BxT[:, None, :]
    return (inside_BxTxT & causal_mask(len(index_T)))[:, None]


def window_mask(positions: jax.Array, key_positions: jax.Array, window: int) -> jax.Array:
    """Boolean [B or 1, 1, T, S], True for keys after the first position of the window that ends with the query.

    It does not hide the keys after the query: combine it with a causal mask.

    Args:
      positions: of the queries, [T] or [B, T].
      key_positions: of the keys, [S] or [B, S].
      window: tokens in the window of a query, itself included.
    """
    mask = key_positions[..., None, :] > positions[..., None] - window
    return mask.reshape(-1, 1, *mask.shape[-2:])
