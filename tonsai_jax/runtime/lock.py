"""One trainer per workdir: a second one would overwrite the metrics and the checkpoints of the first."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json
from tonsai_jax.sole_writer import flock, is_at

LOCK_FILE = "trainer.lock"
BEAT_SECONDS = 10.0  # between two signs of life in the file
SILENT_SECONDS = 60.0  # after this time without one, the trainer of another host counts as dead
POLL_SECONDS = 1.0  # between two looks at the file


@contextlib.contextmanager
def workdir_lock(workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds `workdir/trainer.lock` for the duration of the block.

    The file names the host and the process, and the process has the kernel's lock on it (flock). The kernel releases the lock
    when the process ends, however it ends, so the file of a dead trainer of this host is taken over at once. The lock may not
    reach other hosts, and some file systems have none. There a trainer counts as dead when the "beat" in its file does not
    change for a minute; clocks of two hosts are never compared.

    Args:
      say: prints a line where a lock is taken over, waited for or lost; the last in another thread.

    Raises `UserError` where another trainer holds the lock, or the folder cannot be written.
    """
    path, is_new = workdir / LOCK_FILE, not workdir.exists()
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with disk_errors(workdir):
        try:
            file = _take(path, own, say)
        except OSError:
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:  # just made, on a full disk
                    path.unlink()
                if is_new:
                    workdir.rmdir()
            raise
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, path, own, ended, say), name="lock", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if _is_own(_read(path), own):
            path.unlink(missing_ok=True)
        file.close()  # after the file has gone, so that nobody takes it for that of a dead trainer
        if is_new:
            with contextlib.suppress(OSError):
                workdir.rmdir()  # fails unless it is empty: the run wrote nothing


def _take(path: Path, own: dict[str, Any], say: Callable[[str], None]) -> FileIO:
    """Returns the open and locked file with `own` in it; raises `UserError` where another trainer has it."""
    while True:
        with contextlib.ExitStack() as unless_taken:
            file, is_made = _open(path)
            unless_taken.enter_context(file)
            try:
                is_locked = flock(file)
            except BlockingIOError:
                held = _read(path)
                if is_at(file, path):
                    raise _in_use(path, held) from None
                continue
            if not is_at(file, path):
                continue  # its trainer has just ended and removed it
            held = {} if is_made else _read(path)
            is_dead = not held or (is_locked and held["host"] == own["host"])
            if not is_dead:
                now = _wait(path, held, say)
                if not now:
                    continue
                if now != held:
                    raise _in_use(path, now)
            _write(file, own)
            if not is_dead:
                time.sleep(POLL_SECONDS)  # another host may have waited too: the last one to write has it
                now = _read(path)
                if not _is_own(now, own):
                    raise _in_use(path, now)
            if not is_made:
                why = "has ended" if is_dead else f"has been silent for {SILENT_SECONDS:.0f}s"
                say(f"{path}: taken over; the trainer that left it{_owner(held)} {why}")
            unless_taken.pop_all()
            return file


def _open(path: Path) -> tuple[FileIO, bool]:
    """Opens the file; the second value says whether it was made by this call, so that it is empty."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a trainer that ends has just removed the file or the folder
            with contextlib.suppress(FileExistsError):
                return path.open("x+b", buffering=0), True
            return path.open("r+b", buffering=0), False


def _read(path: Path) -> dict[str, Any]:
    """The content of the file; empty where it has gone, or where its writer was killed in the middle of it."""
    for _ in range(2):
        with contextlib.suppress(OSError, UserError):
            held = read_json(path)
            if isinstance(held, dict) and held.keys() >= {"host", "pid", "since", "beat"}:
                return held
        time.sleep(POLL_SECONDS)  # it may be written at this moment
    return {}


def _write(file: FileIO, own: dict[str, Any]) -> None:
    """Writes in place: a renamed file would be another one, without the kernel's lock."""
    content = json.dumps(own | {"beat": time.time()}).encode()
    os.pwrite(file.fileno(), content, 0)
    file.truncate(len(content))
    os.fsync(file.fileno())  # other hosts see it only then


def _is_own(held: dict[str, Any], own: dict[str, Any]) -> bool:
    return own.items() <= held.items()


def _wait(path: Path, held: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Returns the content of the file when it changes, empty if the file has gone, or `held` if its trainer is silent."""
    say(f"{path}: waiting up to {SILENT_SECONDS:.0f}s for a sign of life of its trainer{_owner(held)}")
    deadline = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = _read(path)
        if now != held:
            return now
    return held


def _beat(file: FileIO, path: Path, own: dict[str, Any], ended: threading.Event, say: Callable[[str], None]) -> None:
    while not ended.wait(BEAT_SECONDS):
        held = _read(path)
        if held and not _is_own(held, own):
            say(f"{path}: lost to another trainer{_owner(held)}, as this one was silent; stop one of the two")
            return
        with contextlib.suppress(OSError):  # a full disk stops the run elsewhere, with its own message
            _write(file, own)


def _in_use(path: Path, held: dict[str, Any]) -> UserError:
    return UserError(f"{path.parent}: another trainer works here{_owner(held)}; stop it, or give another --workdir")


def _owner(held: dict[str, Any]) -> str:
    return f" (process {held['pid']} on {held['host']}, since {held['since']})" if held else ""
