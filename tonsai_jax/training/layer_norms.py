"""Norms of parameters, gradients and updates by layer: where in the model training goes wrong."""

from typing import Any

import jax
import jax.numpy as jnp

KINDS = ("parameters", "gradients", "updates")


def group_names(params: Any) -> list[str]:
    """The groups of `group_norms`: what is in no layer, such as "token_embedding", and then "layer_0", "layer_1", ...

    Args:
      params: nested dict of arrays or of their shapes, trained ones only; what is under "blocks" has its layer as first axis.
    """
    leaves = jax.tree.leaves(params.get("blocks", {}))
    layers = leaves[0].shape[0] if leaves else 0
    return [name for name in sorted(params) if name != "blocks"] + [f"layer_{number}" for number in range(layers)]


def group_norms(tree: Any) -> jax.Array:
    """The norm of each group of a tree like the parameters, float32 [groups] in the order of `group_names`."""
    others = [
        sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree[name]))
        for name in sorted(tree)
        if name != "blocks"
    ]
    stacked = jax.tree.leaves(tree.get("blocks", {}))
    layers = [jnp.sum(jnp.square(leaf), axis=range(1, leaf.ndim)) for leaf in stacked]
    squares = [jnp.stack(others)] if others else []
    return jnp.sqrt(jnp.concatenate([*squares, sum(layers)] if layers else squares))


def metric_names(params: Any) -> list[str]:
    """The names of the norms in the metrics, for the values of a step in one row: all groups of a kind, then the next kind."""
    return [f"norm/{kind}/{group}" for kind in KINDS for group in group_names(params)]
