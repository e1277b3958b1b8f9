"""Descriptions of GPUs that this machine does not have, so that JAX can trace and XLA can compile for them.

It replaces private functions of JAX (0.10 to 0.12): the checks of its fused attention ask a live GPU for its version.
"""

import contextlib
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from tonsai_jax.runtime.hardware import Gpu

CUDNN_VERSION = 91900  # 9.19, in the numbering of the library
CORE_COUNT = 132  # multiprocessors
# What XLA's cost models and code generators ask about a Hopper, under the names of its GpuTargetConfigProto. Bandwidth and
# memory come from `runtime.hardware`.
_HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: {core_count} fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 62914560
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory}
}}
platform_name: "CUDA"
device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 19 }}
runtime_version {{ major: 13 }}
"""
DESCRIBED = ("h100", "h200")


@contextlib.contextmanager
def cudnn_attention_without_a_gpu() -> Iterator[None]:
    """Lets JAX trace fused attention for a Hopper GPU on a machine without one."""
    import jax._src.cudnn.fused_attention_stablehlo as fused_attention  # private: a run must start without it

    answers = {
        "check_cudnn_version": lambda: CUDNN_VERSION,
        "check_compute_capability": lambda capability: True,
        "is_cuda_compute_capability_equal": lambda capability: False,
    }
    before = {name: getattr(fused_attention, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(fused_attention, name, answer)
        yield
    finally:
        for name, function in before.items():
            setattr(fused_attention, name, function)


@contextlib.contextmanager
def grouped_products_without_a_gpu() -> Iterator[None]:
    """Lets JAX trace its grouped products for a Hopper GPU: one of them asks the first device for its multiprocessors."""
    import jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu as grouped

    gpu = types.SimpleNamespace(core_count=CORE_COUNT)
    described: Any = types.SimpleNamespace(**vars(jax) | {"devices": lambda: [gpu]})
    before = grouped.jax
    try:
        grouped.jax = described
        yield
    finally:
        grouped.jax = before


def why_not_compiled(gpu: Gpu) -> str | None:
    """The reason why a program cannot be compiled for this GPU on this machine, or None where it can."""
    if gpu.name not in DESCRIBED:
        return f"only {' and '.join(DESCRIBED)} are described for the compiler, not {gpu.name}"
    os.environ.setdefault(
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1"
    )  # it would check the version of a driver, and there is none
    try:
        described_mesh(gpu, {"data": 1})
    except Exception as error:  # its type depends on the version of JAX and on what of CUDA is missing
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"JAX's CUDA plugin is not installed, uv sync --inexact --extra cuda13 ({first_line[:120]})"
    return None


def described_mesh(gpu: Gpu, mesh_sizes: Mapping[str, int]) -> Mesh:
    """A mesh of described GPUs in one machine. Needs JAX's CUDA plugin, but no driver and no GPU."""
    target = _HOPPER.format(
        core_count=CORE_COUNT, bandwidth=gpu.memory_bandwidth, memory=gpu.memory_bytes, name=gpu.name.upper()
    )
    sizes = tuple(mesh_sizes.values())
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x1x{int(np.prod(sizes))}"
    )
    return jax.sharding.Mesh(
        np.array(topology.devices).reshape(sizes),
        tuple(mesh_sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
    )
