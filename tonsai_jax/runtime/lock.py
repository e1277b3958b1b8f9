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
    own = {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time()}
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
            if _remove(path, held):
                say(f"{path}: taken over; the trainer that left it has ended {_owner(held)}")
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, own, ended), name="lock", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if _is_own(path, own):
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
            held = read_json(path)
            if isinstance(held, dict) and held.keys() >= {"host", "pid", "started", "since", "beat"}:
                return held
        time.sleep(1)  # it may be written at this moment
    return {}


def _remove(path: Path, held: dict[str, Any]) -> bool:
    """Removes the file of a dead trainer; False where it has become that of another trainer, which was as quick."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(aside)  # only one of two processes can
    except FileNotFoundError:
        return False
    found = _read(aside)
    if found and found != held:
        aside.rename(path)
        return False
    aside.unlink()
    return True


def _is_own(path: Path, own: dict[str, Any]) -> bool:
    """Whether the file is still ours: a process that slept for minutes may have lost it to another trainer."""
    with contextlib.suppress(UserError):
        held = read_json(path)
        return isinstance(held, dict) and all(held.get(key) == value for key, value in own.items())
    return False


def _is_alive(path: Path, held: dict[str, Any], say: Callable[[str], None]) -> bool:
    if held["host"] == _host():
        if held["pid"] == os.getpid():  # of an earlier container, whose processes had the same numbers
            return False
        try:
            process = psutil.Process(held["pid"])
            is_zombie = (
                process.status() == psutil.STATUS_ZOMBIE
            )  # ended, though the process that started it did not notice
            return not is_zombie and abs(process.create_time() - held["started"]) < CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return False
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
            if _is_own(path, own):
                write_json(path, own | {"beat": time.time()})


def _host() -> str:
    """The name of this host; in a container also the number of its process ids' namespace, as ids mean nothing outside it."""
    namespace = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" ({namespace.readlink()})" if namespace.is_symlink() else "")


def _owner(held: dict[str, Any]) -> str:
    return f"(process {held['pid']} on {held['host']})" if held else "(it does not say which)"
