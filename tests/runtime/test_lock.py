"""One trainer per workdir: a living one is respected, a dead one's lock is taken over."""

import errno
import fcntl
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.runtime import lock
from tonsai_jax.runtime.lock import LOCK_FILE, workdir_lock

TRAINER = """
import sys, time
from pathlib import Path
from tonsai_jax.runtime.lock import workdir_lock
with workdir_lock(Path(sys.argv[1]), print):
    print("holds it", flush=True)
    time.sleep(60)
"""


@contextmanager
def trainer(workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock."""
    with subprocess.Popen([sys.executable, "-c", TRAINER, workdir], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds it\n"
            yield process
        finally:
            process.kill()


def leave_lock(workdir: Path, **content: object) -> None:
    full = {"host": socket.gethostname(), "pid": 1, "since": "2026-01-01 10:00:00", "beat": 1.0}
    write_json(workdir / LOCK_FILE, full | content)


def taken_over(workdir: Path) -> list[str]:
    lines: list[str] = []
    with workdir_lock(workdir, lines.append):
        assert read_lock(workdir)["pid"] == os.getpid()
    assert not (workdir / LOCK_FILE).exists()
    return lines


def read_lock(workdir: Path) -> dict[str, object]:
    held = lock._read(workdir / LOCK_FILE)
    assert isinstance(held, dict)
    return held


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.1)


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    with workdir_lock(tmp_path / "run", print):
        assert (tmp_path / "run" / LOCK_FILE).is_file()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    assert taken_over(tmp_path) == []
    assert tmp_path.is_dir()


def test_a_second_trainer_is_refused_with_the_first_ones_process_and_time(tmp_path: Path) -> None:
    with trainer(tmp_path) as first:
        since = read_lock(tmp_path)["since"]
        owner = re.escape(f"(process {first.pid} on {socket.gethostname()}, since {since})")
        with pytest.raises(UserError, match=f"{owner}; stop it, or give another"), workdir_lock(tmp_path, print):
            pass
        assert read_lock(tmp_path)["pid"] == first.pid


def test_the_lock_of_a_killed_trainer_is_taken_over_at_once_and_that_is_said(tmp_path: Path) -> None:
    """Also while the process that started it has not noticed its end."""
    with trainer(tmp_path) as first:
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        [line] = taken_over(tmp_path)
    assert f"trainer.lock: taken over; the trainer that left it (process {first.pid} on " in line
    assert "has ended" in line


def test_the_number_of_a_dead_trainer_may_be_that_of_a_living_process(tmp_path: Path) -> None:
    for pid in (os.getpid(), os.getppid()):
        leave_lock(tmp_path, pid=pid)
        assert "has ended" in taken_over(tmp_path)[0]


@pytest.mark.parametrize("content", ["", '{"host": ', '{"host": "x"}'])
def test_a_half_written_lock_is_taken_over(tmp_path: Path, quick: None, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    assert "taken over" in taken_over(tmp_path)[0]


HAND_OVER = """
import sys
from pathlib import Path
from tonsai_jax.errors import UserError
from tonsai_jax.runtime import lock
lock.POLL_SECONDS = 0
workdir, left = Path(sys.argv[1]), 200
print("ready", flush=True)
sys.stdin.readline()
while left:
    try:
        with lock.workdir_lock(workdir, lambda line: None):
            (workdir / "busy").open("x").close()  # fails where the other is here too
            (workdir / "busy").unlink()
            left -= 1
    except UserError:
        pass
"""


def test_of_two_processes_that_want_it_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    """A few hundred times, as each takes it, leaves it and takes it again."""
    leave_lock(tmp_path)
    command = [sys.executable, "-c", HAND_OVER, str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_another_host_is_waited_for_until_it_is_silent_for_a_while(tmp_path: Path, quick: None) -> None:
    leave_lock(tmp_path, host="node-7")
    waiting, took = taken_over(tmp_path)
    assert "of its trainer (process 1 on node-7, since" in waiting
    assert "has been silent for" in took


def test_a_trainer_of_another_host_that_gives_signs_of_life_is_respected(tmp_path: Path, quick: None) -> None:
    leave_lock(tmp_path, host="node-7")

    def say(line: str) -> None:
        leave_lock(tmp_path, host="node-7", beat=2.0)  # while this one waits

    with pytest.raises(UserError, match="process 1 on node-7"), workdir_lock(tmp_path, say):
        pass


def test_a_trainer_of_another_host_that_ends_meanwhile_is_not_waited_for_further(tmp_path: Path, quick: None) -> None:
    leave_lock(tmp_path, host="node-7")
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        (tmp_path / LOCK_FILE).unlink()

    with workdir_lock(tmp_path, say):
        assert read_lock(tmp_path)["pid"] == os.getpid()
    assert len(lines) == 1


def test_of_two_hosts_that_take_a_lock_over_the_last_one_to_write_has_it(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(tmp_path, host="node-7")
    monkeypatch.setattr(lock, "_write", lambda file, own: leave_lock(tmp_path, host="node-8"))
    with pytest.raises(UserError, match="process 1 on node-8"), workdir_lock(tmp_path, print):
        pass


def test_where_the_file_system_has_no_locks_the_trainer_of_this_host_is_waited_for_too(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 10)  # a sign of life ends the wait
    with (
        workdir_lock(tmp_path, print),
        pytest.raises(UserError, match="another trainer"),
        workdir_lock(tmp_path, print),
    ):
        pass
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.1)
    leave_lock(tmp_path)
    assert "has been silent for" in taken_over(tmp_path)[1]


def test_a_trainer_that_lost_its_lock_says_so_and_leaves_the_file_of_the_other(tmp_path: Path, quick: None) -> None:
    lines: list[str] = []
    with workdir_lock(tmp_path, lines.append):
        leave_lock(tmp_path, host="node-7")
        wait_until(lambda: bool(lines))
    assert read_lock(tmp_path)["host"] == "node-7"
    assert "lost to another trainer (process 1 on node-7" in lines[0]


def test_a_living_trainer_gives_signs_of_life(tmp_path: Path, quick: None) -> None:
    with workdir_lock(tmp_path, print):
        first = read_lock(tmp_path)["beat"]
        wait_until(lambda: read_lock(tmp_path)["beat"] != first)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_where_the_disk_is_full_no_file_is_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(UserError, match="the disk is full"), workdir_lock(tmp_path / "run", print):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "run").exists()
