"""The parts of the campaign by name, each in a folder of its own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from .findings import SESSION_SECONDS, Findings
from .flips import run_flips
from .kills import run_kills
from .sessions import start_warm
from .tiny_run import make_rows


def run_part(name: str, folder: Path, count: int, seed: int, only: Sequence[str] | None) -> list[Findings]:
    """Runs a part; `count` and `only` are those of the command line."""
    data = folder / "data"
    if not (data / "rows").exists():
        session = start_warm(lambda: None if make_rows(data) else None, folder / "data.log")
        if session.wait(SESSION_SECONDS) != 0:
            raise RuntimeError(f"no rows: {session.text()}")
    own = folder / name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    if name == "kills":
        return [run_kills(own, data / "rows", count, seed)]
    if name == "flips":
        return run_flips(own, data, count, seed, only)
    raise ValueError(name)
