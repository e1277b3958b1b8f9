"""Checkpoints to damage, list and delete."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoints.test_store import save
from tests.support.made_once import MadeOnce
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints


@pytest.fixture
def three(tmp_path: Path, made_once: MadeOnce) -> Path:
    """A folder of its own with checkpoints at steps 1, 2 and 3."""

    def make(workdir: Path) -> None:
        checkpoints = Checkpoints(workdir, KeepPolicy(last=9))
        save(checkpoints, 1, 2, 3)
        checkpoints.close()

    return Path(shutil.copytree(made_once("three checkpoints", make), tmp_path / "run"))
