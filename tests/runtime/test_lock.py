"""One trainer per workdir: a living one is respected, a dead one's lock is taken over."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.runtime import lock
from tonsai_jax.runtime.lock import LOCK_FILE, workdir_lock


@pytest.fixture
def neighbour() -> Iterator[int]:
    """The id of another living process."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        process.kill()


def leave_lock(workdir: Path, **content: object) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    full = {
        "host": lock._host(),
        "pid": 1,
        "started": 0.0,
        "since": "2026-01-01 10:00:00",
        "beat": 1.0,
    } | content
    (workdir / LOCK_FILE).write_text(json.dumps(full))


def taken_over(workdir: Path) -> list[str]:
    lines: list[str] = []
    with workdir_lock(workdir, lines.append):
        assert json.loads((workdir / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (workdir / LOCK_FILE).exists()
    return lines


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    with workdir_lock(tmp_path / "run", print):
        assert (tmp_path / "run" / LOCK_FILE).is_file()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    assert taken_over(tmp_path) == []
    assert tmp_path.is_dir()


def test_a_second_trainer_is_refused_with_the_first_ones_process_and_time(tmp_path: Path, neighbour: int) -> None:
    leave_lock(tmp_path, pid=neighbour, started=psutil.Process(neighbour).create_time())
    message = (
        rf"process {neighbour} on {re.escape(lock._host())}, since 2026-01-01 10:00:00\); stop it, or give another"
    )
    with pytest.raises(UserError, match=message), workdir_lock(tmp_path, print):
        pass
    assert (tmp_path / LOCK_FILE).exists()


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        started = psutil.Process(process.pid).create_time()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        leave_lock(tmp_path, pid=process.pid, started=started)
        assert "taken over" in taken_over(tmp_path)[0]


def test_the_lock_that_another_process_has_just_taken_over_is_not_removed(tmp_path: Path) -> None:
    leave_lock(tmp_path, pid=2**22 + 1)
    stale = json.loads((tmp_path / LOCK_FILE).read_text())
    leave_lock(tmp_path, pid=os.getppid(), since="now")
    assert not lock._remove(tmp_path / LOCK_FILE, stale)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["since"] == "now"


def test_a_trainer_that_lost_its_lock_leaves_the_file_of_the_other(tmp_path: Path) -> None:
    with workdir_lock(tmp_path, print):
        leave_lock(tmp_path, pid=os.getppid())
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("content", [{"pid": 2**22 + 1}, {"pid": 1, "started": 5.0}, {"pid": os.getpid()}])
def test_the_lock_of_a_killed_trainer_is_taken_over_and_that_is_said(
    tmp_path: Path, content: dict[str, object]
) -> None:
    """Its process has gone, or another one has its number now."""
    leave_lock(tmp_path, **content)
    [line] = taken_over(tmp_path)
    assert "trainer.lock: taken over" in line


@pytest.mark.parametrize("content", ['{"host": ', '{"host": "x"}'])
def test_a_half_written_lock_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    assert "taken over" in taken_over(tmp_path)[0]


def test_another_host_is_waited_for_until_it_is_silent_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.5)
    leave_lock(tmp_path, host="node-7")
    waiting, took = taken_over(tmp_path)
    assert "held by process 1 on node-7; waiting up to" in waiting
    assert "taken over" in took


def test_a_trainer_of_another_host_that_gives_signs_of_life_is_respected(tmp_path: Path) -> None:
    leave_lock(tmp_path, host="node-7")

    def say(line: str) -> None:
        leave_lock(tmp_path, host="node-7", beat=2.0)  # while this one waits

    with pytest.raises(UserError, match="process 1 on node-7"), workdir_lock(tmp_path, say):
        pass


def test_a_living_trainer_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with workdir_lock(tmp_path, print):
        first = beat = json.loads((tmp_path / LOCK_FILE).read_text())["beat"]
        for _ in range(500):
            if beat != first:
                break
            beat = json.loads((tmp_path / LOCK_FILE).read_text())["beat"]
        assert beat != first
