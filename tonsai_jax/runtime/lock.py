"""One trainer per workdir: a second one would overwrite the metrics and the checkpoints of the first."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json, write_json

LOCK_FILE = "trainer.lock"
BEAT_SECONDS = 10.0  # between two signs of life in the file
SILENT_SECONDS = 60.0  # after this time without one, the trainer of another host counts as dead
CLOCK_SECONDS = 5.0  # by which the system can report the start of one process differently


@contextlib.contextmanager
def workdir_lock(workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds `workdir/trainer.lock` for the duration of the block.

    The file names the host, the process and its start. A trainer that was killed leaves its file; it is taken over. Whether it
    was killed is known at once on its own host. The trainer of another host counts as dead when the "beat" in its file does not
    change for a minute; clocks of two hosts are never compared.

    Args:
      say: prints a line where a lock is taken over, or waited for.

    Raises `UserError` where another trainer holds the lock, or the folder cannot be written.
    """
    path, is_new = workdir / LOCK_FILE, not workdir.exists()
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    own["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        while not _create(path, own):
            held = _read(path)
            if held and _is_alive(path, held, say):
                raise UserError(
                    f"{workdir}: another trainer works here (process {held['pid']} on {held['host']}, since {held['since']}); "
                    "stop it, or give another --workdir"
                )
            say(f"{path}: taken over; the trainer that left it has ended {_owner(held)}")
            path.unlink(missing_ok=True)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, own, ended), name="lock", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        path.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):
                workdir.rmdir()  # fails unless it is empty: the run wrote nothing


def _create(path: Path, own: dict[str, Any]) -> bool:
    """Writes the file; False where there is one already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(own | {"beat": time.time()}, file)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    """The content of the file; empty where it has gone, or where its writer was killed in the middle of it."""
    for _ in range(2):
        with contextlib.suppress(UserError):
            return read_json(path)
        time.sleep(1)  # it may be written at this moment
    return {}


def _is_alive(path: Path, held: dict[str, Any], say: Callable[[str], None]) -> bool:
    if held["host"] == socket.gethostname():
        if held["pid"] == os.getpid():  # of an earlier container, whose processes had the same numbers
            return False
        try:
            started = psutil.Process(held["pid"]).create_time()
        except psutil.NoSuchProcess:
            return False
        return abs(started - held["started"]) < CLOCK_SECONDS
    say(
        f"{path}: held by process {held['pid']} on {held['host']}; waiting up to {SILENT_SECONDS:.0f}s for a sign of life"
    )
    deadline = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        now = _read(path)
        if now.get("beat") != held["beat"]:
            return bool(now)  # the file has gone: the trainer ended well
    return False


def _beat(path: Path, own: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(UserError, OSError):  # a full disk stops the run elsewhere, with its own message
            write_json(path, own | {"beat": time.time()})


def _owner(held: dict[str, Any]) -> str:
    return f"(process {held['pid']} on {held['host']})" if held else "(it does not say which)"
