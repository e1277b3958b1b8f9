"""The activations of feed-forward networks, with written-out gradients that keep nothing but the inputs.

Both directions compute in float32 and round once. Automatic differentiation of bfloat16 code would round after each operation,
and would keep what lies between them, in the widest arrays of a layer.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

# float32 [...] -> the activation and its derivative, float32 [...] each.
_WithSlope = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@jax.named_scope("activation")
def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form (arXiv:1606.08415, section 2), elementwise, in the dtype of `x`."""
    return _activated(_gelu, x)


@jax.named_scope("activation")
def relu2(x: jax.Array) -> jax.Array:
    """max(x, 0)^2 (arXiv:2109.08668), elementwise, in the dtype of `x`."""
    return _activated(_relu2, x)


@jax.named_scope("activation")
def swiglu(gate_and_values: jax.Array) -> jax.Array:
    """SiLU(gate) * values (arXiv:2002.05202): [..., 2F] -> [..., F] in the same dtype, the gate first. SiLU is x * sigmoid(x)."""
    return _gated(_silu, *_halves(gate_and_values))


@jax.named_scope("activation")
def geglu(gate_and_values: jax.Array) -> jax.Array:
    """GELU(gate) * values (arXiv:2002.05202): [..., 2F] -> [..., F] in the same dtype, the gate first."""
    return _gated(_gelu, *_halves(gate_and_values))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Slices, not a split: XLA computes and joins their gradients in one kernel, those of a split in three.
    width = x.shape[-1] // 2
    return x[..., :width], x[..., width:]


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # 0.5 * (1 + tanh(u)) is sigmoid(2u), which is more exact in float32 and has one exponential.
    scale, cubic = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
    share = jax.nn.sigmoid(scale * (x + cubic * x**3))
    return x * share, share * (1.0 + x * (1.0 - share) * scale * (1.0 + 3.0 * cubic * x**2))


def _relu2(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    positive = jnp.maximum(x, 0.0)
    return positive * positive, 2.0 * positive


def _silu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    share = jax.nn.sigmoid(x)
    return x * share, share * (1.0 + x * (1.0 - share))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _activated(activation: _WithSlope, x: jax.Array) -> jax.Array:
    return activation(x.astype(jnp.float32))[0].astype(x.dtype)


def _activated_backward(activation: _WithSlope, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    _, slope = activation(x.astype(jnp.float32))
    return ((dy.astype(jnp.float32) * slope).astype(x.dtype),)


_activated.defvjp(lambda activation, x: (_activated(activation, x), x), _activated_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(activation: _WithSlope, gate: jax.Array, values: jax.Array) -> jax.Array:
    return (activation(gate.astype(jnp.float32))[0] * values.astype(jnp.float32)).astype(values.dtype)


def _gated_backward(
    activation: _WithSlope, inputs: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    gate, values = inputs
    dy_float32 = dy.astype(jnp.float32)
    active, slope = activation(gate.astype(jnp.float32))
    dgate = dy_float32 * values.astype(jnp.float32) * slope
    return dgate.astype(gate.dtype), (dy_float32 * active).astype(values.dtype)


_gated.defvjp(lambda activation, gate, values: (_gated(activation, gate, values), (gate, values)), _gated_backward)
