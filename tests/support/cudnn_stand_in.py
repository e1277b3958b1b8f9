"""What cuDNN computes for the calls of JAX's fused attention, in plain JAX on a CPU, from the operands that cuDNN gets.

It reads lengths and offsets as cuDNN does: offsets count elements of the arrays in memory.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused_attention
from jax._src.interpreters import mlir

from tonsai_jax.planning.described_gpu import cudnn_attention_without_a_gpu


@contextmanager
def cudnn_on_a_cpu() -> Iterator[None]:
    """In here programs with fused attention run on a CPU."""
    calls = {
        fused_attention._dot_product_attention_fwd_p: _forward,
        fused_attention._dot_product_attention_bwd_p: _backward,
    }
    for primitive, function in calls.items():
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True), platform="cpu")
    try:
        with cudnn_attention_without_a_gpu():
            yield
    finally:
        for primitive in calls:
            del mlir._platform_specific_lowerings["cpu"][primitive]


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, tables: tuple[jax.Array, ...], params: dict[str, Any]
) -> jax.Array:
    bias, lengths, key_lengths, offsets, key_offsets, *_ = tables
    B, T, H, Dh = q.shape
    causal = "CAUSAL" in params["mask_type"].name
    if offsets.ndim == 2:  # packed: all sequences are one
        lists = (lengths, offsets, q), (key_lengths, key_offsets, k)
        document, key_document = (_documents(*each) for each in lists)
        mask = (document[:, None] == key_document) & (document[:, None] >= 0)
        q, k, v = (array.reshape(1, B * T, *array.shape[2:]) for array in (q, k, v))
    else:
        mask = jnp.ones((T, T), bool)
    scores = jnp.einsum("bthd,bshd->bhts", q.astype(jnp.float32), jnp.repeat(k, H // k.shape[2], 2).astype(jnp.float32))
    scores = scores * params["scale"] + (bias.astype(jnp.float32) if params["variadic_args"][0] else 0.0)
    scores = jnp.where(mask & jnp.tri(mask.shape[0], dtype=bool) if causal else mask, scores, -1e30)
    out = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), jnp.repeat(v, H // v.shape[2], 2).astype(jnp.float32))
    return out.astype(v.dtype).reshape(B, T, H, Dh)


def _documents(lengths: jax.Array, offsets: jax.Array, array: jax.Array) -> jax.Array:
    """The number of the document of each token of [B * T], -1 for a token in none."""
    elements = math.prod(array.shape[2:])
    token = jnp.arange(array.shape[0] * array.shape[1])[:, None]
    begins = offsets.reshape(-1)[: lengths.size] // elements
    inside = (
        (begins <= token)
        & (token < begins + lengths.reshape(-1))
        & (offsets.reshape(-1)[: lengths.size] % elements == 0)
    )
    return jnp.where(inside.any(axis=1), jnp.argmax(inside, axis=1), -1)


def _forward(*operands: jax.Array, is_training: bool, **params: Any) -> list[jax.Array]:
    q, k, v, *tables = operands
    out = _attend(q, k, v, tuple(tables), params)
    documents = tables[1].size if tables[3].ndim == 2 else q.shape[0]
    return [out, jnp.zeros((documents, q.shape[2], q.shape[1]), jnp.float32)][: 1 + is_training]


def _backward(*operands: jax.Array, **params: Any) -> list[jax.Array]:
    q, k, v, *tables = operands[:10]
    _, out, gradient = operands[10:13]
    mine, vjp = jax.vjp(lambda q, k, v: _attend(q, k, v, tuple(tables), params), q, k, v)
    # As in cuDNN, the gradients are wrong where the output is not that of these operands.
    right = jnp.where(jnp.allclose(mine.astype(jnp.float32), out.astype(jnp.float32), atol=0.1), 1.0, jnp.nan)
    gradients = [(each * right).astype(each.dtype) for each in vjp(gradient)]
    return [
        *gradients,
        *([jnp.zeros_like(tables[0])] if params["variadic_args"][1] else []),
    ]  # of the bias: nobody reads it
