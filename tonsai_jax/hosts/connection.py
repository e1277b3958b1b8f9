"""How the processes of a run connect to each other: each of them waits a stated time for the others."""

import atexit
import socket
import threading

import jax

from tonsai_jax.errors import EXIT_TEMPORARY, UserError
from tonsai_jax.hosts.ending import claim_end, end_process
from tonsai_jax.hosts.relay import Relay, wait_for_coordinator

# Longer than any run: JAX's own time-outs abort the process with a C++ stack, so `Watchdog` keeps the time instead.
_NEVER_SECONDS = 10**7
_SHUTDOWN_SECONDS = 30  # for which a process waits at its end for the others, which are at their end too

_relay: Relay | None = None


def connect(
    address: str, num_processes: int, process_id: int, local_device_ids: list[int] | None, seconds: float
) -> None:
    """Connects this process to the others of the run; returns when all of them are there.

    Args:
      address: "HOST:PORT" of process 0, which listens there.
      local_device_ids: see `place.local_device_ids`.
      seconds: how long to wait for the others (`hosts.connect_seconds`).

    Raises `UserError` for an address without a port, and `TemporaryError` where process 0 does not start in time. Where another
    process does not, this one ends with exit code 75 and one line; so it does later, when process 0 has gone.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address!r} must be HOST:PORT, such as node1:12345")
    global _relay
    if process_id > 0:
        wait_for_coordinator(host.strip("[]"), int(port), seconds)
        _relay = Relay(host.strip("[]"), int(port), lambda: _end_without_process_0(process_id))
    # JAX's client waits without end, and this thread does not.
    too_late = threading.Timer(seconds, _end_late_start, (process_id, num_processes, seconds))
    too_late.daemon = True
    too_late.start()
    jax.distributed.initialize(
        _relay.address if _relay else address,
        num_processes=num_processes,
        process_id=process_id,
        local_device_ids=local_device_ids,
        # Without it JAX would still look for Slurm, and give the first task of a host only its first GPU.
        cluster_detection_method="deactivate",
        initialization_timeout=_NEVER_SECONDS,
        heartbeat_timeout_seconds=_NEVER_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    too_late.cancel()
    atexit.register(leave)  # runs before JAX waits there for all processes, after which process 0 may be gone


def leave() -> None:
    """From now on process 0 may end before this process, which ends by itself."""
    if _relay is not None:
        _relay.leave()


def _end_late_start(process_id: int, num_processes: int, seconds: float) -> None:
    claim_end()
    end_process(
        f"process {process_id} ({socket.gethostname()}): not all {num_processes} processes of the run have started within "
        f"{seconds:g} s; look for one that failed, or raise hosts.connect_seconds",
        EXIT_TEMPORARY,
    )


def _end_without_process_0(process_id: int) -> None:
    claim_end()
    end_process(
        f"process {process_id} ({socket.gethostname()}): process 0 has ended, or its host cannot be reached; this process ends "
        "too. Run the same command again on all hosts",
        EXIT_TEMPORARY,
    )
