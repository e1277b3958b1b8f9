"""One command at a time writes an output: two would mix their files, and the first to end would remove those of the other."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from tonsai_jax.errors import UserError

_held: set[Path] = set()  # by this process


def flock(file: FileIO) -> bool:
    """Takes the kernel's lock on an open file; the kernel releases it when the process ends, however it ends.

    Returns False where the file system has no locks. Raises `BlockingIOError` where another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_at(file: FileIO, path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Holds a lock on `.NAME.lock`, a file next to `output`, for the duration of the block.

    It keeps out other processes of this machine, and those of others where the file system has locks that reach them. A block
    inside another one of the same process and output does nothing.

    Raises `UserError` where another process holds it.
    """
    path = output.with_name(f".{output.name}.lock").absolute()
    if path in _held:
        yield
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed below
        try:
            flock(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace")
            file.close()
            raise UserError(
                f"{output}: another command is writing it{owner and f' ({owner})'}; wait until it has ended, or give another "
                "output folder"
            ) from None
        if is_at(file, path):
            break
        file.close()  # its owner has just ended and removed it
    _held.add(path)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _held.remove(path)
        with suppress(OSError):  # before it is released, so that nobody locks a file that goes
            path.unlink()
        file.close()
