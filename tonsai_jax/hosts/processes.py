"""The processes of a run on many hosts: how they find each other, and which GPUs each of them takes."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from tonsai_jax.errors import UserError

_Result = TypeVar("_Result")
_MESSAGE_BYTES = 1024


def start_processes(connect_seconds: float = 300.0) -> None:
    """Connects this process to the other processes of the run; does nothing for a run of one process.

    There are two ways, chosen by environment variables:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe the run and the place of this process in it. The
    process takes all GPUs that it sees, or those that JAX_LOCAL_DEVICE_IDS names.

    JAX_DISTRIBUTED=auto lets JAX find the other processes under Slurm, Open MPI or Kubernetes; `local_device_ids` says which
    GPUs the process takes.

    Args:
      connect_seconds: how long to wait for the others (`hosts.connect_seconds`).

    Raises `UserError` where JAX_NUM_PROCESSES or JAX_PROCESS_ID is missing or not a whole number, and what `connect` raises.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        from tonsai_jax.hosts.connection import connect  # imported here: most runs have one process

        address, count = os.environ["JAX_COORDINATOR_ADDRESS"], _whole_number("JAX_NUM_PROCESSES")
        connect(address, count, _whole_number("JAX_PROCESS_ID"), None, connect_seconds)
    elif os.environ.get("JAX_DISTRIBUTED") == "auto":
        from jax._src.clusters import ClusterEnv

        from tonsai_jax.hosts.connection import connect  # as above

        found, number_of, number, local_ids = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, local_device_ids(os.environ), None, int(connect_seconds)
        )
        if found is None or number_of is None or number is None:
            raise UserError("JAX_DISTRIBUTED=auto finds no Slurm, Open MPI or Kubernetes here; see docs/runtime.md")
        chosen = None if local_ids is None or "JAX_LOCAL_DEVICE_IDS" in os.environ else list(local_ids)
        connect(found, number_of, number, chosen, connect_seconds)


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """The `local_device_ids` for `jax.distributed.initialize`: [] takes all visible GPUs, None leaves the choice to JAX.

    JAX gives a process whose rank on its host is known only the GPU with that number. That is right for one process per GPU
    that sees all GPUs of the host. It is wrong for one process per host, and for a process that sees only its own GPU.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    tasks_per_host = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4), or 8(x2),4
    one_per_host = re.fullmatch(r"1(\(x\d+\))?", tasks_per_host) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    sees_one_gpu = visible != "" and "," not in visible
    return [] if one_per_host or sees_one_gpu else None


def on_every_process(work: Callable[[], _Result]) -> _Result:
    """Does on each process of the run what can fail on one of them alone, such as reading a file; all must call it together.

    Where it failed, every process raises: the others would else wait in their next collective for the one that failed, for ever.

    Raises what `work` raised in a run of one process; of several a `UserError` that names the processes and what failed there.
    """
    if jax.process_count() == 1:
        return work()
    result, message = None, ""
    try:
        result = work()
    except Exception as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        message = f"process {jax.process_index()} ({socket.gethostname()}): {what}"
    padded = message.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    gathered = process_allgather(np.frombuffer(padded, np.uint8)).reshape(-1, _MESSAGE_BYTES)
    messages = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in gathered]
    if any(messages):
        raise UserError("; ".join(filter(None, messages)))
    return result  # type: ignore[return-value]  # it did not fail


def _whole_number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name}={value!r} must be a whole number; with JAX_COORDINATOR_ADDRESS it is required")
    return int(value)
