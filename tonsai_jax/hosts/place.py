"""The place of this process among those of its run, from the environment variables of the user or of a scheduler."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from tonsai_jax.errors import UserError, unknown_name

# Where the user names only the coordinator, the number and the place of a process are those of the scheduler.
_COUNTS = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_NUMBERS = ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
_LOCAL_NUMBERS = ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


class Place(NamedTuple):
    """A process of a run of several.

    Attributes:
      coordinator: "HOST:PORT" of process 0.
      local_device_ids: the GPUs of the host that the process takes; None is all that it sees.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None


def find_place(environment: Mapping[str, str], seconds: float = 300) -> Place | None:
    """The place of this process; None for a run of one process.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID come first. Else a Slurm step or an Open MPI job of several
    tasks is one run. JAX_DISTRIBUTED=auto also looks for Kubernetes, and JAX_DISTRIBUTED=off makes each process a run.

    Args:
      environment: `os.environ`; JAX itself reads that where it finds out about a scheduler.
      seconds: how long JAX waits for a name of process 0's host (only Kubernetes).

    Raises `UserError` for a value that is missing or wrong, and where nothing of JAX_DISTRIBUTED=auto is found.
    """
    mode = environment.get("JAX_DISTRIBUTED", "")
    if mode not in ("", "auto", "off"):
        raise unknown_name("JAX_DISTRIBUTED", mode, ("auto", "off"))
    if mode == "off":
        return None
    if address := environment.get("JAX_COORDINATOR_ADDRESS"):
        return _given_place(address, environment)
    tasks = max(_whole_number(environment, name, 1) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if mode == "" and tasks == 1:
        return None
    if "OMPI_COMM_WORLD_SIZE" in environment and "OMPI_MCA_orte_hnp_uri" not in environment:
        raise UserError(
            "this Open MPI (5 or newer) does not say where process 0 is; name its host and a free port: "
            "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:12345 ..."
        )
    return _found_by_jax(environment, seconds)


def _given_place(address: str, environment: Mapping[str, str]) -> Place:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address!r} must be HOST:PORT of process 0, such as node1:12345")
    count = _whole_number(environment, next((name for name in _COUNTS if name in environment), _COUNTS[0]))
    number = _whole_number(environment, next((name for name in _NUMBERS if name in environment), _NUMBERS[0]))
    if not number < count:
        raise UserError(
            f"JAX_PROCESS_ID={number} must be below the number of processes, {count} (JAX_NUM_PROCESSES); they are counted from 0"
        )
    devices = None
    local = next((name for name in _LOCAL_NUMBERS if name in environment), None)
    if "JAX_PROCESS_ID" not in environment and local and local_device_ids(environment) is None:
        devices = [_whole_number(environment, local)]
    return Place(address, count, number, _named_devices(environment) or devices)


def _found_by_jax(environment: Mapping[str, str], seconds: float) -> Place:
    from jax._src.clusters import ClusterEnv  # imported here: JAX has it for schedulers; most runs have none

    address, count, number, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, _named_devices(environment) or local_device_ids(environment), None, int(seconds)
    )
    if address is None or count is None or number is None:
        raise UserError(
            "JAX_DISTRIBUTED=auto finds no Slurm step, no Open MPI job and no Kubernetes here (that needs `pip install "
            "kubernetes`); set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (docs/multi-host.md)"
        )
    return Place(address, count, number, list(devices) if devices else None)


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """[] where this process takes all GPUs that it sees, None where it takes the one with its number on the host.

    JAX gives a process whose rank on its host is known only the GPU with that number. That is right for one process per GPU
    that sees all GPUs of the host. It is wrong for one process per host, and for a process that sees only its own GPU.
    """
    tasks_per_host = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4), or 8(x2),4
    one_per_host = re.fullmatch(r"1(\(x\d+\))?", tasks_per_host) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    sees_one_gpu = visible != "" and "," not in visible
    return [] if one_per_host or sees_one_gpu else None


def _named_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs that JAX_LOCAL_DEVICE_IDS names, which wins over what a scheduler says."""
    if not (names := environment.get("JAX_LOCAL_DEVICE_IDS")):
        return None
    if not re.fullmatch(r"\d+(,\d+)*", names):
        raise UserError(f"JAX_LOCAL_DEVICE_IDS={names!r} must be numbers of GPUs, such as 0 or 0,1")
    return [int(name) for name in names.split(",")]


def _whole_number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, "")
    if value == "" and default is not None:
        return default
    if not value.isdecimal():
        raise UserError(f"{name}={value!r} must be a whole number; with JAX_COORDINATOR_ADDRESS it is required")
    return int(value)


def set_place(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Sets the environment variables of the place from flags, which win.

    Raises `UserError` where only some of the three are given.
    """
    given = {
        "--coordinator": ("JAX_COORDINATOR_ADDRESS", coordinator),
        "--num_processes": ("JAX_NUM_PROCESSES", num_processes),
        "--process_id": ("JAX_PROCESS_ID", process_id),
    }
    missing = [flag for flag, (_, value) in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise UserError(f"{' and '.join(missing)} is missing; a process of several needs {', '.join(given)}")
    os.environ.update({name: str(value) for name, value in given.values()})
