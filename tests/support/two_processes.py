"""Two processes on this machine that are one run, as two hosts are."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.tiny_run import environment


@contextmanager
def two_processes(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts process 0 and process 1 of a run with one device each; kills what is left of them at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            command,
            env=environment(1) | hosts | {"JAX_PROCESS_ID": str(number)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def calling(function: Callable[..., None], *arguments: object) -> list[str]:
    """The command that connects to the other process, then calls a function at the top of a test file."""
    program = (
        "from tonsai_jax.errors import run_command; from tonsai_jax.hosts.processes import start_processes; "
        f"from {function.__module__} import {function.__name__} as work; "
        f"run_command(lambda: (start_processes(60.0), work(*{arguments!r})))"
    )
    return [sys.executable, "-c", program]


def end_of(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, str]:
    """Waits for the end of a process; returns its exit code and what it wrote on stderr."""
    _, printed = process.communicate(timeout=seconds)
    return process.returncode, printed.strip()
