"""What a run ran on, kept in its workdir."""

import json
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest

from tonsai_jax.runtime import environment
from tonsai_jax.runtime.environment import record_start


def entries(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_start_of_the_trainer_adds_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-mine")
    path = tmp_path / "environment.json"
    with mock.patch.object(sys, "argv", ["train.py", "--workdir=my runs/km"]):
        record_start(path, 0)
        record_start(path, 500)
    first, second = entries(path)
    assert (first["start_step"], second["start_step"]) == (0, 500)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first["started"])
    assert first["command"] == "train.py '--workdir=my runs/km'"
    assert first["versions"]["jax"] == jax.__version__
    assert (first["devices"], first["device_kind"], first["processes"]) == (jax.device_count(), "cpu", 1)
    assert first["host_memory_gib"] > 0
    assert "a-secret-of-mine" not in path.read_text()


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_file_begins_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "environment.json"
    path.write_text(content)
    record_start(path, 3)
    assert [entry["start_step"] for entry in entries(path)] == [3]


def test_the_commit_is_that_of_the_code_and_not_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code = tmp_path / "environment.py"
    code.write_text("")
    assert environment._git(tmp_path) is None
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's")
    assert environment._git(tmp_path) is None
    git("add", "environment.py")
    git("commit", "-m", "ours")
    assert environment._git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    code.write_text("changed")
    assert environment._git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._git(tmp_path) is None
