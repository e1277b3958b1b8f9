"""The norms over the last axis of an array: LayerNorm, RMSNorm, and RMSNorm with weights around 1."""

import jax
import jax.numpy as jnp
from flax import nnx

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.config import ModelConfig


class ZeroCenteredRMSNorm(nnx.Module):
    """RMSNorm that multiplies by 1 + w, where the parameter w starts at 0; float32 inside, output in `dtype`.

    The sum is computed in float32, because bfloat16 would lose most of a small w next to the 1.
    """

    def __init__(self, size: int, *, epsilon: float, dtype: jnp.dtype):
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.zeros(size))

    def __call__(self, x: jax.Array) -> jax.Array:
        x_float32 = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x_float32), axis=-1, keepdims=True)
        normalized = x_float32 * jax.lax.rsqrt(variance + self.epsilon)
        return (normalized * (1.0 + self.scale[...])).astype(self.dtype)


def make_norm(config: ModelConfig, size: int, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm | ZeroCenteredRMSNorm:
    """The norm of `config.norm` for `size` elements: statistics in float32, output in the compute dtype.

    Raises `UserError` for another `config.norm`.
    """
    dtype = jnp.dtype(config.dtype)
    if config.norm == "zero_centered_rmsnorm":
        return ZeroCenteredRMSNorm(size, epsilon=config.norm_epsilon, dtype=dtype)
    norms = {"layernorm": nnx.LayerNorm, "rmsnorm": nnx.RMSNorm}
    if config.norm not in norms:
        raise unknown_name("model.norm", config.norm, (*norms, "zero_centered_rmsnorm"))
    return norms[config.norm](size, epsilon=config.norm_epsilon, dtype=dtype, use_fast_variance=False, rngs=rngs)
