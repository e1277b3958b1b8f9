"""A run whose --workdir is a URL: where it works on this machine, and how other commands read it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun, train_in_this_process
from tonsai_jax.checkpoints import remote_workdir
from tonsai_jax.checkpoints.elsewhere import copies_elsewhere
from tonsai_jax.checkpoints.mirror import Mirror
from tonsai_jax.checkpoints.place import Place
from tonsai_jax.checkpoints.remote_workdir import working_folder
from tonsai_jax.checkpoints.restore_copy import local_steps
from tonsai_jax.cli import parse_flags
from tonsai_jax.commands.parser import CommandParser, open_model
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace, folder_to_write
from tonsai_jax.inference.load import load_run

URL = "memory://bucket/runs/tiny"


@pytest.fixture(autouse=True)
def runs_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(remote_workdir, "RUNS_FOLDER", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def never_stopped(rows: Path, made_once: MadeOnce) -> TinyRun:
    folder = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train())
    return TinyRun(rows, folder / "run")


def flags(run: TinyRun, url: str, *overrides: str) -> list[str]:
    """The command line of `run`, with the URL as its workdir."""
    return [f"--workdir={url}" if word.startswith("--workdir") else word for word in run.command(*overrides)]


def test_a_url_is_a_mirror_of_a_folder_of_this_machine(run: TinyRun, runs_folder: Path) -> None:
    config, workdir, *_ = parse_flags(flags(run, URL)[2:], "")
    assert config.checkpoint.mirror == URL
    assert workdir.parent == runs_folder
    assert workdir.name.startswith("tiny-")
    assert workdir == working_folder(URL + "/")
    assert workdir != working_folder("memory://bucket/others/tiny")


def test_a_url_and_another_mirror_are_refused(run: TinyRun) -> None:
    sys.modules.pop("config_config", None)
    with pytest.raises(UserError, match="a run has one such place: give one of the two"):
        parse_flags(flags(run, URL, "checkpoint.mirror=/drive")[2:], "")


@pytest.mark.parametrize("check", [folder_to_write, folder_to_replace])
def test_a_folder_that_is_written_here_cannot_be_a_url(check) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        UserError, match="gs://bucket/export: is a URL, and this command writes to folders of this machine"
    ):
        check("gs://bucket/export")


@pytest.mark.full
def test_other_commands_read_a_run_at_its_url(never_stopped: TinyRun, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    workdir = shutil.copytree(never_stopped.workdir, tmp_path / "run")
    (workdir / "scores.json").write_text('{"16": 1.5, "24": 2.5}')
    with Mirror(Place(URL, ""), workdir, print):
        pass
    parser = CommandParser(description="", epilog="")
    parser.add_model()
    newest = open_model(parser.parse_args(["--workdir", URL]))
    assert "brought checkpoint 24 of this run" in capsys.readouterr().out
    assert newest.params["token_embedding"].tolist() == load_run(workdir).params["token_embedding"].tolist()
    assert load_run(URL).step == 24
    assert capsys.readouterr().out == ""  # it is here now
    assert load_run(URL, "best").step == 16
    shutil.rmtree(working_folder(URL))
    assert load_run(URL, 16).step == 16
    with pytest.raises(UserError, match=f"{URL}: no checkpoint at step 8; there are: 16, 24"):
        load_run(URL, 8)


def test_a_url_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--workdir=memory://nothing/here: no run there; give the --workdir"):
        load_run("memory://nothing/here")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine that speaks S3."""
    reason = "needs a small S3 server and s3fs: uv pip install 'moto[server]' s3fs"
    pytest.importorskip("s3fs", reason=reason)
    server = pytest.importorskip("moto.server", reason=reason).ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/runs/tiny"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.full
def test_a_run_on_s3_goes_on_on_a_new_machine(run: TinyRun, never_stopped: TinyRun, runs_folder: Path, s3: str) -> None:
    train_in_this_process([*flags(run, s3), "--steps_today=10"])
    shutil.rmtree(runs_folder)
    train_in_this_process(flags(run, s3))
    here = TinyRun(run.rows, working_folder(s3))
    assert here.losses() == never_stopped.losses()
    assert Place(s3, "").whole_steps() == local_steps(here.workdir) == [16, 24]
    shutil.rmtree(runs_folder)
    assert load_run(s3).step == 24


def test_of_several_processes_each_with_a_folder_of_its_own_none_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jax.process_count", lambda: 2)
    config = default_config()
    config.checkpoint.mirror = URL
    with (
        pytest.raises(UserError, match="works for a run of one process; give a folder that all processes share"),
        copies_elsewhere(config, working_folder(URL), print),
    ):
        pass
