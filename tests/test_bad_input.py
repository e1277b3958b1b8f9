"""Bad input to the train command: one line that names the thing and the way out, an exit code, nothing half-written."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_run import TinyRun, environment, make_rows, train_in_this_process
from tonsai_jax.errors import run_command
from tonsai_jax.runtime.lock import LOCK_FILE, workdir_lock

Spoil = Callable[[Path], object]


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs the command in this process, much sooner than in its own; gives the one line it ends with."""

    def error_of(command: list[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: train_in_this_process(command))
        assert ended.value.code == 1
        return the_error(capsys.readouterr().err)

    return error_of


def the_error(stderr: str) -> str:
    assert "Traceback" not in stderr
    [line] = stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# Keys and values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "no such key; did you mean learning_rate?"),
        ("steps=many", "--config.steps=many"),
        ("model.num_layers=1.5", "--config.model.num_layers=1.5"),
        ("data.dir=", "data.dir is not set; add --config.data.dir=FOLDER"),
        ("data.dir=/nowhere/rows", "/nowhere/rows: no token rows here (no manifest.json); `tonsai data --khmer FILE"),
        ("data.dir=data/nothing", "; step by step: `tonsai prepare`, `tonsai train-tokenizer`, `tonsai tokenize`"),
        ("seq_len=48", "seq_len 48 does not divide row_tokens 1024 of the token rows; "),
        ("seq_len=128", "model.context_length=64 is shorter than seq_len=128"),
        ("global_batch_size=0", "global_batch_size=0 must be a whole number of at least 1"),
        ("mesh.fsdp=3", "mesh.fsdp=3 does not divide the number of devices, 1; choose a divisor of 1"),
        ("mesh.data=2", "mesh.data=2 x mesh.fsdp=1 is 2, but the number of devices is 1; set mesh.data=-1"),
        ("micro_batch_size=12", "micro_batch_size=12 does not divide a device's share of the batch, 16 (global"),
        ("data.weights=5", "weights=5 must be a dict such as"),
        ("data.weights={'km': -1, 'en': 1}", "weight of source 'km' is -1; weights are numbers of at least 0"),
        ("data.weights={'km': 0, 'en': 0.0}", "are all zero; give at least one source a positive weight"),
        ("data.weights={'kn': 1}", "weights name source 'kn', which the token rows do not have; did you mean 'km'?"),
        ("data.max_epochs=0.01", "would be read 0.168"),
        ("stages=({'step': 3},)", "stages[0].step: no such key; did you mean 'steps'?"),
        ("optimizer.schedule=cosin", "optimizer.schedule='cosin' is not known; did you mean 'cosine'?"),
        (
            "optimizer.rate_of={'embedding': 0.5}",
            "optimizer.rate_of='embedding': no parameter has this name; there are blocks/attention_norm/bias, blocks/",
        ),
        (
            "optimizer.warmup_steps=25",
            "optimizer.warmup_steps=25 is more than the steps of the run, 24; add for instance "
            "--config.optimizer.warmup_steps=2, or train at least 25 steps",
        ),
        ("steps=3", "optimizer.warmup_steps=4 is more than the steps of the run, 3; add for instance"),
        ("model.num_heads=5", "model.d_model=64 is not divisible by model.num_heads=5"),
        ("model.dtype=float31", "model.dtype='float31'"),
        ("model.attention=cudnn", "model.attention=cudnn"),
        ("mesh.expert=2", "mesh.expert=2 does not divide the model's experts (model.num_experts=0)"),
        (
            "model.vocab_size=100",
            "model.vocab_size=100 is smaller than the tokenizer's 400 ids; set model.vocab_size=0",
        ),
    ],
)
def test_a_key_or_value_that_cannot_work(
    run: TinyRun, error_of: Callable[..., str], override: str, message: str
) -> None:
    assert message in error_of(run.command(override))
    assert contents(run.workdir) == {}


def test_an_export_that_no_family_can_take_is_refused_before_the_run(
    run: TinyRun, error_of: Callable[..., str]
) -> None:
    error = error_of(run.command("export=True", "model.tie_embeddings=False"))
    assert "Hugging Face's gpt2 has no model.tie_embeddings=False" in error
    assert contents(run.workdir) == {}


# Config files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; there are some in configs/"),
        ("def get_config(:\n", "bad.py, line 1: invalid syntax"),
        ("def get_config():\n    return 1 / 0\n", "bad.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n", "get_config"),
        (
            "from tonsai_jax.config import default_config\n"
            "def get_config():\n    config = default_config()\n    config.model.layers = 2\n    return config\n",
            "bad.py, line 4: no such key 'layers'; did you mean num_layers?",
        ),
    ],
)
def test_a_config_file_that_does_not_load(
    run: TinyRun, error_of: Callable[..., str], text: str | None, message: str
) -> None:
    config = run.workdir.with_name("bad.py")
    if text is not None:
        config.write_text(text)
    assert message in error_of(["tonsai_jax.train", f"--config={config}", f"--workdir={run.workdir}"])
    assert not run.workdir.exists()


# Token rows


def replace_tokenizer(rows: Path) -> None:
    file = rows / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + " ")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (replace_tokenizer, "tokenizer.json: not the tokenizer that made the rows"),
        (lambda rows: shutil.rmtree(rows / "tokenizer"), "tokenizer.json: no such file; copy the tokenizer"),
        (lambda rows: (rows / "manifest.json").unlink(), "no token rows here (no manifest.json)"),
        (lambda rows: truncate(rows / "manifest.json"), "manifest.json: not valid JSON"),
        (lambda rows: (rows / "manifest.json").write_text("{}"), "manifest.json: this is not a folder of token rows"),
        (lambda rows: next((rows / "km").glob("train-*")).unlink(), "this file of token rows is missing; tokenize"),
        (lambda rows: truncate(next((rows / "km").glob("train-*"))), "damaged token rows"),
    ],
)
def test_token_rows_that_were_spoiled(
    rows: Path, tmp_path: Path, error_of: Callable[..., str], spoil: Spoil, message: str
) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(rows, spoiled)
    spoil(spoiled)
    run = TinyRun(spoiled, tmp_path / "run")
    error = error_of(run.command())
    assert message in error
    assert str(spoiled) in error


def test_sample_rows_where_nothing_can_be_written(run: TinyRun, tmp_path: Path, error_of: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("mine")
    error = error_of(run.command(f"data.dir={tmp_path / 'file' / 'rows'}", "data.sample_corpus=True"))
    assert (
        error
        == f"{tmp_path / 'file' / 'rows'}: no folder can be made here, a file is in the way; choose another folder"
    )


# Work directories


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_where_the_workdir_should_be(
    rows: Path, tmp_path: Path, error_of: Callable[..., str], below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    error = error_of([*TinyRun(rows, tmp_path / "run").command()[:-1], f"--workdir={tmp_path / 'file' / below}"])
    assert str(tmp_path / "file") in error
    assert "a file is in the way; choose another" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_in_which_another_trainer_works(run: TinyRun, error_of: Callable[..., str]) -> None:
    with workdir_lock(run.workdir, print):
        assert f"{run.workdir}: another trainer works here (process {os.getpid()} on " in error_of(run.command())
        assert list(contents(run.workdir)) == [run.workdir / LOCK_FILE]
    run.train(steps_today=1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.d_model=48",
            "its checkpoint has another model (model.d_model is 64 in the checkpoint, 48 in the config); use another",
        ),
        ("model.num_layers=1", "(model.num_layers is 2 in the checkpoint, 1 in the config)"),
        ("model.context_length=32", "(model.context_length is 64 in the checkpoint, 32 in the config)"),
        (
            "optimizer.name=muon",
            "(optimizer.name is adamw in the checkpoint, muon in the config); add --config.optimizer.name=adamw, or give another",
        ),
        ("seed=1", "seed was 0 when the checkpoint was written and is 1 now"),
    ],
)
def test_a_workdir_of_another_model(
    trained: Path, run: TinyRun, error_of: Callable[..., str], override: str, message: str
) -> None:
    shutil.copytree(trained, run.workdir)
    before = contents(run.workdir)
    assert message in error_of(run.command(override))
    assert contents(run.workdir) == before


def test_a_workdir_of_another_tokenizer(trained: Path, tmp_path: Path, error_of: Callable[..., str]) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = contents(tmp_path / "run")
    other = make_rows(tmp_path / "data", vocab_size=390)
    error = error_of(TinyRun(other, tmp_path / "run").command())
    assert f"{tmp_path / 'run'}: was trained with another tokenizer than that of {other}; give another" in error
    assert contents(tmp_path / "run") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Damaged checkpoints


def empty_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda checkpoint: shutil.rmtree(checkpoint / "params"),
        lambda checkpoint: shutil.rmtree(checkpoint / "optimizer" / "d"),
        lambda checkpoint: shutil.rmtree(checkpoint / "progress"),
        lambda checkpoint: empty_files(checkpoint / "params"),
        lambda checkpoint: empty_files(checkpoint / "progress"),
        lambda checkpoint: empty_files(checkpoint),
    ],
    ids=["no params", "no arrays", "no progress", "empty params", "empty progress", "all empty"],
)
def test_a_damaged_checkpoint(trained: Path, run: TinyRun, error_of: Callable[..., str], spoil: Spoil) -> None:
    """The only one: the run ends and leaves it where it is."""
    shutil.copytree(trained, run.workdir)
    shutil.rmtree(run.workdir / "checkpoints" / "2")
    only = run.workdir / "checkpoints" / "4"
    spoil(only)
    before = contents(run.workdir)
    error = error_of(run.command())
    assert re.match(rf"{only}: this checkpoint is damaged \(.+\), and no whole one is left in", error), error
    assert contents(run.workdir) == before


def test_the_newest_checkpoint_is_damaged_and_the_run_goes_on_from_the_one_before(trained: Path, run: TinyRun) -> None:
    shutil.copytree(trained, run.workdir)
    empty_files(run.workdir / "checkpoints" / "4" / "optimizer")
    printed = run.train(steps_today=2)
    assert f"{run.workdir}/checkpoints/4: this checkpoint is damaged (optimizer/" in printed
    assert "steps: 2 of 24 done" in printed
    assert run.saved_steps() == {2, 4}
    assert list(run.losses()) == [1, 2, 3, 4]
    assert [folder.name[:2] for folder in (run.workdir / "damaged").iterdir()] == ["4-"]


# Through the command in a process of its own


def test_the_command_ends_with_one_line_and_an_exit_code(run: TinyRun) -> None:
    done = run.run("global_batch_size=6", devices=4)
    assert done.returncode == 1
    assert the_error(done.stderr) == ("global_batch_size=6 is not divisible by the 4 devices; choose a multiple of 4")
    assert not run.workdir.exists()


def train_with_file_limit(run: TinyRun, kilobytes: int) -> subprocess.CompletedProcess[str]:
    """Trains where no file may grow past so many KiB: only a checkpoint's arrays are larger than 128."""
    return subprocess.run(
        ["bash", "-c", f'ulimit -f {kilobytes} && exec "$@"', "bash", *run.command()],
        env=environment(devices=1),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.full
def test_a_disk_that_is_full_for_the_next_checkpoint_leaves_the_earlier_one_whole(run: TinyRun) -> None:
    run.train(steps_today=8)
    done = train_with_file_limit(run, 128)
    assert done.returncode == 1
    error = the_error(done.stderr)
    assert error.startswith(f"{run.workdir / 'checkpoints'}: the disk is full")
    assert "Free some space and run the same command again" in error
    assert run.saved_steps() == {8}
    assert "steps: 8 of 24 done" in run.train()
    assert list(run.losses()) == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", range(1000, 9000, 1000))
def test_a_disk_that_is_full_at_any_byte(rows: Path, tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        run = TinyRun(rows, disk / "run", ("checkpoint.keep_last=9",))
        done = run.run()
        if done.returncode:
            assert "the disk is full" in the_error(done.stderr)
            subprocess.run(["mount", "-o", "remount,size=90m", str(disk)], check=True)
            run.train()
        assert list(run.losses()) == list(range(1, 25))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
