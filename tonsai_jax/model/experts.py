"""A mixture of experts: a router sends each token to a few of many feed-forward networks (arXiv:1701.06538, arXiv:2401.04088).

A token makes k choices, one for each expert that it is routed to. An expert has a fixed number of capacity slots, and a choice
takes one slot of its expert. When an expert is full, further choices are dropped: they add nothing to the token, and they are
counted. First choices take slots before second ones.

Tokens are gathered into the slots, all experts run as one batched matrix product, and each token gathers the outputs of its
slots. Both directions and both gradients are gathers, never scattered sums.

Each device of the mesh routes its own tokens. Where experts are spread over the `expert` axis of the mesh, an all-to-all
sends the slots to the devices of their experts, and another one sends the outputs back.

Names: B batch, T sequence, D model width, E experts, k choices of a token, N tokens of a device, C slots of an expert, F inner
width, A = k * N choices of a device.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.linear import linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routing:
    """How a router distributed a batch; all float32.

    Attributes:
      load_balance: E * sum over experts of (share of the choices * mean probability): 1 where all experts get the same, E where
        one expert gets everything (Switch Transformer, arXiv:2101.03961, equation 4, for k choices).
      z: mean of log(Z)^2 over tokens, where Z is the sum of the exponentials of the router's logits. As a loss it keeps the
        logits small (ST-MoE, arXiv:2202.08906, equation 5).
      load_E: share of the choices that went to each expert, dropped ones included.
      dropped: share of the choices that found no slot.
      entropy: entropy of the router's probabilities in nats, mean over tokens.
    """

    load_balance: jax.Array
    z: jax.Array
    load_E: jax.Array
    dropped: jax.Array
    entropy: jax.Array


def expert_capacity(tokens: int, config: ModelConfig) -> int:
    """Capacity slots of an expert: `capacity_factor` times its even share of `tokens`; with a factor of 0, `tokens`.

    There are never more slots than tokens, and at least one.
    """
    if config.capacity_factor == 0:
        return tokens
    share = tokens * config.experts_per_token / config.num_experts
    return min(tokens, max(1, -int(-share * config.capacity_factor // 1)))


@jax.named_scope("experts")
def mixture_of_experts(
    x_BxTxD: jax.Array,
    router_DxE: jax.Array,
    up_ExDxF: jax.Array,
    down_ExFxD: jax.Array,
    *,
    config: ModelConfig,
    mesh: Mesh | None,
    dropless: bool,
) -> tuple[jax.Array, Routing]:
    """Routes each token to k experts; returns the weighted sum of their outputs, [B, T, D] in the dtype of `x`, and the routing.

    The router is Mixtral's: a softmax over all experts, of which the k most probable are chosen; their weights are divided by
    their sum.

    Args:
      router_DxE, up_ExDxF, down_ExFxD: float32 kernels. The experts are SwiGLU, so `up` has 2 * d_ff columns, the gate first.
      mesh: the devices over which tokens, and possibly experts, are spread; None for one device, or to leave it to the compiler.
      dropless: ignore `capacity_factor` and give each expert a slot for every token. Then nothing is dropped, and each expert
        computes all N slots.
    """
    logits_BxTxE = jnp.einsum(
        "btd,de->bte", x_BxTxD.astype(jnp.float32), router_DxE, precision=jax.lax.Precision.HIGHEST
    )
    logits_BxTxE /= config.router_temperature
    probabilities_BxTxE = jax.nn.softmax(logits_BxTxE)
    weights_BxTxk, experts_BxTxk = jax.lax.top_k(probabilities_BxTxE, config.experts_per_token)
    weights_BxTxk /= weights_BxTxk.sum(axis=-1, keepdims=True)
    run = partial(_run_experts, config=dataclasses.replace(config, capacity_factor=0.0) if dropless else config)
    if mesh is not None and mesh.size > 1:
        tokens, experts = P(mesh.axis_names), P("expert")
        run = jax.shard_map(
            partial(run, mesh=mesh),
            mesh=mesh,
            in_specs=(tokens, tokens, tokens, experts, experts),
            out_specs=(tokens, P()),
            check_vma=False,
        )
    y_BxTxD, dropped = run(x_BxTxD, experts_BxTxk, weights_BxTxk, up_ExDxF, down_ExFxD)
    return y_BxTxD, _routing(logits_BxTxE, probabilities_BxTxE, experts_BxTxk, dropped)


def _routing(
    logits_BxTxE: jax.Array, probabilities_BxTxE: jax.Array, experts_BxTxk: jax.Array, dropped: jax.Array
) -> Routing:
    E = logits_BxTxE.shape[-1]
    chosen_BxTxE = jax.nn.one_hot(experts_BxTxk, E, dtype=jnp.float32).mean(axis=2)
    load_E = chosen_BxTxE.mean(axis=(0, 1))
    log_z_BxT = jax.nn.logsumexp(logits_BxTxE, axis=-1)
    entropy_BxT = log_z_BxT - (probabilities_BxTxE * logits_BxTxE).sum(axis=-1)
    return Routing(
        load_balance=E * jnp.sum(load_E * probabilities_BxTxE.mean(axis=(0, 1))),
        z=jnp.mean(log_z_BxT**2),
        load_E=load_E,
        dropped=dropped,
        entropy=entropy_BxT.mean(),
    )


def _run_experts(
    x_BxTxD: jax.Array,
    experts_BxTxk: jax.Array,
    weights_BxTxk: jax.Array,
    up_ExDxF: jax.Array,
    down_ExFxD: jax.Array,
    *,
    config: ModelConfig,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The work of one device: routes its tokens through their experts. Returns the outputs and the share of dropped choices."""
    B, T, D = x_BxTxD.shape
    N, E, k = B * T, config.num_experts, config.experts_per_token
    C = expert_capacity(N, config)
    x_NxD = x_BxTxD.reshape(N, D)
    slot_kN, choice_EC = _assign_slots(experts_BxTxk.reshape(N, k).T, E, C)

    gathered_ExCxD = _gather(x_NxD, choice_EC, slot_kN).reshape(E, C, D)
    # The weight of a slot is that of one choice, so choices are gathered here as if each were a token with one choice.
    weight_ExCx1 = _gather(weights_BxTxk.reshape(N, k).T.reshape(k * N, 1), choice_EC, slot_kN.reshape(1, k * N))
    weight_ExCx1 = weight_ExCx1.reshape(E, C, 1)
    spread = mesh is not None and mesh.shape["expert"] > 1
    if spread:
        to_experts = partial(jax.lax.all_to_all, axis_name="expert", split_axis=0, concat_axis=1, tiled=True)
        gathered_ExCxD, weight_ExCx1 = to_experts(gathered_ExCxD), to_experts(weight_ExCx1)
    linear_of_each = jax.vmap(partial(linear, bias_O=None))
    hidden_ExCx2F = checkpoint_name(linear_of_each(gathered_ExCxD, up_ExDxF), "mlp_pre_activation")
    gate_ExCxF, values_ExCxF = jnp.split(hidden_ExCx2F, 2, axis=-1)
    # Weighted here, not after `down`: so the gradient of the weights does not need the outputs of the experts, which the
    # backward pass would have to compute again only for that.
    weighted_ExCxF = (jax.nn.silu(gate_ExCxF) * values_ExCxF * weight_ExCx1).astype(x_BxTxD.dtype)
    out_ExCxD = linear_of_each(weighted_ExCxF, down_ExFxD)
    if spread:
        out_ExCxD = jax.lax.all_to_all(out_ExCxD, "expert", split_axis=1, concat_axis=0, tiled=True)

    y_NxD = _combine(out_ExCxD.reshape(E * C, D), choice_EC, slot_kN)
    dropped = jnp.mean(slot_kN == E * C, dtype=jnp.float32)
    if mesh is not None:
        dropped = jax.lax.pmean(dropped, mesh.axis_names)
    return y_NxD.reshape(B, T, D), dropped


def _assign_slots(experts_kN: jax.Array, num_experts: int, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Which slot each choice takes, and which choice each slot holds.

    Returns:
      slot_kN: int32 from 0 to E*C - 1, or E*C where the choice is dropped.
      choice_EC: int32 from 0 to k*N - 1 (choice j of token n is j*N + n), or k*N where the slot is empty.
    """
    k, N = experts_kN.shape
    expert_A = experts_kN.reshape(-1)  # all first choices, then all second ones
    before_AxE = jnp.cumsum(jax.nn.one_hot(expert_A, num_experts, dtype=jnp.int32), axis=0)
    rank_A = jnp.take_along_axis(before_AxE, expert_A[:, None], axis=1)[:, 0] - 1
    num_slots = num_experts * capacity
    slot_A = jnp.where(rank_A < capacity, expert_A * capacity + rank_A, num_slots)
    choice_EC = jnp.full(num_slots, k * N, jnp.int32).at[slot_A].set(jnp.arange(k * N, dtype=jnp.int32), mode="drop")
    return slot_A.reshape(k, N), choice_EC


def _rows(x_NxD: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `x` by number; zeros for a number past the end."""
    return x_NxD.at[index].get(mode="fill", fill_value=0)


# `_gather` and `_combine` are each other's gradient.


@jax.custom_vjp
def _gather(x_NxD: jax.Array, choice_EC: jax.Array, slot_kN: jax.Array) -> jax.Array:
    """The token in each slot, [E*C, D]; zeros in an empty slot."""
    k, N = slot_kN.shape
    return _rows(x_NxD, jnp.where(choice_EC < k * N, choice_EC % N, N))


@jax.custom_vjp
def _combine(out_ECxD: jax.Array, choice_EC: jax.Array, slot_kN: jax.Array) -> jax.Array:
    """The sum over the slots of each token, [N, D] in the dtype of `out`; it is added up in float32."""
    y_NxD = sum(_rows(out_ECxD, slot_N).astype(jnp.float32) for slot_N in slot_kN)
    return jnp.asarray(y_NxD, out_ECxD.dtype)


_gather.defvjp(
    lambda x_NxD, *indices: (_gather(x_NxD, *indices), indices),
    lambda indices, dy_ECxD: (_combine(dy_ECxD, *indices), None, None),
)
_combine.defvjp(
    lambda out_ECxD, *indices: (_combine(out_ECxD, *indices), indices),
    lambda indices, dy_NxD: (_gather(dy_NxD, *indices), None, None),
)
