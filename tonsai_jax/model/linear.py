"""A linear layer whose gradients are written out: matrices of two dimensions, and float32 sums for the parameters.

XLA on a CPU takes these matrix products faster than the ones that differentiation makes of a product in three dimensions:
a fifth off the time of a feed-forward layer (scripts/bench/train_step.py times the whole step).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def linear(x_NxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array | None) -> jax.Array:
    """x @ kernel + bias in the dtype of `x`; gradients of the float32 kernel and bias are float32 sums."""
    y_NxO = x_NxI @ kernel_IxO.astype(x_NxI.dtype)
    return y_NxO if bias_O is None else y_NxO + bias_O.astype(x_NxI.dtype)


def _forward(x_NxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array | None) -> tuple[jax.Array, Any]:
    return linear(x_NxI, kernel_IxO, bias_O), (x_NxI, kernel_IxO, bias_O is not None)


def _backward(residuals: Any, dy_NxO: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x_NxI, kernel_IxO, has_bias = residuals
    dx_NxI = jnp.einsum("no,io->ni", dy_NxO, kernel_IxO.astype(dy_NxO.dtype))
    dkernel_IxO = jnp.einsum("ni,no->io", x_NxI, dy_NxO, preferred_element_type=jnp.float32)
    return dx_NxI, dkernel_IxO, jnp.sum(dy_NxO, axis=0, dtype=jnp.float32) if has_bias else None


linear.defvjp(_forward, _backward)


class Kernel(nnx.Module):
    """A matrix of that shape, float32, normal with `std`; what it is multiplied with is up to who holds it."""

    def __init__(self, *shape: int, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(std)(rngs.params(), shape))


class Linear(Kernel):
    """A kernel [I, O], normal with `std`, and perhaps a bias [O] of zeros; float32. Computes in the dtype of its input."""

    def __init__(self, features_in: int, features_out: int, *, std: float, bias: bool, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, std=std, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(features_out)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] -> [..., O]."""
        bias_O = None if self.bias is None else self.bias[...]
        y_NxO = linear(x.reshape(-1, x.shape[-1]), self.kernel[...], bias_O)
        return y_NxO.reshape(*x.shape[:-1], -1)
