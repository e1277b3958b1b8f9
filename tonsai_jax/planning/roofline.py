"""The time of a training step from the FLOPs and bytes of its parts, at the speeds that a GPU can reach: a roofline.

It is a bound, not a measurement: parts run one after the other, nothing waits, and every matrix product runs as fast as a
large one. A real run is slower. The shares of the peak are in `runtime.hardware`; the one of attention is assumed.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.runtime.hardware import COPY_SHARE, MATMUL_SHARE, Gpu

ATTENTION_SHARE = 0.27  # of the peak: fused causal attention, forward and backward, heads of 64; assumed


def flops_by_part(model_config: ModelConfig, seq_len: int, lora: Lora | None = None) -> dict[str, float]:
    """FLOPs of a training step per token, by part. With LoRA those of the frozen weights' gradients are not among them.

    Returns:
      gemm (matrix products of the layers), head and attention: their sum is `ModelConfig.flops_per_token`; unused_slots: what
      experts compute in capacity slots beyond the choices of the tokens, since an expert computes all of its slots, unless
      nothing may be dropped and `model.grouped` works on the GPU;
      outside_window: pairs of tokens that attention multiplies and then masks, since with a sliding window it multiplies all
      pairs; recomputed: what the remat policy computes again.
    """
    head = 6.0 * model_config.padded_vocab_size * model_config.d_model
    gemm = model_config.flops_per_token(0) - head
    attention = model_config.flops_per_token(seq_len) - model_config.flops_per_token(0)
    spare = 0.0
    if model_config.num_experts > model_config.experts_per_token:
        inactive_experts = model_config.num_experts - model_config.experts_per_token
        slots_per_token = min(
            model_config.experts_per_token * model_config.capacity_factor or math.inf, model_config.num_experts
        )
        one_expert = (
            model_config.num_parameters - model_config.num_active_parameters
        ) / inactive_experts  # weights, in all layers
        spare = 6.0 * one_expert * max(0.0, slots_per_token - model_config.experts_per_token)
    outside_window = 0.0
    if 0 < model_config.sliding_window < seq_len:
        all_pairs = 12.0 * model_config.num_layers * seq_len * model_config.num_heads * model_config.head_dim
        outside_window = all_pairs - attention
    # The forward pass of the layers is a third of their training FLOPs. "full" computes all of it again, "qkv_mlp" only the
    # output projection of attention.
    projection = 2.0 * model_config.num_layers * model_config.d_model * model_config.num_heads * model_config.head_dim
    forward = (gemm + spare + attention + outside_window) / 3
    recomputed = 0.0
    if model_config.recomputes:
        recomputed = forward if model_config.remat == "full" else projection
    if lora is not None:
        gemm, head, spare = gemm * 2 / 3 + 6.0 * lora.num_parameters(model_config), head * 2 / 3, spare * 2 / 3
    return {
        "gemm": gemm,
        "head": head,
        "attention": attention,
        "unused_slots": spare,
        "outside_window": outside_window,
        "recomputed": recomputed,
    }


def seconds_by_part(
    model_config: ModelConfig,
    gpu: Gpu,
    *,
    tokens: int,
    seq_len: int,
    local_parameters: int,
    wire_seconds: float,
    lora: Lora | None = None,
) -> dict[str, float]:
    """Seconds of one step on each GPU, by part.

    Args:
      tokens: that one GPU processes in one step.
      local_parameters: elements of the parameters that one GPU updates.
      wire_seconds: time of the collectives, with none of them overlapped.
    """
    flops = flops_by_part(model_config, seq_len, lora)
    matmul = gpu.flops_for(model_config.dtype) * MATMUL_SHARE
    fused = gpu.flops_for(model_config.dtype) * ATTENTION_SHARE
    bandwidth = gpu.memory_bandwidth * COPY_SHARE
    width = jnp.dtype(model_config.dtype).itemsize
    # Elements per token that norms, residual sums, the activation and the reordering of heads read and write in the forward
    # pass of a layer. The backward pass has twice as many, and recomputation has them once more.
    elements = (20 if model_config.sandwich_norms else 16) * model_config.d_model + 2 * model_config.d_ff * (
        model_config.experts_per_token if model_config.num_experts else 1
    )
    passes = 4 if model_config.recomputes else 3
    # AdamW reads parameter, gradient and two moments, and writes three of them; the gradient norm reads the gradient once more.
    optimizer_bytes = 8 * 4 * local_parameters
    return {
        "gemm": tokens * flops["gemm"] / matmul,
        "head": tokens * flops["head"] / matmul,
        "attention": tokens * flops["attention"] / fused,
        "unused_slots": tokens * flops["unused_slots"] / matmul,
        "outside_window": tokens * flops["outside_window"] / fused,
        "recomputed": tokens * flops["recomputed"] / matmul,
        "elementwise": tokens * passes * model_config.num_layers * elements * width / bandwidth,
        "optimizer": optimizer_bytes / bandwidth,
        "collectives": wire_seconds,
    }


def run_cost(total_tokens: float, tokens_per_second: float, num_gpus: int, price: float | None) -> Mapping[str, float]:
    """Hours of a run, GPU-hours, and, where `price` per GPU-hour is given, their cost."""
    hours = total_tokens / tokens_per_second / 3600
    cost = {"hours": hours, "gpu_hours": hours * num_gpus}
    return cost if price is None else cost | {"cost": cost["gpu_hours"] * price}
