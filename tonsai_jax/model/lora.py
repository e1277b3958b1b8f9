"""LoRA (arXiv:2106.09685): the model stays as it is, and next to some of its kernels two narrow matrices are trained.

Such a layer computes x W + b + (alpha / rank) * (dropout(x) A) B. The narrow matrices are the adapter of the layer: in the
parameters they are "adapter" next to "kernel", `lora_a` [I, R] and `lora_b` [R, O], stacked over layers as everything in
"blocks". All other parameters are the base. B starts at 0, so a new adapter changes nothing.

Names: N tokens, I and O width of a layer's input and output, R rank, L layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from tonsai_jax.model.block import dropout
from tonsai_jax.model.config import Lora
from tonsai_jax.model.linear import linear
from tonsai_jax.model.transformer import Transformer

# Uniform between -1/sqrt(I) and 1/sqrt(I): Kaiming's for a = sqrt(5), with which the authors' program and `peft` begin, so
# that learning rates carry over. (The paper itself says normal.)
_INIT_A = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=0)


class Adapter(nnx.Module):
    """The adapter of a layer's kernel; float32.

    Args:
      number: of the kernel among the targets; it sets the dropout of one apart from that of the others.
    """

    def __init__(self, num_layers: int, features_in: int, features_out: int, lora: Lora, number: int, rngs: nnx.Rngs):
        self.lora = lora
        self.number = number
        self.lora_a = nnx.Param(_INIT_A(rngs.params(), (num_layers, features_in, lora.rank)))
        self.lora_b = nnx.Param(jnp.zeros((num_layers, lora.rank, features_out)))

    def __call__(self, x_NxI: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """What it adds to the output of the kernel, [N, O] in the dtype of `x`; without a key nothing is dropped."""
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, self.number)
        hidden_NxR = linear(dropout(x_NxI, self.lora.dropout, key), self.lora_a[...], None)
        return linear(hidden_NxR * self.lora.scale, self.lora_b[...], None)


def add_adapters(model: Transformer, lora: Lora, rngs: nnx.Rngs) -> None:
    """Gives each target of `lora` an adapter, its A drawn from the stream "params"; the model has the targets."""
    for number, name in enumerate(lora.targets):
        layer = getattr(model.blocks, name)
        num_layers, features_in, features_out = layer.kernel.shape
        layer.adapter = Adapter(num_layers, features_in, features_out, lora, number, rngs)
    model.blocks.adapter_dropout = lora.dropout


def split_adapters(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a model as two trees: those of its adapters, and its base."""
    leaves = flatten_dict(params)
    adapters = {path: leaf for path, leaf in leaves.items() if "adapter" in path}
    return unflatten_dict(adapters), unflatten_dict({path: leaves[path] for path in leaves.keys() - adapters.keys()})


def join_adapters(adapters: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The way back of `split_adapters`. Without a base (an empty dict) the first tree is all of the model."""
    return unflatten_dict(flatten_dict(base) | flatten_dict(adapters)) if base else adapters


def merge_adapters(params: dict[str, Any], lora: Lora) -> dict[str, Any]:
    """The parameters of a model without adapters that computes the same: W + (alpha / rank) A B in place of W, in W's dtype.

    The sum is float32. Where `W` is not, rounding it loses what is small next to `W`.
    """
    leaves = flatten_dict(params)
    for path in [path[:-2] for path in leaves if path[-1] == "lora_a"]:
        a, b = (leaves.pop((*path, "adapter", name)) for name in ("lora_a", "lora_b"))
        leaves[*path, "kernel"] = _merged(leaves[*path, "kernel"], a, b, lora.scale)
    return unflatten_dict(leaves)


@jax.jit
def _merged(kernel_LxIxO: jax.Array, a_LxIxR: jax.Array, b_LxRxO: jax.Array, scale: float) -> jax.Array:
    product_LxIxO = jnp.matmul(a_LxIxR, b_LxRxO, precision=jax.lax.Precision.HIGHEST)
    return (kernel_LxIxO.astype(jnp.float32) + scale * product_LxIxO).astype(kernel_LxIxO.dtype)


def stored_base(base: Any, compute_dtype: str) -> Any:
    """The base as a run keeps it: what is only ever used in the compute dtype is stored in it, the rest stays float32.

    So matrices take two bytes a parameter in a bfloat16 run, not four. Not the router, which computes in float32.
    """

    def stored(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        is_matrix = names[-1] in ("kernel", "token_embedding", "head") and "router" not in names
        return leaf.astype(compute_dtype) if is_matrix else leaf

    return jax.tree_util.tree_map_with_path(stored, base)
