"""Runs a check of a test file in processes of its own that see eight CPU devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run_on_eight_devices(check: Callable[[], None]) -> None:
    """Calls `check`, a function at the top of a test file, in one other process; fails with what it printed."""
    _wait(_start(check, devices=8))


def run_on_two_processes_of_four_devices(check: Callable[[], None]) -> None:
    """Calls `check` in two processes that are one run, as two hosts are; fails with what one of them printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [_start(check, devices=4, **hosts, JAX_PROCESS_ID=str(number)) for number in range(2)]
    try:
        for process in processes:
            _wait(process)
    finally:
        for process in processes:
            process.kill()


def _start(check: Callable[[], None], *, devices: int, **environment: str) -> subprocess.Popen[str]:
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
    }
    program = (
        "from tonsai_jax.hosts.processes import start_processes; start_processes(); "
        f"from {check.__module__} import {check.__name__} as check; check()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=os.environ | settings | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(process: subprocess.Popen[str]) -> None:
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 0, printed
