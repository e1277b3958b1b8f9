"""cuDNN's fused attention over documents of different lengths that lie one behind the other in memory.

JAX has it only as private functions. All of those that we use are in this file, and `obstacle` says where they are not as this
file expects them. It binds the primitives that become the calls of cuDNN, not JAX's functions around them: those allow a fixed
number of documents in each row, and in JAX 0.10 they compute wrong offsets for grouped-query attention.

Array names carry their shape: B sequences of one device, T tokens, M documents per sequence on average, H heads of queries, K
of keys and values, Dh head size.
"""

import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TOKENS_PER_DOCUMENT = 128  # the average from which on all documents have a place
MOST_PER_SEQUENCE = 16
# Parameters of the primitives in JAX 0.10 to 0.12. The last two are for functions of the scores, which we do not use.
_PARAMETERS = ("scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout", "sliding_window_length")
_UNUSED_PARAMETERS = ("score_mod_name", "score_mod_jaxpr")


class Packing(NamedTuple):
    """Where the documents of a batch lie.

    cuDNN takes a list of at most B * M documents. The tables are this list in rows, so that they can be split over devices like
    the batch; each device has a list of its own sequences, and counts tokens from its first.

    Attributes:
      segments_BxT: int32, rises along T; the tokens of a document have one number.
      lengths_BxM: int32, tokens of each document; 0 after the last.
      begins_BxM1: int32, the first token of each document; B * T after the last.
      fits_B: bool, whether the list holds all documents of the device, the same for all its sequences. If not, the list is of
        no use.
    """

    segments_BxT: jax.Array
    lengths_BxM: jax.Array
    begins_BxM1: jax.Array
    fits_B: jax.Array


def documents_per_sequence(T: int) -> int:
    """M for sequences of T tokens: cuDNN's workspace and the softmax statistics that are kept grow with it."""
    return max(2, min(MOST_PER_SEQUENCE, T // TOKENS_PER_DOCUMENT))


def pack(segments_BxT: jax.Array) -> Packing:
    """Finds the documents of a device's sequences; `segments_BxT` as in `Packing`. A document ends with its sequence."""
    B, T = segments_BxT.shape
    M = documents_per_sequence(T)
    begins_BxT = (jnp.diff(segments_BxT, axis=1) != 0).astype(jnp.int32)
    begins_BxT = jnp.pad(begins_BxT, ((0, 0), (1, 0)), constant_values=1)
    document_N = jnp.cumsum(begins_BxT.reshape(-1)) - 1
    lengths = jnp.zeros(B * M, jnp.int32).at[document_N].add(1, mode="drop")
    begins = jnp.minimum(jnp.cumsum(lengths, dtype=jnp.int32), B * T)
    # cuDNN reads B * M + 1 of these, and their shape says what M is.
    begins_BxM1 = jnp.full(B * (M + 1), B * T, jnp.int32).at[0].set(0).at[1 : B * M + 1].set(begins).reshape(B, M + 1)
    fits_B = jnp.broadcast_to(document_N[-1] < B * M, B)
    return Packing(segments_BxT, lengths.reshape(B, M), begins_BxM1, fits_B)


def forward(
    q_BxTxHxDh: jax.Array,
    k_BxTxKxDh: jax.Array,
    v_BxTxKxDh: jax.Array,
    packing: Packing,
    *,
    scale: float,
    training: bool,
) -> tuple[jax.Array, ...]:
    """Causal attention inside each document: (output [B, T, H, Dh],) or, in training, also its softmax statistics.

    The statistics, float32 [B * M, H, T], are what `backward` needs. Arrays are bfloat16 or float16. Only for NVIDIA GPUs, from
    Hopper on.
    """
    primitive, parameters = _primitive("fwd")
    operands = (q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, *_tables(q_BxTxHxDh, k_BxTxKxDh, packing))
    return tuple(primitive.bind(*operands, **parameters, scale=scale, is_training=training))


def backward(
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
    """The gradients of q, k and v, in their shapes and dtype, from the output and the statistics of `forward`."""
    primitive, parameters = _primitive("bwd")
    operands = (q_BxTxHxDh, k_BxTxKxDh, v_BxTxKxDh, *_tables(q_BxTxHxDh, k_BxTxKxDh, packing))
    return tuple(primitive.bind(*operands, statistics, out_BxTxHxDh, gradient_BxTxHxDh, **parameters, scale=scale))


def obstacle(num_heads: int, num_kv_heads: int, head_dim: int) -> str | None:
    """Why the private functions of the installed JAX cannot be used for these heads, or None. It needs no GPU."""

    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)

    def both(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        packing = pack(jnp.zeros(q.shape[:2], jnp.int32))
        out, statistics = forward(q, k, v, packing, scale=1.0, training=True)
        return out, backward(q, k, v, packing, out, statistics, out, scale=1.0)

    queries, keys = shape(2, 256, num_heads, head_dim), shape(2, 256, num_kv_heads, head_dim)
    try:
        found = jax.eval_shape(both, queries, keys, keys)
    except Exception as error:  # a private function that is gone or changed can fail in any way
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the private functions of JAX {jax.__version__} are not the expected ones ({first_line[:120]})"
    if found != (queries, (queries, keys, keys)):
        return f"the private functions of JAX {jax.__version__} give other shapes than expected"
    return None


def workspace_bytes(batch_size: int, T: int, num_heads: int, head_dim: int) -> int:
    """The memory that cuDNN takes in the backward pass: the gradient of q is summed in float32, [B * M, H, T, Dh].

    From the sources of cuDNN's frontend and of XLA (`GetCudnnFlashAttentionBackwardOperationGraph`): XLA does not tell cuDNN that
    the documents share B * T tokens. XLA asks a real GPU for this size, so it is missing in programs compiled without one.
    """
    return 4 * batch_size * documents_per_sequence(T) * num_heads * T * head_dim


def _tables(q_BxTxHxDh: jax.Array, k_BxTxKxDh: jax.Array, packing: Packing) -> tuple[jax.Array, ...]:
    """The operands of the primitives after q, k and v: no bias, lengths and offsets of queries and keys, and no pages.

    Offsets count elements of the arrays, not tokens.
    """
    unused = jnp.zeros(0, q_BxTxHxDh.dtype)
    offsets = tuple(packing.begins_BxM1 * math.prod(array.shape[2:]) for array in (q_BxTxHxDh, k_BxTxKxDh))
    return (unused, packing.lengths_BxM, packing.lengths_BxM, *offsets, unused, unused)


def _primitive(direction: str) -> tuple[Any, dict[str, Any]]:
    """JAX's primitive, "fwd" or "bwd", and the parameters that are always the same. Raises where it takes others."""
    import jax._src.cudnn.fused_attention_stablehlo as fused_attention  # private: a run must start without it

    name = f"_dot_product_attention_{direction}"
    lowering = inspect.signature(getattr(fused_attention, f"{name}_cuda_lowering")).parameters
    operands = list(lowering)[1 : list(lowering).index("scale")]
    expected = ["query", "key", "value", "bias", "q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets"]
    expected += ["page_table_k", "page_table_v"]
    expected += ["activation", "fwd_output", "grad_output"] if direction == "bwd" else []
    parameters = set(lowering) - {"ctx", *operands, "is_training"}
    if [each for each in operands if each != "score_mod_args"] != expected:
        raise TypeError(f"operands of {name}: {', '.join(operands)}")
    if not set(_PARAMETERS) <= parameters <= {*_PARAMETERS, *_UNUSED_PARAMETERS}:
        raise TypeError(f"parameters of {name}: {', '.join(sorted(parameters))}")
    values = {
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),  # no bias, and no gradient of one
        "mask_type": fused_attention.MaskType.PADDING_CAUSAL,
        "layout": fused_attention.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
    return getattr(fused_attention, f"{name}_p"), values | {
        each: None for each in _UNUSED_PARAMETERS if each in parameters
    }
