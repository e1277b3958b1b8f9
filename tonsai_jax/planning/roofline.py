"""The time of a training step from what its parts must compute and move, at the speeds a GPU can reach.

Not a measurement and no promise: parts follow each other, nothing waits, every matrix product runs as fast as a large one.
A run comes near these figures from below. The shares of the peak are in `hardware.py`; those of attention are assumed.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.runtime.hardware import COPY_SHARE, MATMUL_SHARE, Gpu

ATTENTION_SHARE = 0.27  # of the peak, for fused causal attention forward and backward with heads of 64: assumed


def flops_by_part(shape: ModelConfig, seq_len: int) -> dict[str, float]:
    """FLOPs of a training step per token, by part; recomputation is apart from what the model needs.

    Returns:
      gemm (layers), head, attention: together `ModelConfig.flops_per_token`; spare_places: of a mixture of experts, what
      is multiplied beyond the tokens' choices, since an expert computes all of its places; recomputed: what the remat
      policy does again.
    """
    head = 6.0 * shape.padded_vocab_size * shape.d_model
    gemm = shape.flops_per_token(0) - head
    attention = shape.flops_per_token(seq_len) - shape.flops_per_token(0)
    spare = 0.0
    if shape.num_experts > shape.experts_per_token:
        asleep = shape.num_experts - shape.experts_per_token
        places = min(shape.experts_per_token * shape.capacity_factor or math.inf, shape.num_experts)  # for each token
        one_expert = (shape.num_parameters - shape.num_active_parameters) / asleep  # of each layer
        spare = 6.0 * one_expert * max(0.0, places - shape.experts_per_token)
    # Of a layer's forward pass, a third of the training FLOPs: "qkv_mlp" does the attention's output projection again,
    # "full" all of it.
    projection = 2.0 * shape.num_layers * shape.d_model * shape.num_heads * shape.head_dim
    recomputed = {"none": 0.0, "qkv_mlp": projection, "offload": projection}.get(
        shape.remat, (gemm + spare + attention) / 3
    )
    return {"gemm": gemm, "head": head, "attention": attention, "spare_places": spare, "recomputed": recomputed}


def seconds_by_part(
    shape: ModelConfig, gpu: Gpu, *, tokens: int, seq_len: int, local_parameters: int, wire_seconds: float
) -> dict[str, float]:
    """Seconds of one step on each GPU, by part.

    Args:
      tokens: of one GPU in one step.
      local_parameters: elements of the parameters that one GPU keeps and updates.
      wire_seconds: that the collectives take, none of them overlapped.
    """
    flops = flops_by_part(shape, seq_len)
    matmul = gpu.flops_for(shape.dtype) * MATMUL_SHARE
    fused = gpu.flops_for(shape.dtype) * ATTENTION_SHARE
    bandwidth = gpu.memory_bandwidth * COPY_SHARE
    width = jnp.dtype(shape.dtype).itemsize
    # Elements read and written by norms, residual sums, the activation and the reordering of heads in a forward pass of
    # a layer; twice as many in the backward pass, and again what is recomputed.
    # A token meets only its own experts.
    elements = 16 * shape.d_model + 2 * shape.d_ff * (shape.experts_per_token if shape.num_experts else 1)
    passes = 3 if shape.remat == "none" else 4
    # AdamW reads parameter, gradient and two moments and writes three of them; the norm of the gradient reads it once more.
    optimizer_bytes = 8 * 4 * local_parameters
    return {
        "gemm": tokens * flops["gemm"] / matmul,
        "head": tokens * flops["head"] / matmul,
        "attention": tokens * flops["attention"] / fused,
        "spare_places": tokens * flops["spare_places"] / matmul,
        "recomputed": tokens * flops["recomputed"] / matmul,
        "elementwise": tokens * passes * shape.num_layers * elements * width / bandwidth,
        "optimizer": optimizer_bytes / bandwidth,
        "collectives": wire_seconds,
    }


def run_cost(total_tokens: float, tokens_per_second: float, num_gpus: int, price: float | None) -> Mapping[str, float]:
    """Hours of a run, GPU-hours, and what they cost at a price per GPU-hour (none without a price)."""
    hours = total_tokens / tokens_per_second / 3600
    cost = {"hours": hours, "gpu_hours": hours * num_gpus}
    return cost if price is None else cost | {"cost": cost["gpu_hours"] * price}
