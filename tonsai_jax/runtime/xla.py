"""Settings of XLA and CUDA that differ from their defaults: compiler options, environment, optimization level, compile cache.

Compiler options are given to each compiled step, not written to XLA_FLAGS: an option there that the installed XLA does not know
ends the process, and XLA_FLAGS must be set before the devices are known. What the user has set in XLA_FLAGS or in another
environment variable always wins.
"""

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax


@dataclasses.dataclass(frozen=True)
class Host:
    """What the operating system says about this host, before JAX touches a device.

    Attributes:
      cpu_features: instruction sets, by their names in /proc/cpuinfo.
      gpus: model names of the NVIDIA GPUs.
    """

    cpu_features: frozenset[str] = frozenset()
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value other than the default: on which backend and hosts it is set, and why."""

    name: str
    value: bool | int | str
    backend: str
    holds: Callable[[Host], bool]
    reason: str


def _several_hoppers(host: Host) -> bool:
    hopper = {"H100", "H200", "H800", "H20", "GH200"}
    return len(host.gpus) > 1 and all(hopper & set(re.split(r"\W+", gpu)) for gpu in host.gpus)


# Options of the XLA compiler, by their names in XLA_FLAGS.
OPTIONS = (
    Setting(
        "xla_cpu_prefer_vector_width",
        512,
        "cpu",
        lambda host: "avx512f" in host.cpu_features,
        "XLA uses half of the vector width by default; the whole made a step 8 % faster (docs/performance.md)",
    ),
)
# For `runtime.deterministic`. A CPU gives the same bits without them.
DETERMINISTIC = (
    Setting(
        "xla_gpu_deterministic_ops",
        True,
        "gpu",
        lambda host: True,
        "only kernels that add in one order; a scatter-add becomes a loop, and no kernel is chosen by its measured time",
    ),
)
# Environment variables that are read when the devices start.
VARIABLES = (
    Setting(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "gpu",
        _several_hoppers,
        "NVIDIA's guide to LLMs in JAX: with one queue, Hopper overlaps collectives with compute; Blackwell gets slower",
    ),
)
MEMORY_FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the second is the older name


def this_host(proc: Path = Path("/proc")) -> Host:
    """This host. The files are those of Linux and of NVIDIA's driver; without them no features or GPUs are known."""
    files = [proc / "cpuinfo", *sorted(proc.glob("driver/nvidia/gpus/*/information"))]
    cpu, *gpus = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    models = [re.search(r"^Model:(.*)$", gpu, re.MULTILINE) for gpu in gpus]
    return Host(frozenset(cpu.split()), tuple(model[1].strip() for model in models if model))


def set_environment(memory_fraction: float) -> None:
    """Sets the environment variables that are read when the devices start; call it before JAX touches a device.

    Args:
      memory_fraction: share of the memory of each GPU that JAX allocates at the start.
    """
    os.environ.update(environment(os.environ, memory_fraction, this_host()))


def environment(user: Mapping[str, str], memory_fraction: float, host: Host) -> dict[str, str]:
    """The environment variables to add to those of the user."""
    chosen = {row.name: str(row.value) for row in VARIABLES if row.holds(host) and row.name not in user}
    if not any(name in user for name in MEMORY_FRACTION):  # JAX refuses to have both set
        chosen[MEMORY_FRACTION[0]] = str(memory_fraction)
    return chosen


def compiler_options(deterministic: bool = False) -> dict[str, bool | int | str]:
    """The compiler options for `jax.jit` on this backend and host; `deterministic` as in `choose_options`."""
    return choose_options(jax.default_backend(), this_host(), os.environ.get("XLA_FLAGS", ""), deterministic)


def choose_options(
    backend: str, host: Host, xla_flags: str, deterministic: bool = False
) -> dict[str, bool | int | str]:
    """The `OPTIONS` for this backend and host, without those that the user has set in `xla_flags`.

    Args:
      deterministic: adds those of `DETERMINISTIC`.
    """
    theirs = {flag.lstrip("-").partition("=")[0] for flag in xla_flags.split()}
    rows = OPTIONS + DETERMINISTIC * deterministic
    return {
        row.name: row.value for row in rows if row.backend == backend and row.holds(host) and row.name not in theirs
    }


def set_optimization_level(level: str, backend: str, num_devices: int) -> None:
    """Sets XLA's optimization level for everything compiled after this call; JAX_OPTIMIZATION_LEVEL, where it is set, wins.

    Args:
      level: "O0" to "O3"; "default" is XLA's own; "auto" is O1 on several GPUs and XLA's own elsewhere. O1 overlaps the
        communication between GPUs with compute (https://openxla.org/xla/effort_levels), and takes longer to compile.
      backend, num_devices: of the whole run.
    """
    if level == "auto":
        level = "O1" if backend == "gpu" and num_devices > 1 else "default"
    if level != "default" and "JAX_OPTIMIZATION_LEVEL" not in os.environ:
        jax.config.update("jax_optimization_level", level)


def use_compile_cache(folder: str, backend: str) -> str | None:
    """Keeps compiled programs in `folder`, so that the same run starts faster the next time.

    On a CPU nothing is kept: on some processors XLA refuses to load a program that it compiled on the same machine, and prints
    an error line for each one (https://github.com/jax-ml/jax/issues/38445).

    Args:
      folder: is created if it does not exist; "" keeps nothing. JAX_COMPILATION_CACHE_DIR, where it is set, wins.
      backend: "cpu", "gpu" or "tpu".

    Returns:
      None, or a line to print where the folder cannot be written; then nothing is kept, and the run continues.
    """
    if not folder or backend == "cpu" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" for a user without a home folder
        return f"compile cache: off, {path} cannot be written ({error}); set runtime.compile_cache to a folder that can"
    jax.config.update("jax_compilation_cache_dir", str(path))
    return None
