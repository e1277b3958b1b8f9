"""What XLA and CUDA are told beyond their defaults: compiler options, environment, optimization level, compile cache.

The options go with each compiled step, not into XLA_FLAGS: a name there that the installed XLA does not know ends the
process, and they would have to be chosen before it is known which devices there are. What the user has set in XLA_FLAGS or
in another environment variable always wins.
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
    """A host as its system shows it, before JAX touches a device.

    Attributes:
      cpu_features: instruction sets, by their names in /proc/cpuinfo.
      gpus: models of its NVIDIA GPUs.
    """

    cpu_features: frozenset[str] = frozenset()
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value other than the default: where it holds, and why."""

    name: str
    value: int | str
    backend: str
    holds: Callable[[Host], bool]
    reason: str


def _several_hoppers(host: Host) -> bool:
    hopper = {"H100", "H200", "H800", "H20", "GH200"}
    return len(host.gpus) > 1 and all(hopper & set(re.split(r"\W+", gpu)) for gpu in host.gpus)


# Options of XLA's compiler, by the names that XLA_FLAGS gives them.
OPTIONS = (
    Setting(
        "xla_cpu_prefer_vector_width",
        512,
        "cpu",
        lambda host: "avx512f" in host.cpu_features,
        "XLA takes half of the vectors' width; the whole made a step a twelfth faster (docs/performance.md)",
    ),
)
# Environment variables that are read when the devices start.
VARIABLES = (
    Setting(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "gpu",
        _several_hoppers,
        "NVIDIA's guide to LLMs in JAX: with one queue Hopper overlaps collectives with work; Blackwell gets slower",
    ),
)
MEMORY_FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the second is the older name


def this_host(proc: Path = Path("/proc")) -> Host:
    """This host; with no features and GPUs where there are no such files (they are Linux's and NVIDIA's driver's)."""
    files = [proc / "cpuinfo", *sorted(proc.glob("driver/nvidia/gpus/*/information"))]
    cpu, *gpus = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    models = [re.search(r"^Model:(.*)$", gpu, re.MULTILINE) for gpu in gpus]
    return Host(frozenset(cpu.split()), tuple(model[1].strip() for model in models if model))


def set_environment(memory_fraction: float) -> None:
    """Sets the variables that are read when the devices start; call it before JAX touches one.

    Args:
      memory_fraction: share of each GPU's memory that JAX takes for itself at the start.
    """
    os.environ.update(environment(os.environ, memory_fraction, this_host()))


def environment(user: Mapping[str, str], memory_fraction: float, host: Host) -> dict[str, str]:
    """The variables to add to those that the user has set."""
    chosen = {row.name: str(row.value) for row in VARIABLES if row.holds(host) and row.name not in user}
    if not any(name in user for name in MEMORY_FRACTION):  # JAX refuses both
        chosen[MEMORY_FRACTION[0]] = str(memory_fraction)
    return chosen


def compiler_options() -> dict[str, int | str]:
    """The options for `jax.jit` on the devices in use."""
    return choose_options(jax.default_backend(), this_host(), os.environ.get("XLA_FLAGS", ""))


def choose_options(backend: str, host: Host, xla_flags: str) -> dict[str, int | str]:
    """The rows of `OPTIONS` that hold on `backend` and `host` and that the user's `xla_flags` do not name."""
    theirs = {flag.lstrip("-").partition("=")[0] for flag in xla_flags.split()}
    return {
        row.name: row.value for row in OPTIONS if row.backend == backend and row.holds(host) and row.name not in theirs
    }


def set_optimization_level(level: str, backend: str, num_devices: int) -> None:
    """Sets how hard XLA tries, for all that is compiled from here on; JAX_OPTIMIZATION_LEVEL, where set, wins.

    Args:
      level: "O0" to "O3"; "default" for XLA's own; "auto" for O1 on several GPUs, and XLA's own elsewhere. O1 pipelines the
        communication between GPUs and hides it behind work (https://openxla.org/xla/effort_levels), and compiles longer.
      backend, num_devices: of the whole run.
    """
    if level == "auto":
        level = "O1" if backend == "gpu" and num_devices > 1 else "default"
    if level != "default" and "JAX_OPTIMIZATION_LEVEL" not in os.environ:
        jax.config.update("jax_optimization_level", level)


def use_compile_cache(folder: str, backend: str) -> str | None:
    """Keeps compiled programs in `folder`, so that the same run starts faster the next time.

    Not on a CPU: on some processors XLA refuses what it compiled there itself, with an error line for each program
    (https://github.com/jax-ml/jax/issues/38445).

    Args:
      folder: made if absent; "" keeps nothing. JAX_COMPILATION_CACHE_DIR, where the user has set it, wins.
      backend: "cpu", "gpu" or "tpu".

    Returns a line for the user where the folder cannot be written, so that nothing is kept; the run goes on.
    """
    if not folder or backend == "cpu" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        return f"compile cache: off, {path} cannot be written ({error}); set runtime.compile_cache to another folder"
    jax.config.update("jax_compilation_cache_dir", str(path))
    return None
