"""A run that hangs, or that has lost a process, ends in time with one line and exit code 75; one that is fine goes on."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from tests.support.tiny_run import environment
from tests.support.two_processes import calling, end_of, two_processes
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.awake_clock import AwakeClock
from tonsai_jax.hosts.heartbeat import HeartbeatFile
from tonsai_jax.hosts.peers import Peers
from tonsai_jax.hosts.step_times import StepTimes
from tonsai_jax.hosts.watchdog import DOWNLOADING, Watchdog

HERE = socket.gethostname()


def steps(
    workdir: str,
    hang_seconds: float,
    stuck_process: int = -1,
    failing_process: int = -1,
    last: int = 10**6,
    peer_seconds: float = 3.0,
) -> None:
    """A loop as the trainer's, without a model: its tenth step can hang in the system, or fail."""
    limits = default_config().hosts
    limits.hang_seconds, limits.peer_seconds, limits.hang_factor = hang_seconds, peer_seconds, 2.0
    me = int(os.environ.get("JAX_PROCESS_ID", "0"))
    with Watchdog(limits, Path(workdir)) as watchdog:
        for step in range(last):
            watchdog.step_begins(step, "a stage")
            if step == 10 and me == stuck_process:
                os.read(os.pipe()[0], 1)  # nobody ever writes there
            if step == 10 and me == failing_process:
                raise UserError("shard 7 is damaged")
            watchdog.step_ends(step)
            time.sleep(0.02)
            if step == 5:
                print("five steps", flush=True)


def wait_for_steps(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert "five steps" in process.stdout.readline()


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_killed_process_ends_the_other_one(victim: int, tmp_path: Path) -> None:
    with two_processes([calling(steps, str(tmp_path), 100.0)] * 2) as processes:
        for process in processes:
            wait_for_steps(process)
        processes[victim].kill()
        began = time.monotonic()
        code, line = end_of(processes[1 - victim])
        assert code == 75
        assert time.monotonic() - began < 3.0 + 5.0  # peer_seconds, and what a busy machine adds
    assert line.startswith("error: process ")
    assert "\n" not in line
    assert f"process {victim}" in line
    assert ("has ended, or its host cannot be reached" if victim == 0 else "has not been heard of for 3 s") in line


@pytest.mark.full
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_other_one_and_itself_when_it_goes_on(victim: int, tmp_path: Path) -> None:
    with two_processes([calling(steps, str(tmp_path), 100.0)] * 2) as processes:
        for process in processes:
            wait_for_steps(process)
        processes[victim].send_signal(signal.SIGSTOP)
        code, line = end_of(processes[1 - victim])
        assert code == 75
        assert re.search(rf"process {victim}( \({HERE}\))? has not been heard of for 3 s", line)
        processes[victim].send_signal(signal.SIGCONT)
        code, line = end_of(processes[victim])
    assert code == 75
    assert line.startswith("error: process ")
    assert "\n" not in line


@pytest.mark.full
def test_a_process_that_fails_ends_the_other_one_with_its_message_and_code(tmp_path: Path) -> None:
    with two_processes([calling(steps, str(tmp_path), 100.0, -1, 1)] * 2) as processes:
        assert end_of(processes[1]) == (1, "error: shard 7 is damaged")
        expected = f"error: process 1 ({HERE}) failed: shard 7 is damaged; process 0 ({HERE}) ends too"
        assert end_of(processes[0]) == (1, expected)


def fail_before_a_long_end(workdir: str, failing: int) -> None:
    """The process `failing` fails, and then has 5 seconds of work around it; the other one trains."""
    limits = default_config().hosts
    limits.peer_seconds = 3.0
    with Watchdog(limits, Path(workdir)) as watchdog, contextlib.ExitStack() as around, watchdog.tells_failure():
        watchdog.step_begins(0, "a stage")
        if os.environ["JAX_PROCESS_ID"] == str(failing):
            around.callback(time.sleep, 5.0)
            raise UserError("shard 7 is damaged")
        time.sleep(100.0)


@pytest.mark.full
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_told_before_what_the_process_still_has_to_do(failing: int, tmp_path: Path) -> None:
    with two_processes([calling(fail_before_a_long_end, str(tmp_path), failing)] * 2) as processes:
        line = f"error: process {failing} ({HERE}) failed: shard 7 is damaged; process {1 - failing} ({HERE}) ends too"
        assert end_of(processes[1 - failing]) == (1, line)
        assert processes[failing].poll() is None, "it has still to do"
        assert end_of(processes[failing]) == (1, "error: shard 7 is damaged")


@pytest.mark.full
def test_a_hang_names_the_late_process_and_leaves_the_stacks_of_both(tmp_path: Path) -> None:
    with two_processes([calling(steps, str(tmp_path), 2.0, 1)] * 2) as processes:
        for number, process in enumerate(processes):
            code, line = end_of(process)
            assert code == 75
            assert f"process 1 ({HERE}): no progress for 2 s (step 11, training; the limit is 2 s" in line
            (stacks,) = (tmp_path / "logs").glob(f"process-{number}-*.txt")
            assert "in steps" in stacks.read_text()


@pytest.mark.full
def test_a_hang_beside_a_stopped_process_names_the_stopped_one(tmp_path: Path) -> None:
    with two_processes([calling(steps, str(tmp_path), 8.0, 0, -1, 10**6, 60.0)] * 2) as processes:
        for process in processes:
            wait_for_steps(process)
        processes[1].send_signal(signal.SIGSTOP)
        code, line = end_of(processes[0])
    assert code == 75
    assert line.startswith(f"error: process 1 ({HERE}) has not been heard of for 5 s (at step ")
    assert f"process 0 ({HERE}): no progress for 8 s" in line


@pytest.mark.full
def test_one_process_that_hangs_ends_and_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            calling(steps, *arguments), env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with start(str(tmp_path / "stuck"), 1.5, 0) as stuck, start(str(tmp_path / "fine"), 1.5, -1, -1, 150) as fine:
        wait_for_steps(fine)
        fine.send_signal(signal.SIGSTOP)  # as Ctrl-Z in a shell
        time.sleep(4.0)
        fine.send_signal(signal.SIGCONT)
        assert end_of(fine) == (0, "")
        code, line = end_of(stuck)
    assert code == 75
    assert "no progress for 2 s (step 11, training; the limit is 2 s" in line
    assert "run the same command again to continue from the last checkpoint" in line
    (stacks,) = (tmp_path / "stuck" / "logs").iterdir()
    assert "in steps" in stacks.read_text()


def test_pauses_and_compilations_have_limits_of_their_own(tmp_path: Path) -> None:
    limits = default_config().hosts
    limits.hang_seconds, limits.start_seconds, limits.pause_seconds = 10.0, 1000.0, 100.0
    with Watchdog(limits, tmp_path) as watchdog:
        assert watchdog._limit() == 1000.0  # starting
        with watchdog.doing(DOWNLOADING):
            assert watchdog._limit() == 0.0
        watchdog._since = -900.0
        watchdog.step_begins(0, "short windows")
        assert watchdog._limit() == 1000.0  # compiling
        assert watchdog._since >= 0.0, "what came before is no part of it"
        watchdog.step_ends(0)
        watchdog.step_begins(1, "short windows")
        watchdog.step_ends(1)
        assert watchdog._limit() == 10.0
        with watchdog.doing("evaluating"):
            assert watchdog._limit() == 100.0
        assert watchdog._limit() == 10.0
        watchdog.step_begins(2, "long windows")
        assert watchdog._limit() == 1000.0
        assert watchdog.times.median() is not None, "of step 1 alone"
    beat = json.loads((tmp_path / "heartbeats" / "process-0.json").read_text())
    assert (beat["process"], beat["host"], beat["pid"], beat["step"]) == (0, HERE, os.getpid(), 3)
    assert beat["doing"] == "compiling"


def test_a_heartbeat_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "heartbeats").write_text("a file in the way")
    HeartbeatFile(tmp_path / "heartbeats" / "process-0.json", lambda: {"step": 1}).close()


def test_the_clock_stands_still_while_the_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.chain([0.0, 0.5, 1.0, 3600.0, 3600.5])
    monkeypatch.setattr("tonsai_jax.hosts.awake_clock.time.monotonic", lambda: next(times))
    clock = AwakeClock(longest=1.0)
    for _ in range(4):
        clock.tick()
    assert clock.now() == 0.5 + 0.5 + 1.0 + 0.5


def test_a_step_that_stands_out_is_reported_once() -> None:
    times = StepTimes()
    assert times.take_slowest() is None
    for step in range(20):
        times.add(step, 0.5)
    assert times.take_slowest() == (0.5, "")
    times.add(20, 9.0)
    times.add(21, 0.5)
    assert times.take_slowest() == (9.0, "step 21: took 9.0 s, 18 times the median of 0.50 s")
    assert times.take_slowest() is None


def test_a_collective_that_lost_a_process_is_known_by_its_words_in_an_error_of_xla() -> None:
    gloo = ValueError(
        "UNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:547] Read error: Connection reset by peer"
    )
    wrapped = UserError("the checkpoint was not written")
    wrapped.__cause__ = gloo
    assert Peers.is_lost_in(gloo)
    assert Peers.is_lost_in(wrapped)
    assert Peers.is_lost_in(jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out"))
    assert not Peers.is_lost_in(ValueError("a barrier of the language"))
    assert not Peers.is_lost_in(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    from_itself = UserError("the disk is full")
    from_itself.__cause__ = from_itself
    assert not Peers.is_lost_in(from_itself)
    of_the_hub = UserError("NAME/MODEL: cannot be reached")
    of_the_hub.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert not Peers.is_lost_in(of_the_hub)
    assert not Peers.is_lost_in(ValueError("runs/nccl/config.json: not a number"))


@pytest.mark.full
def test_a_process_that_never_starts_is_waited_for_only_so_long() -> None:
    program = "from tonsai_jax.errors import run_command; from tonsai_jax.hosts.processes import start_processes; "
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    lines = []
    for me in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", f"{program} run_command(lambda: start_processes(2.0))"],
            env=environment(1) | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": me},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 75, done.stderr
        lines.append(done.stderr.strip())
    assert lines[0].endswith(
        "not all 2 processes of the run have started within 2 s; look for one that failed, or raise hosts.connect_seconds"
    )
    assert f"was not found at {address} for 2 s (Connection refused)" in lines[1]
    assert "\n" not in lines[0] + lines[1]
