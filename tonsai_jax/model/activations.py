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
def swiglu(hidden_x2F: jax.Array) -> jax.Array:
    """SiLU(gate) * values (arXiv:2002.05202), [..., F] in the dtype of the input; SiLU is x * sigmoid(x).

    Args:
      hidden_x2F: [..., 2 * F], the F columns of the gate first.
    """
    return _gated(_silu, hidden_x2F)


@jax.named_scope("activation")
def geglu(hidden_x2F: jax.Array) -> jax.Array:
    """GELU(gate) * values (arXiv:2002.05202), [..., F] in the dtype of the input; see `swiglu`."""
    return _gated(_gelu, hidden_x2F)


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # 0.5 * (1 + tanh(u)) is sigmoid(2u), which is more exact in float32 and has one exponential.
    scale, cubic = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
    share = jax.nn.sigmoid(scale * (x + cubic * x**3))
    return x * share, share * (1.0 + x * (1.0 - share) * scale * (1.0 + 3.0 * cubic * x**2))


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
def _gated(activation: _WithSlope, hidden_x2F: jax.Array) -> jax.Array:
    gate_xF, values_xF = jnp.split(hidden_x2F.astype(jnp.float32), 2, axis=-1)
    return (activation(gate_xF)[0] * values_xF).astype(hidden_x2F.dtype)


def _gated_backward(activation: _WithSlope, hidden_x2F: jax.Array, dy_xF: jax.Array) -> tuple[jax.Array]:
    """Both halves of the gradient are computed as one array, from the input and from the input with its halves swapped.

    So XLA writes the gradient with one kernel. It would write two halves separately, and then copy them next to each other.
    """
    hidden_x2xF = hidden_x2F.reshape(*dy_xF.shape[:-1], 2, -1).astype(jnp.float32)
    swapped_x2xF = jnp.flip(hidden_x2xF, axis=-2)
    is_gate_2x1 = jnp.array([[True], [False]])
    gate_x2xF = jnp.where(is_gate_2x1, hidden_x2xF, swapped_x2xF)
    values_x2xF = jnp.where(is_gate_2x1, swapped_x2xF, hidden_x2xF)
    active_x2xF, slope_x2xF = activation(gate_x2xF)
    dhidden_x2xF = dy_xF[..., None, :].astype(jnp.float32) * jnp.where(
        is_gate_2x1, values_x2xF * slope_x2xF, active_x2xF
    )
    return (dhidden_x2xF.astype(hidden_x2F.dtype).reshape(hidden_x2F.shape),)


_gated.defvjp(lambda activation, hidden_x2F: (_gated(activation, hidden_x2F), hidden_x2F), _gated_backward)
