"""LayerNorm and RMSNorm with a gradient of their own, which reads and writes memory less than that of automatic differentiation.

All norms are one formula over the last axis: y = (x - mean) / sqrt(variance + epsilon) * scale + bias. An RMSNorm has no mean
and no bias, and its variance is the mean of x^2.

On a GPU a norm costs the time in which its arrays [N, D] are read and written (N tokens, D model width). From the gradient below
XLA makes one kernel for the sums over each row, and one for the gradients of x and scale, which also adds the gradient of the
residual branch. From the derivative that JAX finds by itself it makes one that writes a float32 [N, D] and one that reads it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.config import ModelConfig, choices_of

_Kept = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, epsilon: float, dtype: jnp.dtype
) -> jax.Array:
    """LayerNorm (arXiv:1607.06450) with a bias, RMSNorm (arXiv:1910.07467) without one: [..., D] in `dtype`, float32 inside.

    Args:
      x: [..., D].
      scale_D, bias_D: float32.
      epsilon: is added to the variance.
    """
    return _forward(x, scale_D, bias_D, epsilon, dtype)[0]


def _forward(
    x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, epsilon: float, dtype: jnp.dtype
) -> tuple[jax.Array, _Kept]:
    mean = None if bias_D is None else x.astype(jnp.float32).mean(axis=-1, keepdims=True)
    centered = _centered(x, mean)
    # In this order XLA makes the sum over a row and the norm one kernel. With rstd * scale first it makes two.
    y = centered * jax.lax.rsqrt(_row_mean(centered**2) + epsilon) * scale_D
    y = y if bias_D is None else y + bias_D
    return y.astype(dtype), (x, scale_D, bias_D, mean)


def _backward(
    epsilon: float, dtype: jnp.dtype, kept: _Kept, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    # The variance is computed again, because it needs no pass of its own next to the other sums over rows. The barrier hides from
    # XLA that the forward pass has it, or XLA would keep it, and need one more pass over x there.
    x, scale_D, bias_D, mean = jax.lax.optimization_barrier(kept)
    dy, centered = dy.astype(jnp.float32), _centered(x, mean)
    gradient = dy * scale_D  # of the normalized x
    rstd = jax.lax.rsqrt(_row_mean(centered**2) + epsilon)
    dx = gradient - centered * (rstd**2 * _row_mean(gradient * centered))
    rows = tuple(range(x.ndim - 1))
    dscale_D = jnp.sum(dy * (centered * rstd), axis=rows)
    if bias_D is None:
        return (dx * rstd).astype(x.dtype), dscale_D, None
    return ((dx - _row_mean(gradient)) * rstd).astype(x.dtype), dscale_D, jnp.sum(dy, axis=rows)


def _centered(x: jax.Array, mean: jax.Array | None) -> jax.Array:
    return x.astype(jnp.float32) if mean is None else x.astype(jnp.float32) - mean


def _row_mean(a: jax.Array) -> jax.Array:
    return a.mean(axis=-1, keepdims=True)


normalize.defvjp(_forward, _backward)


class Norm(nnx.Module):
    """A norm of `config.norm` over `size` elements: statistics in float32, output in the compute dtype.

    Raises `UserError` for another `config.norm`.

    The parameters are used in float32: in bfloat16 most of a small change of `scale` would be lost next to its 1.
    """

    def __init__(self, config: ModelConfig, size: int, rngs: nnx.Rngs):
        if config.norm not in ("layernorm", "rmsnorm", "zero_centered_rmsnorm"):
            raise unknown_name("model.norm", config.norm, choices_of("norm"))
        self.epsilon = config.norm_epsilon
        self.dtype = jnp.dtype(config.dtype)
        self.zero_centered = config.norm == "zero_centered_rmsnorm"
        # The keys have no effect here. They keep the initial values of the parameters after these what they have always been.
        self.scale = nnx.Param(jnp.zeros(size) if self.zero_centered else nnx.initializers.ones(rngs.params(), (size,)))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (size,))) if config.norm == "layernorm" else None

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.scale[...].astype(jnp.float32)  # that of a frozen base may be bfloat16
        bias_D = None if self.bias is None else self.bias[...].astype(jnp.float32)
        return normalize(x, 1 + scale_D if self.zero_centered else scale_D, bias_D, self.epsilon, self.dtype)
