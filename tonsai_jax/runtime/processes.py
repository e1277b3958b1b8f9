"""The machine under a run: quiet start, many hosts, memory in use, signals."""

import logging
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Mapping
from types import FrameType
from typing import Any

import jax

from tonsai_jax.errors import UserError


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
    under Slurm, Open MPI and Kubernetes when JAX_DISTRIBUTED=auto. Each process takes all GPUs that it sees unless
    JAX_LOCAL_DEVICE_IDS names some of them, or auto finds several processes on a host: see `local_device_ids`.

    Raises `UserError` where one of the three variables is missing or no number.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        # Without "deactivate" JAX looks for Slurm all the same and gives the first task of a host only its first GPU.
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=_whole_number("JAX_NUM_PROCESSES"),
            process_id=_whole_number("JAX_PROCESS_ID"),
            cluster_detection_method="deactivate",
        )
    elif os.environ.get("JAX_DISTRIBUTED") == "auto":
        jax.distributed.initialize(local_device_ids=local_device_ids(os.environ))


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """Which GPUs a process takes whose place JAX finds itself: [] for all that it sees, None for JAX's own choice.

    JAX gives a process whose rank on its host is known the one GPU of that number. That is right for a process per GPU
    that sees all of them, and wrong for a process per host, and for one that was shown its own GPU alone.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    tasks_per_host = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4), or 8(x2),4
    one_a_host = re.fullmatch(r"1(\(x\d+\))?", tasks_per_host) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    sees_its_own = shown != "" and "," not in shown
    return [] if one_a_host or sees_its_own else None


def _whole_number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name}={value!r} must be a whole number, beside JAX_COORDINATOR_ADDRESS")
    return int(value)


def check_dtype(dtype: str, device_kind: str, compute_capability: str | None) -> None:
    """Raises `UserError` for bfloat16 on an NVIDIA GPU older than Ampere, which has none and would emulate it.

    Args:
      dtype: of the model's arithmetic.
      device_kind, compute_capability: of a JAX device, such as "Tesla T4" and "7.5"; None where a device has none.
    """
    numbers = re.fullmatch(r"(\d+)\.(\d+)", compute_capability or "")
    if dtype == "bfloat16" and numbers and int(numbers[1]) < 8:
        raise UserError(
            f"model.dtype=bfloat16: a {device_kind} (compute capability {compute_capability}) has no bfloat16, that came "
            f"with 8.0; add --config.model.dtype=float32"
        )


def peak_memory_bytes() -> int:
    """The most memory this run has held so far: of the fullest local device, or of this process on a CPU."""
    stats: list[dict[str, Any] | None] = [device.memory_stats() for device in jax.local_devices()]
    on_devices = [stat["peak_bytes_in_use"] for stat in stats if stat and "peak_bytes_in_use" in stat]
    if on_devices:
        return max(on_devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
