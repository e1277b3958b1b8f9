"""Programs compiled for GPUs that are described, not there: a mesh of them, a training step, and its schedule."""

import re
from typing import Any

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused_attention
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tonsai_jax.config import default_config, model_config
from tonsai_jax.training.mesh import BATCH_AXES
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.state import abstract_state, model_graph
from tonsai_jax.training.step import LossSettings, make_train_step

# NVIDIA's figures of an H200 (SXM), under the names of XLA's GpuTargetConfigProto.
H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 19 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  clock_rate_ghz: 1.98  fpus_per_core: 128
  device_memory_size: 150754820096  memory_bandwidth: 4800000000000  l2_cache_size: 62914560
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
}
"""
LARGE = 1e6  # bytes; smaller messages are metrics and norms


def described_mesh(num_devices: int) -> Mesh:
    """A mesh of H200s on one host, with all parameters split over them."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H200, topology=f"1x1x{num_devices}")
    return Mesh(np.array(topology.devices).reshape(1, num_devices, 1), BATCH_AXES)


def recipe_step(mesh: Mesh, num_layers: int, scan_layers: bool) -> Any:
    """The lowered training step of the recipe's shape: 16 sequences of 2048 tokens a device, cuDNN attention."""
    # cuDNN attention asks the device that is there what it can do; there is none, and a Hopper can.
    fused_attention.check_compute_capability = lambda capability: True
    fused_attention.is_cuda_compute_capability_equal = lambda capability: False
    config = default_config()
    config.model.update(
        num_layers=num_layers, num_heads=24, d_model=1536, d_ff=6144, context_length=2048, remat="qkv_mlp"
    )
    config.model.scan_layers = scan_layers
    shape = model_config(config, tokenizer_vocab_size=50_048)
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    schedule = learning_rate_schedule(
        "cosine", peak=1e-3, total_steps=100, warmup_steps=1, decay_steps=0, final_ratio=0.1
    )
    step: Any = make_train_step(
        model_graph(shape, "cudnn", mesh),
        optimizer,
        schedule,
        mesh,
        loss=LossSettings(chunk_tokens=4096, z_loss=0.0),
        end_of_text_id=0,
        dropout_key=jax.random.key(0),
        clip_norm=1.0,
    )
    B, rows = 16 * mesh.size, NamedSharding(mesh, P(BATCH_AXES))
    batch = {
        "tokens": jax.ShapeDtypeStruct((B, 2049), jnp.int32, sharding=rows),
        "valid": jax.ShapeDtypeStruct((B,), jnp.int32, sharding=rows),
        "stop": jax.ShapeDtypeStruct((B,), jnp.int32, sharding=rows),
    }
    return step.lower(abstract_state(shape, optimizer, mesh), batch)


def overlap(schedule: str) -> tuple[int, float]:
    """How many large collectives a scheduled program has, and the share of their bytes with work between start and end.

    Work is a matrix product or an attention; loops count once. An array's bytes are those of the largest buffer.
    """
    total = overlapped = count = 0
    for body in schedule.split("\n\n"):
        lines = body.splitlines()
        for number, line in enumerate(lines):
            start = re.match(r" +%((?:all-gather|all-reduce|reduce-scatter)-start[\w.]*) = (.*?) [\w-]+-start\(", line)
            size = max(map(_bytes, re.findall(r"(f32|bf16)\[([\d,]*)\]", start[2])), default=0) if start else 0
            if start is None or size < LARGE:
                continue
            end = next(n for n in range(number + 1, len(lines)) if re.search(rf"-done\(.*%{start[1]}[,)]", lines[n]))
            count, total = count + 1, total + size
            if any(re.search(r"__cublas|cudnn|%\S*gemm\S* =", between) for between in lines[number + 1 : end]):
                overlapped += size
    return count, overlapped / max(total, 1)


def _bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    return int(np.prod([int(size) for size in shape.split(",") if size])) * (2 if dtype == "bf16" else 4)
