"""The GPUs that are known: memory, speed and dtypes, from the data sheets of their makers."""

import dataclasses
import os
import re

import jax

from tonsai_jax.errors import UserError, did_you_mean

# Shares of the peak that an H200 reached: 788 TFLOP/s in large bfloat16 matrix products, 4.3 TB/s in copies. The other GPUs
# were not measured; the same shares are assumed for them.
MATMUL_SHARE = 788 / 989
COPY_SHARE = 4.3 / 4.8


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
      words: words that are all in the device name that the driver reports.
      memory_bytes: as sold (1 GB is 10^9 bytes).
      peak_flops: dense bfloat16 FLOP/s with float32 sums, without sparsity; float16 where the GPU has no bfloat16.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s to the other GPUs of the machine in one direction: NVLink, else PCIe.
      float32_flops: FLOP/s of float32 products; of TF32 where the GPU has it.
      has_bfloat16: whether the matrix units compute in bfloat16.
    """

    name: str
    words: tuple[str, ...]
    memory_bytes: int
    peak_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    float32_flops: float
    has_bfloat16: bool = True

    def flops_for(self, dtype: str) -> float:
        """Peak FLOP/s of matrix products in "bfloat16", "float16" or "float32"; 0 where the GPU does not have that dtype."""
        if dtype == "float32":
            return self.float32_flops
        return self.peak_flops if self.has_bfloat16 or dtype == "float16" else 0.0


# The first entry that fits a device name is used, so longer names come before shorter ones.
GPUS = (
    Gpu("b200", ("B200",), 180 * 10**9, 2250e12, 8.0e12, 900e9, 1125e12),
    Gpu("h200", ("H200",), 141 * 10**9, 989e12, 4.8e12, 450e9, 494e12),
    Gpu("h100-pcie", ("H100", "PCIe"), 80 * 10**9, 756e12, 2.0e12, 64e9, 378e12),
    Gpu("h100", ("H100",), 80 * 10**9, 989e12, 3.35e12, 450e9, 494e12),
    Gpu("a100-80gb", ("A100", "80GB"), 80 * 10**9, 312e12, 2.039e12, 300e9, 156e12),
    Gpu("a100-40gb", ("A100",), 40 * 10**9, 312e12, 1.555e12, 300e9, 156e12),
    Gpu("l40s", ("L40S",), 48 * 10**9, 362e12, 864e9, 32e9, 183e12),
    Gpu("l4", ("L4",), 24 * 10**9, 121e12, 300e9, 32e9, 60e12),
    Gpu("a10g", ("A10G",), 24 * 10**9, 70e12, 600e9, 32e9, 35e12),
    Gpu("t4", ("T4",), 16 * 10**9, 65e12, 320e9, 16e9, 8.1e12, has_bfloat16=False),
    Gpu("v100", ("V100",), 16 * 10**9, 125e12, 900e9, 150e9, 15.7e12, has_bfloat16=False),
    Gpu("rtx4090", ("RTX", "4090"), 24 * 10**9, 165e12, 1008e9, 32e9, 83e12),
    Gpu("rtx3090", ("RTX", "3090"), 24 * 10**9, 71e12, 936e9, 32e9, 36e12),
)


def cpu_count() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_named(name: str) -> Gpu:
    """The GPU with this name in the table. Raises `UserError` for an unknown name."""
    names = {gpu.name: gpu for gpu in GPUS}
    if name.lower() not in names:
        raise UserError(f"--gpu {name}: not in the table{did_you_mean(name.lower(), names)}")
    return names[name.lower()]


def gpu_of(device_kind: str) -> Gpu | None:
    """The GPU whose driver reports `device_kind`, or None for an unknown device."""
    words = set(device_kind.replace("-", " ").split())
    return next((gpu for gpu in GPUS if set(gpu.words) <= words), None)


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of a device, or None for an unknown device."""
    gpu = gpu_of(device_kind)
    return None if gpu is None else gpu.peak_flops


def total_peak_flops() -> float | None:
    """`peak_flops` of all devices of the run together, or None for unknown devices."""
    flops = peak_flops(jax.devices()[0].device_kind)
    return flops and flops * jax.device_count()


def check_dtype(dtype: str, device_kind: str, compute_capability: str | None) -> None:
    """Raises `UserError` for bfloat16 on an NVIDIA GPU older than Ampere, which would emulate it slowly.

    Args:
      dtype: `model.dtype`.
      device_kind, compute_capability: of a JAX device, such as "Tesla T4" and "7.5"; None where a device has none.
    """
    numbers = re.fullmatch(r"(\d+)\.(\d+)", compute_capability or "")
    if dtype == "bfloat16" and numbers and int(numbers[1]) < 8:
        raise UserError(
            f"model.dtype=bfloat16: a {device_kind} (compute capability {compute_capability}) has no bfloat16, which needs "
            f"8.0 or newer; add --config.model.dtype=float16"
        )
