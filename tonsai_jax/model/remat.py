"""Rematerialization: which values of a layer the backward pass keeps, and which it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from tonsai_jax.errors import unknown_name
from tonsai_jax.model.config import choices_of

# The widest matrix products of a layer, by the names that `checkpoint_name` gives them in the layer.
WIDE_PRODUCTS = ["qkv", "mlp_pre_activation", "experts_out"]
# What experts receive from other devices: kept, it is not sent a second time. And attention inside packed documents.
ALSO_KEPT = ["received_tokens", "packed_attention"]


def remat_policy(name: str) -> Callable[..., Any]:
    """The policy for `jax.checkpoint`. With "none" and "auto" there is no `jax.checkpoint`, so it has no policy.

    "full" keeps nothing. "qkv_mlp" keeps the widest matrix products, the output of fused attention, and the tokens that experts
    receive from other devices. "offload" keeps the same, but the products in the memory of the host. The fused attention is
    recognized by the name of its primitive; without that its forward pass runs twice.

    JAX's own policies for matrix products would keep nothing here: they do not look into functions with a custom gradient,
    as ours are.

    Raises `UserError` for another name.
    """
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "qkv_mlp":
        wide_products = policies.save_only_these_names(*WIDE_PRODUCTS, *ALSO_KEPT)
    elif name == "offload":
        wide_products = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=ALSO_KEPT,
            names_which_can_be_offloaded=WIDE_PRODUCTS,
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        raise unknown_name("model.remat", name, choices_of("remat"))

    def policy(primitive: Any, *args: Any, **params: Any) -> Any:
        return "dot_product_attention" in primitive.name or wide_products(primitive, *args, **params)

    return policy
