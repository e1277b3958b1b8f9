"""Exports that a run pushes to the Hub while it trains: which steps, what a failure says, and that nothing stays behind."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ml_collections import ConfigDict

from tests.support.made_once import MadeOnce
from tests.support.small_hub import Hub, running_hub, sent, uploaded
from tests.support.tiny_run import TinyRun
from tonsai_jax.checkpoints import hub_push
from tonsai_jax.checkpoints.hub_push import HubPushes
from tonsai_jax.config import default_config
from tonsai_jax.config_checks import validate
from tonsai_jax.errors import UserError

# Stands in for the export, which takes seconds: writes its arguments down, and ends as the file `ends` says.
CHILD = """
import json, os, pathlib, sys
words = sys.argv[2:]
workdir = pathlib.Path(words[words.index("--workdir") + 1])
with (workdir / "calls").open("a") as file:
    file.write(json.dumps({"words": words, "nice": os.nice(0), "platforms": os.environ["JAX_PLATFORMS"]}) + "\\n")
ends = workdir / "ends"
if ends.exists():
    sys.exit(ends.read_text())
print("uploaded to https://hub/sokha/tiny")
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_push, "LOOK_SECONDS", 0.02)


@pytest.fixture
def config() -> ConfigDict:
    config = default_config()
    config.checkpoint.hub_repo, config.checkpoint.every, config.checkpoint.hub_every = "sokha/tiny", 4, 2
    return config


def save(workdir: Path, step: int) -> None:
    (workdir / f"checkpoints/{step}/params").mkdir(parents=True)


def calls(workdir: Path) -> list[dict]:
    file = workdir / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def pushed_steps(workdir: Path) -> list[int]:
    return [int(call["words"][call["words"].index("--step") + 1]) for call in calls(workdir)]


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_export_of_every_second_save_is_pushed(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "_CHILD", CHILD)
    said: list[str] = []
    with HubPushes(config, tmp_path, said.append):
        for step in (4, 8, 12, 16, 20):
            save(tmp_path, step)
            time.sleep(0.2)  # several looks
            wait_until(lambda step=step: len(said) == step // 8)  # type: ignore[misc]
    assert pushed_steps(tmp_path) == [8, 16]
    assert said[0] == "checkpoint.hub_repo: step 8 uploaded to https://hub/sokha/tiny"
    words = calls(tmp_path)[0]["words"]
    assert words[0] == "export"
    assert "--private" in words
    assert calls(tmp_path)[0]["nice"] == 19
    assert calls(tmp_path)[0]["platforms"] == "cpu"
    with HubPushes(config, tmp_path, said.append):  # the run goes on later
        save(tmp_path, 24)
        wait_until(lambda: len(said) == 3)
    assert pushed_steps(tmp_path) == [8, 16, 24]


def test_a_complete_run_is_pushed_at_its_end(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "_CHILD", CHILD)
    config.checkpoint.hub_private = False
    save(tmp_path, 5)
    with HubPushes(config, tmp_path, print):
        pass  # stopped: not complete
    assert pushed_steps(tmp_path) == []
    for _ in range(2):  # a second command finds it pushed
        with HubPushes(config, tmp_path, print):
            (tmp_path / "complete.json").write_text('{"step": 5}')
    assert pushed_steps(tmp_path) == [5]
    assert "--private" not in calls(tmp_path)[0]["words"]


def test_a_run_that_went_back_pushes_the_same_steps_again(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "_CHILD", CHILD)
    said: list[str] = []
    save(tmp_path, 4)
    save(tmp_path, 8)
    with HubPushes(config, tmp_path, said.append) as pushes:
        wait_until(lambda: len(said) == 1)
        shutil.rmtree(tmp_path / "checkpoints/8")
        wait_until(lambda: pushes._tried < 8)
    save(tmp_path, 8)  # killed before it could be pushed
    with HubPushes(config, tmp_path, said.append):
        wait_until(lambda: len(said) == 2)
        shutil.rmtree(tmp_path / "checkpoints/8")
        (tmp_path / "complete.json").write_text('{"step": 4}')  # with fewer steps
    assert pushed_steps(tmp_path) == [8, 8, 4]


def test_the_last_checkpoint_is_tried_again_when_the_run_is_complete(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "_CHILD", CHILD)
    (tmp_path / "ends").write_text("error: no network")
    said: list[str] = []
    save(tmp_path, 8)
    with HubPushes(config, tmp_path, said.append):
        wait_until(lambda: len(said) == 1)
        (tmp_path / "ends").unlink()
        (tmp_path / "complete.json").write_text('{"step": 8}')
    assert pushed_steps(tmp_path) == [8, 8]
    assert said[-1] == "checkpoint.hub_repo: step 8 uploaded to https://hub/sokha/tiny"


def test_a_failed_push_is_one_line_and_the_next_is_tried(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "_CHILD", CHILD)
    (tmp_path / "ends").write_text(
        "a trace\nerror: sokha/tiny: cannot be uploaded (no network); the export in x is complete."
    )
    said: list[str] = []
    with HubPushes(config, tmp_path, said.append):
        save(tmp_path, 8)
        wait_until(lambda: bool(said))
        time.sleep(0.2)
        assert said == [
            "checkpoint.hub_repo=sokha/tiny: step 8 was not pushed (sokha/tiny: cannot be uploaded (no network)); training goes "
            "on, and the next one is due in 8 steps"
        ]
        (tmp_path / "ends").unlink()
        save(tmp_path, 16)
        wait_until(lambda: len(said) == 2)
    assert pushed_steps(tmp_path) == [8, 16]


def test_without_memory_for_an_export_there_is_none(
    tmp_path: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 8)
    with (tmp_path / "checkpoints/8/params/huge").open("wb") as file:
        file.truncate(psutil.virtual_memory().total)  # takes no disk
    said: list[str] = []
    with HubPushes(config, tmp_path, said.append):
        wait_until(lambda: bool(said))
    assert "step 8 was not pushed (the export needs" in said[0]


def test_an_export_ends_when_its_trainer_is_gone(tmp_path: Path) -> None:
    """The child's parent is given as a process that is not its parent: it ends at once, before it reads its command."""
    trainer = "1" if psutil.Process().pid != 1 else "2"
    child = psutil.Popen([sys.executable, "-c", hub_push._CHILD, trainer, "export", "--help"], cwd=tmp_path)
    assert child.wait(20) == 1


def test_a_name_that_is_none_on_the_hub_is_refused(config: ConfigDict) -> None:
    config.checkpoint.hub_repo = "tiny"
    with pytest.raises(UserError, match=r"checkpoint.hub_repo='tiny' must be USER/NAME"):
        validate(config)


@pytest.mark.full
def test_a_run_is_pushed_to_the_hub(
    rows: Path, made_once: MadeOnce, tmp_path: Path, config: ConfigDict, hub: Hub
) -> None:
    folder = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train())
    workdir = shutil.copytree(folder / "run", tmp_path / "run")
    said: list[str] = []
    with HubPushes(config, workdir, said.append):
        wait_until(lambda: bool(said), 120)
    assert said == [f"checkpoint.hub_repo: step 24 uploaded to {hub.url}/sokha/tiny"]
    header, files = uploaded(hub)
    assert header["summary"] == "Step 24"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert b"private" in sent(hub, "/repos/create")[0][1]
    assert not list(workdir.glob("*hub_export*"))
