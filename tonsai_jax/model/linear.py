"""A linear layer whose gradients are written out: matrices of two dimensions, and float32 sums for the parameters.

XLA on a CPU takes these matrix products faster than the ones that differentiation makes of a product in three dimensions:
a fifth off the time of a feed-forward layer (scripts/bench/train_step.py times the whole step).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def linear(x_NxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array) -> jax.Array:
    """x @ kernel + bias in the dtype of `x`; gradients of the float32 kernel and bias are float32 sums."""
    return x_NxI @ kernel_IxO.astype(x_NxI.dtype) + bias_O.astype(x_NxI.dtype)


def _forward(x_NxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array) -> tuple[jax.Array, Any]:
    return linear(x_NxI, kernel_IxO, bias_O), (x_NxI, kernel_IxO)


def _backward(residuals: Any, dy_NxO: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x_NxI, kernel_IxO = residuals
    dx_NxI = jnp.einsum("no,io->ni", dy_NxO, kernel_IxO.astype(dy_NxO.dtype))
    dkernel_IxO = jnp.einsum("ni,no->io", x_NxI, dy_NxO, preferred_element_type=jnp.float32)
    return dx_NxI, dkernel_IxO, jnp.sum(dy_NxO, axis=0, dtype=jnp.float32)


linear.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """A kernel [I, O], normal with `std`, and a bias [O] of zeros; both float32. Computes in the dtype of its input."""

    def __init__(self, features_in: int, features_out: int, *, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(std)(rngs.params(), (features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] -> [..., O]."""
        y_NxO = linear(x.reshape(-1, x.shape[-1]), self.kernel[...], self.bias[...])
        return y_NxO.reshape(*x.shape[:-1], -1)
