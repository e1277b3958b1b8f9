"""The table of GPUs: found by name, and refused where one cannot do what the config asks."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.runtime.hardware import GPUS, check_dtype, gpu_named, peak_flops


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 3090", 71),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_the_peak_of_a_device_by_its_name(device: str, tflops: float | None) -> None:
    assert peak_flops(device) == (tflops and tflops * 1e12)


def test_every_gpu_is_found_by_its_own_words() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    assert all(gpu_named(gpu.name.upper()) is gpu for gpu in GPUS)


@pytest.mark.parametrize(("kind", "capability"), [("Tesla T4", "7.5"), ("Tesla V100-SXM2-16GB", "7.0")])
def test_bfloat16_on_a_gpu_that_has_none_is_refused(kind: str, capability: str) -> None:
    with pytest.raises(UserError, match=rf"{kind}.*{capability}.*model\.dtype=float16"):
        check_dtype("bfloat16", kind, capability)
    check_dtype("float16", kind, capability)
    check_dtype("float32", kind, capability)


@pytest.mark.parametrize(
    ("kind", "capability"), [("NVIDIA A100", "8.0"), ("NVIDIA B200", "10.0"), ("AMD MI300", "gfx942"), ("cpu", None)]
)
def test_bfloat16_elsewhere_is_accepted(kind: str, capability: str | None) -> None:
    check_dtype("bfloat16", kind, capability)
