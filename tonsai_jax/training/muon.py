"""Muon for the matrices of the layers, Adam for all other parameters.

Muon (https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest matrix whose singular
values are all about 1. Each matrix is treated separately: of each layer, of each expert, and each part of a fused kernel (q, k
and v; gate and values of a gated MLP). Treated as one matrix, a part with a large gradient would leave the other parts almost
no update.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

UPDATE_RMS = 0.2  # of the updates of AdamW in practice (arXiv:2502.16982, section 2.2)
# Fused kernels, and for each the kernel whose input is as wide as the first matrix in it.
FUSED = {"qkv": "attention_out", "mlp_up": "mlp_down", "experts_up": "experts_down"}


def scale_by_muon_and_adam(
    *, beta1: float, beta2: float, epsilon: float, momentum: float, mu_dtype: str
) -> optax.GradientTransformation:
    """Muon with Nesterov momentum for the kernels in "blocks" except the router's; Adam for all other parameters.

    The updates of Muon for a matrix [I, O] are scaled by 0.2 * sqrt(max(I, O)). Their elements then have a root mean square of
    0.2, as those of AdamW, so both work with the same learning rate and weight decay (arXiv:2502.16982, equation 4).

    Args:
      beta1, beta2, epsilon: of Adam.
      momentum: of Muon.
      mu_dtype: dtype in which the first moments of both are stored.
    """
    muon = optax.chain(
        scale_by_muon(beta=momentum, mu_dtype=mu_dtype, weight_dimension_numbers=_last_two_axes),
        optax.stateless_with_tree_map(lambda update, _: UPDATE_RMS * math.sqrt(max(update.shape[-2:])) * update),
    )
    adam = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon, mu_dtype=mu_dtype)
    by_matrix = optax.partition({"muon": muon, "adam": adam}, _labels)

    def init(params: Any) -> Any:
        return by_matrix.init(cut_fused(params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = by_matrix.update(cut_fused(gradients), state)
        return _join_fused(updates), state

    return optax.GradientTransformation(init, update)


def cut_fused(tree: Any) -> Any:
    """The tree of parameters or gradients, with a tuple of matrices in place of each fused kernel.

    A qkv kernel [..., D, (H + 2K) * Dh] becomes q [..., D, H * Dh], k and v [..., D, K * Dh]. The kernel of a gated MLP,
    [..., D, 2F], becomes two of [..., D, F]; that of a plain MLP, [..., D, F], does not change.
    """
    blocks = dict(tree["blocks"])
    for name, following in FUSED.items():
        if name not in blocks:
            continue
        kernel, first = blocks[name]["kernel"], blocks[following]["kernel"].shape[-2]
        rest = kernel.shape[-1] - first
        if rest:
            ends = [first, first + rest // 2] if name == "qkv" else [first]
            blocks[name] = blocks[name] | {"kernel": tuple(jnp.split(kernel, ends, axis=-1))}
    return tree | {"blocks": blocks}


def _join_fused(tree: Any) -> Any:
    return jax.tree.map(
        lambda node: jnp.concatenate(node, axis=-1) if isinstance(node, tuple) else node,
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _labels(tree: Any) -> Any:
    def label(path: Any, _: Any) -> str:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        is_matrix = names[0] == "blocks" and "kernel" in names and "router" not in names
        return "muon" if is_matrix else "adam"

    return jax.tree_util.tree_map_with_path(label, tree)


def _last_two_axes(tree: Any) -> Any:
    """A matrix is the last two axes; the axes before count layers and experts."""
    return jax.tree.map(lambda _: MuonDimensionNumbers(reduction_axis=-2, output_axis=-1), tree)
