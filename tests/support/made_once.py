"""Folders that are slow to make, shared by all of pytest's processes."""

import fcntl
from collections.abc import Callable
from pathlib import Path


class MadeOnce:
    """Gives the folder of a name: the first process that asks makes it, the others wait. Copy it before you change it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        folder, done = self.root / name, self.root / f"{name}.done"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder
