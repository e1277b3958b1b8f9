"""Fixtures that several rooms use."""

from pathlib import Path

import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun, make_rows


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    base = tmp_path_factory.getbasetemp()
    return MadeOnce(
        (base if worker_id == "master" else base.parent) / "made-once"
    )  # xdist's processes share the parent


@pytest.fixture(scope="session")
def rows(made_once: MadeOnce) -> Path:
    """Token rows of 100 stories in Khmer and in English."""
    return made_once("stories", make_rows) / "rows"


@pytest.fixture
def run(rows: Path, tmp_path: Path) -> TinyRun:
    return TinyRun(rows, tmp_path / "run")
