"""A linear layer with written-out gradients: two-dimensional matrix products, and float32 sums for the parameters.

XLA on a CPU runs these products faster than those that automatic differentiation makes of a three-dimensional product: the
time of a feed-forward network falls by a fifth (scripts/bench/train_step.py times the whole step).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def linear(x_NxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array | None) -> jax.Array:
    """x @ kernel + bias: [N, O] in the dtype of `x`. The gradients of the float32 kernel and bias are float32 sums.

    A gradient that nobody asks for, as that of a frozen kernel, is not computed, and what it would need is not kept.
    """
    y_NxO = x_NxI @ kernel_IxO.astype(x_NxI.dtype)
    return y_NxO if bias_O is None else y_NxO + bias_O.astype(x_NxI.dtype)


def _forward(x: Any, kernel: Any, bias: Any) -> tuple[jax.Array, Any]:
    """Each argument has a `value`, and whether its gradient is asked for (`perturbed`)."""
    y_NxO = linear(x.value, kernel.value, None if bias is None else bias.value)
    x_NxI = x.value if kernel.perturbed else None
    bias_O = bias.value if bias is not None and bias.perturbed else None
    return y_NxO, (x_NxI, kernel.value, bias_O)


def _backward(residuals: Any, dy_NxO: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    x_NxI, kernel_IxO, bias_O = residuals
    dx_NxI = jnp.einsum("no,io->ni", dy_NxO, kernel_IxO.astype(dy_NxO.dtype))
    dkernel_IxO = dbias_O = None
    if x_NxI is not None:
        dkernel_IxO = jnp.einsum("ni,no->io", x_NxI, dy_NxO, preferred_element_type=jnp.float32)
    if bias_O is not None:
        dbias_O = jnp.sum(dy_NxO, axis=0, dtype=jnp.float32)
    return dx_NxI, dkernel_IxO, dbias_O


linear.defvjp(_forward, _backward, symbolic_zeros=True)


class Kernel(nnx.Module):
    """A float32 weight matrix of the given shape, drawn from a normal distribution; its owner does the multiplication."""

    def __init__(self, *shape: int, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(std)(rngs.params(), shape))


class Linear(Kernel):
    """A linear layer: a normal kernel [I, O] and, where `bias` is set, zeros [O]; both float32.

    Attributes:
      adapter: what `lora.add_adapters` puts next to the kernel; called with the rows of `x` and the key of `__call__`.
    """

    adapter: Callable[[jax.Array, jax.Array | None], jax.Array] | None = None

    def __init__(self, features_in: int, features_out: int, *, std: float, bias: bool, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, std=std, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(features_out)) if bias else None

    @jax.named_scope("linear")
    def __call__(self, x: jax.Array, adapter_key: jax.Array | None = None) -> jax.Array:
        """[..., I] -> [..., O] in the dtype of `x`; `adapter_key` is the random key for the dropout of an adapter."""
        bias_O = None if self.bias is None else self.bias[...]
        x_NxI = x.reshape(-1, x.shape[-1])
        y_NxO = linear(x_NxI, self.kernel[...], bias_O)
        if self.adapter is not None:
            y_NxO += self.adapter(x_NxI, adapter_key)
        return y_NxO.reshape(*x.shape[:-1], -1)
