"""What the backward pass keeps of a layer, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

WIDE = ["qkv", "mlp_pre_activation"]  # the widest matrix products of a layer, by the names that it gives them


def remat_policy(name: str) -> Callable[..., Any]:
    """The policy for `jax.checkpoint`; "none" is not a policy but no remat.

    "full" keeps nothing; "qkv_mlp" the widest matrix products and the fused attention, which must be named by its primitive,
    else its forward runs twice; "offload" the same, but the products in the host's memory. (JAX's policies for all matrix
    products keep none here: ours are in functions with gradients of their own, into which those policies do not look.)
    """
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "offload":
        wide = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=WIDE,
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        wide = policies.save_only_these_names(*WIDE)

    def policy(primitive: Any, *args: Any, **params: Any) -> Any:
        return "dot_product_attention" in primitive.name or wide(primitive, *args, **params)

    return policy
