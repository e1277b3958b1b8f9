"""The machine under a run: quiet start, many hosts, what the devices can do, memory in use, signals."""

import ctypes
import logging
import os
import resource
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import jax
import psutil

# Dense bfloat16 peak of one device, FLOP/s, from the makers' data sheets (float16 for T4, which has no bfloat16).
# The first entry whose words are all in the device's name counts.
PEAK_FLOPS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("B200",), 2250e12),
    (("H200",), 989e12),
    (("H100", "PCIe"), 756e12),
    (("H100",), 989e12),
    (("A100",), 312e12),
    (("L40S",), 362e12),
    (("L4",), 121e12),
    (("A10G",), 70e12),
    (("T4",), 65e12),
    (("V100",), 125e12),
    (("RTX 4090",), 165e12),
    (("RTX 3090",), 71e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak dense FLOP/s of a device in the dtype that training uses, or None where the device is unknown."""
    words = device_kind.replace("-", " ").split()
    for wanted, flops in PEAK_FLOPS:
        if all(set(part.split()) <= set(words) for part in wanted):
            return flops
    return None


def total_peak_flops() -> float | None:
    """Peak FLOP/s of all devices of the run together, or None where they are unknown."""
    flops = peak_flops(jax.devices()[0].device_kind)
    return flops and flops * jax.device_count()


def quiet_libraries() -> None:
    """Keeps the libraries' warnings off the terminal; their errors reach it as exceptions."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in ("jax", "orbax", "grain", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A save that fails is logged once in each of Orbax's threads, with a trace, and raised besides.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: Any) -> None:
    # When a save fails, TensorStore finishes its other arrays after Orbax has closed the event loop that awaited them.
    # Each prints this; the failure itself is raised besides.
    if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def start_processes() -> None:
    """Joins the processes of a run on many hosts; does nothing where there is one.

    Named by the environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; or found by JAX itself
    under Slurm, Open MPI and Kubernetes when JAX_DISTRIBUTED=auto.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif os.environ.get("JAX_DISTRIBUTED") == "auto":
        jax.distributed.initialize()


def peak_memory_bytes() -> int:
    """The most memory this run has held so far: of the fullest local device, or of this process on a CPU."""
    stats: list[dict[str, Any] | None] = [device.memory_stats() for device in jax.local_devices()]
    on_devices = [stat["peak_bytes_in_use"] for stat in stats if stat and "peak_bytes_in_use" in stat]
    if on_devices:
        return max(on_devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def host_memory_bytes() -> int:
    """The memory that this process holds on its host now."""
    return psutil.Process().memory_info().rss


def keep_freed_memory() -> None:
    """Lets malloc keep large blocks that are freed, where it can be told so (glibc); for training on a CPU.

    There a step's scratch memory is allocated and freed in every step. By default each time is a new mapping whose pages
    the system must clear one by one, about a tenth of the processor time of a small model's step.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # names of mallopt's parameters in malloc.h
    mallopt = _glibc("mallopt")
    if mallopt is not None and jax.default_backend() == "cpu":
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Gives memory that was freed back to the system, where the C library has a call for it (glibc).

    The buffers of a save are freed when it ends, but glibc keeps them for the next ones, not always in the same place:
    without this call a process grows from save to save.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a request to save and end; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
