"""What XLA and CUDA are told: known to the installed XLA, only where it holds, and never against the user's own word."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tonsai_jax.runtime.xla import (
    DETERMINISTIC,
    OPTIONS,
    Host,
    Setting,
    choose_options,
    environment,
    this_host,
    use_compile_cache,
)

AVX512 = Host(cpu_features=frozenset({"avx2", "avx512f"}))
H200 = "NVIDIA H200"


def compile_with(name: str, value: int | str) -> None:
    jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(jnp.zeros(2)).compile()


@pytest.mark.parametrize("option", OPTIONS + DETERMINISTIC, ids=lambda option: option.name)
def test_the_installed_xla_knows_every_option(option: Setting) -> None:
    compile_with(option.name, option.value)


def test_an_option_that_xla_does_not_know_would_be_noticed() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_cudnn_gemm_fusion"):  # it was one once
        compile_with("xla_gpu_cudnn_gemm_fusion", True)


def complaint_about(flag: str) -> str:
    """What XLA says of a flag with a value that it may not have."""
    try:
        compile_with(flag, "no value of a flag")
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return ""


def test_the_installed_xla_knows_every_flag_that_the_docs_speak_of() -> None:
    text = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(xla_\w+)`", text.partition("### What is not set")[2]))
    assert len(named) > 5
    assert not [name for name in sorted(named) if "No such compile option" in complaint_about(name)]
    assert "No such compile option" in complaint_about("xla_gpu_cudnn_gemm_fusion")


def test_options_hold_on_their_backend_and_host_only() -> None:
    assert choose_options("cpu", AVX512, "") == {"xla_cpu_prefer_vector_width": 512}
    assert choose_options("cpu", Host(), "") == {}
    assert choose_options("gpu", AVX512, "") == {}
    assert choose_options("gpu", AVX512, "", deterministic=True) == {"xla_gpu_deterministic_ops": True}
    assert choose_options("cpu", Host(), "", deterministic=True) == {}


def test_the_users_xla_flags_win() -> None:
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_prefer_vector_width=256"
    assert choose_options("cpu", AVX512, flags) == {}


@pytest.mark.parametrize(
    ("gpus", "one_queue"),
    [
        ((), False),
        ((H200,), False),
        ((H200, H200), True),
        (("NVIDIA H100 80GB HBM3",) * 8, True),
        (("NVIDIA B200",) * 8, False),
        (("NVIDIA A100-SXM4-80GB",) * 2, False),
    ],
)
def test_several_hoppers_get_one_queue_each(gpus: tuple[str, ...], one_queue: bool) -> None:
    assert ("CUDA_DEVICE_MAX_CONNECTIONS" in environment({}, 0.9, Host(gpus=gpus))) == one_queue


def test_the_users_environment_wins() -> None:
    two = Host(gpus=(H200, H200))
    assert environment({}, 0.5, two) == {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "XLA_CLIENT_MEM_FRACTION": "0.5"}
    assert environment({"CUDA_DEVICE_MAX_CONNECTIONS": "8", "XLA_CLIENT_MEM_FRACTION": "0.2"}, 0.5, two) == {}
    assert environment({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}, 0.5, Host()) == {}


def test_a_host_is_read_from_its_systems_files(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n")
    for number in range(2):
        folder = tmp_path / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 16\n")
    host = this_host(tmp_path)
    assert host.gpus == (H200, H200)
    assert "avx512f" in host.cpu_features
    assert this_host(tmp_path / "absent") == Host()


# What changes JAX for the whole process is tried in processes of its own.

PROGRAM = """
import sys
import jax, jax.numpy as jnp
from tonsai_jax.runtime.xla import set_optimization_level, use_compile_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
folder, level, devices = sys.argv[1:]
assert use_compile_cache(folder, "gpu") is None
set_optimization_level(level, "gpu", int(devices))
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
jax.jit(lambda x: x * 2 + 1)(jnp.zeros(3)).block_until_ready()
print(jax.config.jax_optimization_level, "found" if hits else "compiled")
"""


def run(folder: Path, level: str, devices: int, **settings: str) -> str:
    """Runs the program, in which a CPU stands in for a GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), level, str(devices)],
        env=kept | {"JAX_PLATFORMS": "cpu"} | settings,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.mark.full
def test_a_second_start_finds_the_compiled_programs(tmp_path: Path) -> None:
    assert run(tmp_path / "a" / "cache", "auto", devices=1) == "UNKNOWN compiled"
    assert run(tmp_path / "a" / "cache", "default", devices=8) == "UNKNOWN found"
    assert run(tmp_path / "a" / "cache", "auto", devices=8) == "O1 compiled"


def test_the_users_cache_and_level_win(tmp_path: Path) -> None:
    theirs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs"), "JAX_OPTIMIZATION_LEVEL": "O1"}
    assert run(tmp_path / "ours", "O2", devices=8, **theirs) == "O1 compiled"
    assert not (tmp_path / "ours").exists()
    assert list((tmp_path / "theirs").iterdir())


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    note = use_compile_cache(str(tmp_path / "file" / "cache"), "gpu")
    assert note is not None
    assert note.startswith("compile cache: off")
    assert "runtime.compile_cache" in note


def test_nothing_is_kept_on_a_cpu_or_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert use_compile_cache(str(tmp_path / "cache"), "cpu") is None
    assert use_compile_cache("", "gpu") is None
    assert not (tmp_path / "cache").exists()
