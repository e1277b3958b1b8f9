"""A mixture of experts: a router sends each token to a few of many feed-forward networks (arXiv:1701.06538, arXiv:2401.04088).

A token makes k choices, one for each expert that it is routed to. An expert has a fixed number of capacity slots, and a choice
takes one slot of its expert. When an expert is full, further choices are dropped: they add nothing to the token, and they are
counted. First choices take slots before second ones.

Tokens are gathered into the slots, all experts run as one batched matrix product, and each token adds up the outputs of its
slots, times the weights of its choices. Both directions and both gradients are gathers, never scattered sums.

Where nothing may be dropped, `model.grouped` can compute without empty slots: an expert has as many slots as choices.

Each device of the mesh routes its own tokens. Where experts are spread over the `expert` axis of the mesh, an all-to-all
sends the slots to the devices of their experts, and another one sends the outputs back.

Names: B batch, T sequence, D model width, E experts, k choices of a token, N tokens of a device, C slots of an expert, S slots of
all experts, F inner width, A = k * N choices of a device.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tonsai_jax.model.activations import swiglu
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
    backend: str,
) -> tuple[jax.Array, Routing]:
    """Routes each token to k experts; returns the weighted sum of their outputs, [B, T, D] in the dtype of `x`, and the routing.

    The router is Mixtral's: a softmax over all experts, of which the k most probable are chosen; their weights are divided by
    their sum.

    Args:
      router_DxE, up_ExDxF, down_ExFxD: float32 kernels. The experts are SwiGLU, so `up` has 2 * d_ff columns, the gate first.
      mesh: the devices over which tokens, and possibly experts, are spread; None for one device, or to leave it to the compiler.
      dropless: ignore `capacity_factor` and drop nothing, as with a factor of 0.
      backend: "batched" or "grouped", from `choose_experts_backend`. Where nothing may be dropped, "batched" gives each expert a
        slot for every token, and each expert computes all N slots; "grouped" computes only the choices. Experts that are spread
        over devices are always batched.
    """
    logits_BxTxE = jnp.einsum(
        "btd,de->bte", x_BxTxD.astype(jnp.float32), router_DxE, precision=jax.lax.Precision.HIGHEST
    )
    logits_BxTxE /= config.router_temperature
    probabilities_BxTxE = jax.nn.softmax(logits_BxTxE)
    weights_BxTxk, experts_BxTxk = jax.lax.top_k(probabilities_BxTxE, config.experts_per_token)
    weights_BxTxk /= weights_BxTxk.sum(axis=-1, keepdims=True)
    if dropless:
        config = dataclasses.replace(config, capacity_factor=0.0)
    run = partial(_run_experts, config=config, backend=backend)
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
    backend: str,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The work of one device: routes its tokens through their experts. Returns the outputs and the share of dropped choices."""
    B, T, D = x_BxTxD.shape
    N, E, k = B * T, config.num_experts, config.experts_per_token
    spread = mesh is not None and mesh.shape["expert"] > 1
    experts_kN, weights_kN = experts_BxTxk.reshape(N, k).T, weights_BxTxk.reshape(N, k).T
    if backend == "grouped" and config.capacity_factor == 0 and not spread:
        from tonsai_jax.model.grouped import grouped_linear  # imported here: it is for one kind of GPU

        slots, sizes_E = _slots_without_gaps(experts_kN, E)
        gathered_SxD = _dispatch(x_BxTxD.reshape(N, D), slots)
        out_SxD = _feed_forward(partial(grouped_linear, sizes_E=sizes_E), gathered_SxD, up_ExDxF, down_ExFxD)
    else:
        C = expert_capacity(N, config)
        slots = _slots_of_capacity(experts_kN, E, C)
        gathered_ExCxD = _dispatch(x_BxTxD.reshape(N, D), slots).reshape(E, C, D)
        if spread:
            received_ExCxD = jax.lax.all_to_all(gathered_ExCxD, "expert", split_axis=0, concat_axis=1, tiled=True)
            gathered_ExCxD = checkpoint_name(received_ExCxD, "received_tokens")
        linear_of_each = jax.vmap(partial(linear, bias_O=None))
        out_ExCxD = _feed_forward(linear_of_each, gathered_ExCxD, up_ExDxF, down_ExFxD)
        if spread:
            out_ExCxD = jax.lax.all_to_all(out_ExCxD, "expert", split_axis=1, concat_axis=0, tiled=True)
        out_SxD = out_ExCxD.reshape(E * C, D)

    # Kept with the other wide products: the gradient of the weights needs it.
    y_NxD = _combine(checkpoint_name(out_SxD, "experts_out"), weights_kN, slots)
    dropped = jnp.mean(slots.of_choice_kN == len(slots.choice_S), dtype=jnp.float32)
    if mesh is not None:
        dropped = jax.lax.pmean(dropped, mesh.axis_names)
    return y_NxD.reshape(B, T, D), dropped


def _feed_forward(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    gathered_SxD: jax.Array,
    up_ExDxF: jax.Array,
    down_ExFxD: jax.Array,
) -> jax.Array:
    """SwiGLU of each slot by its expert, [..., D]. `product(x, kernel)` multiplies each slot by the matrix of its expert."""
    hidden_Sx2F = checkpoint_name(product(gathered_SxD, up_ExDxF), "mlp_pre_activation")
    return product(swiglu(hidden_Sx2F), down_ExFxD)


class _Slots(NamedTuple):
    """Where each choice is computed. S is the number of slots of all experts.

    Attributes:
      of_choice_kN: int32 from 0 to S - 1, or S where the choice is dropped.
      choice_S: int32 from 0 to k*N - 1 (choice j of token n is j*N + n), or k*N where the slot is empty.
    """

    of_choice_kN: jax.Array
    choice_S: jax.Array


def _slots_of_capacity(experts_kN: jax.Array, num_experts: int, capacity: int) -> _Slots:
    """`capacity` slots for each expert: those of the first expert first. First choices take slots before second ones."""
    expert_A, rank_A, _ = _ranks(experts_kN, num_experts)
    S = num_experts * capacity
    slot_A = jnp.where(rank_A < capacity, expert_A * capacity + rank_A, S)
    return _slots(slot_A, S, experts_kN.shape)


def _slots_without_gaps(experts_kN: jax.Array, num_experts: int) -> tuple[_Slots, jax.Array]:
    """As many slots for each expert as it has choices; returns them, and how many each expert has, int32 [E]."""
    expert_A, rank_A, sizes_E = _ranks(experts_kN, num_experts)
    start_E = jnp.cumsum(sizes_E) - sizes_E
    return _slots(start_E[expert_A] + rank_A, experts_kN.size, experts_kN.shape), sizes_E


def _ranks(experts_kN: jax.Array, num_experts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The expert of each choice [A], how many choices before it have the same expert [A], and the choices of each expert [E]."""
    expert_A = experts_kN.reshape(-1)  # all first choices, then all second ones
    until_AxE = jnp.cumsum(jax.nn.one_hot(expert_A, num_experts, dtype=jnp.int32), axis=0)
    return expert_A, jnp.take_along_axis(until_AxE, expert_A[:, None], axis=1)[:, 0] - 1, until_AxE[-1]


def _slots(slot_A: jax.Array, num_slots: int, shape_kN: tuple[int, ...]) -> _Slots:
    A = len(slot_A)
    choice_S = jnp.full(num_slots, A, jnp.int32).at[slot_A].set(jnp.arange(A, dtype=jnp.int32), mode="drop")
    return _Slots(slot_A.reshape(shape_kN), choice_S)


def _rows(x_NxD: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `x` by number; zeros for a number past the end."""
    return x_NxD.at[index].get(mode="fill", fill_value=0)


def _token_of_slot(slots: _Slots) -> jax.Array:
    """int32 [S]; N for an empty slot."""
    k, N = slots.of_choice_kN.shape
    return jnp.where(slots.choice_S < k * N, slots.choice_S % N, N)


@jax.custom_vjp
def _dispatch(x_NxD: jax.Array, slots: _Slots) -> jax.Array:
    """The token in each slot, [S, D]; zeros in an empty slot. Its gradient is added up in float32."""
    return _rows(x_NxD, _token_of_slot(slots))


def _dispatch_backward(slots: _Slots, dx_SxD: jax.Array) -> tuple[jax.Array, None]:
    dx_NxD = sum(_rows(dx_SxD, slot_N).astype(jnp.float32) for slot_N in slots.of_choice_kN)
    return jnp.asarray(dx_NxD, dx_SxD.dtype), None


_dispatch.defvjp(lambda x_NxD, slots: (_dispatch(x_NxD, slots), slots), _dispatch_backward)


@jax.custom_vjp
def _combine(out_SxD: jax.Array, weights_kN: jax.Array, slots: _Slots) -> jax.Array:
    """The weighted sum over the slots of each token, [N, D] in the dtype of `out`; it is added up in float32."""
    y_NxD = sum(
        weight_N[:, None] * _rows(out_SxD, slot_N).astype(jnp.float32)
        for weight_N, slot_N in zip(weights_kN, slots.of_choice_kN, strict=True)
    )
    return jnp.asarray(y_NxD, out_SxD.dtype)


def _combine_backward(
    residuals: tuple[jax.Array, jax.Array, _Slots], dy_NxD: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    out_SxD, weights_kN, slots = residuals
    weight_S = _rows(weights_kN.reshape(-1), slots.choice_S)
    dout_SxD = weight_S[:, None] * _rows(dy_NxD, _token_of_slot(slots)).astype(jnp.float32)
    dy_float32 = dy_NxD.astype(jnp.float32)
    dweights_kN = jnp.stack(
        [jnp.sum(_rows(out_SxD, slot_N).astype(jnp.float32) * dy_float32, axis=-1) for slot_N in slots.of_choice_kN]
    )
    return dout_SxD.astype(out_SxD.dtype), dweights_kN, None


_combine.defvjp(
    lambda out_SxD, weights_kN, slots: (_combine(out_SxD, weights_kN, slots), (out_SxD, weights_kN, slots)),
    _combine_backward,
)
