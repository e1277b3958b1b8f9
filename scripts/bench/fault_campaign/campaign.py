"""The parts of the campaign by name, each in a folder of its own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from .doubles import run_doubles
from .findings import SESSION_SECONDS, Findings
from .flips import run_flips
from .kills import run_kills
from .processes import run_processes
from .sessions import start_warm
from .tiny_run import make_rows


def run_part(name: str, folder: Path, count: int, seed: int, only: Sequence[str] | None) -> list[Findings]:
    """Runs a part; `count` and `only` are those of the command line."""
    data = folder / "data"
    if not (data / "rows").exists():
        session = start_warm(lambda: make_rows(data), folder / "data.log")
        if session.wait(SESSION_SECONDS) != 0:
            raise RuntimeError(f"no rows: {session.text()}")
    own = folder / name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    if name == "kills":
        return [run_kills(own, data / "rows", count, seed)]
    if name == "flips":
        return run_flips(own, data, count, seed, only)
    if name == "processes":
        return [run_processes(own, data / "rows", count, seed, only)]
    return [run_doubles(own, data, count, seed, only)]
