"""The processes of a run on many hosts: how they start, and how they do together what can fail on one."""

import hashlib
import os
import socket
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from tonsai_jax.errors import EXIT_TEMPORARY, TemporaryError, UserError, exit_code
from tonsai_jax.hosts.place import find_place

_Result = TypeVar("_Result")
_TEXT_BYTES = 1024


def start_processes(connect_seconds: float = 300.0) -> None:
    """Connects this process to the other processes of the run, see `find_place`; does nothing for a run of one process.

    Args:
      connect_seconds: how long to wait for the others (`hosts.connect_seconds`).

    Raises the errors of `find_place` and `connect`.
    """
    if (place := find_place(os.environ, connect_seconds)) is not None:
        from tonsai_jax.hosts.connection import connect  # imported here: most runs have one process

        connect(*place, connect_seconds)


def on_every_process(work: Callable[[], _Result]) -> _Result:
    """Does on each process of the run what can fail on one of them alone, such as reading a file; all must call it together.

    Where it failed, every process raises: the others would else wait in their next collective for the one that failed, for ever.

    Raises what `work` raised in a run of one process; of several a `UserError` that names the processes and what failed there
    (a `TemporaryError` where it was one on each of them).
    """
    if jax.process_count() == 1:
        return work()
    result, message = None, ""
    try:
        result = work()
    except Exception as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        message = f"{exit_code(error)} process {jax.process_index()} ({socket.gethostname()}): {what}"
    if failed := [text.partition(" ") for text in gather_texts(message) if text]:
        is_temporary = all(code == str(EXIT_TEMPORARY) for code, _, _ in failed)
        raise (TemporaryError if is_temporary else UserError)("; ".join(text for _, _, text in failed))
    return result  # type: ignore[return-value]  # it did not fail


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in their order, each cut to 1024 bytes; all must call it together."""
    if jax.process_count() == 1:
        return [text]
    padded = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
    rows = process_allgather(np.frombuffer(padded, np.uint8)).reshape(-1, _TEXT_BYTES)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


def hosts_of_devices() -> list[int]:
    """For each of `jax.devices()` the number of its host; processes with the same host name are on one. All must call it."""
    if jax.process_count() == 1:
        return [0] * jax.device_count()
    own = np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest()[:8], np.int32)
    names = [row.tobytes() for row in process_allgather(own).reshape(-1, own.size)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[names[device.process_index]] for device in jax.devices()]
