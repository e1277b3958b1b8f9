"""Every fault of the disk is one line, and exit code 75 where it may be gone at the next try, else 1."""

import errno
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from tonsai_jax.errors import DISK_FAULTS, TEMPORARY_FAULTS, TemporaryError, UserError, exit_code, run_command
from tonsai_jax.files import disk_errors


@pytest.mark.parametrize("number", DISK_FAULTS)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_fault_that_nothing_else_explains(number: int, is_named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, "what the system says", *["/data/rows"] * is_named)

    with pytest.raises(SystemExit) as ended:
        run_command(fail)
    assert ended.value.code == (75 if number in TEMPORARY_FAULTS else 1)
    name = "/data/rows" if is_named else "the output"
    assert capsys.readouterr().err == f"error: {name}: {DISK_FAULTS[number]}\n"


def test_another_error_of_the_system_is_a_bug_and_keeps_its_trace() -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        run_command(fail)


def test_a_disk_that_fails_is_named_with_the_path(tmp_path: Path) -> None:
    with (
        pytest.raises(TemporaryError, match=rf"^{tmp_path}: the disk failed \(Input/output error\)"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET])
def test_a_disk_whose_network_fails_may_be_back_at_the_next_try(number: int, tmp_path: Path) -> None:
    message = f"{tmp_path}: the disk or its network failed ({os.strerror(number)}); run the same command again"
    with pytest.raises(TemporaryError) as raised, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(raised.value) == message
    assert exit_code(OSError(number, "in another process")) == 75


def test_a_disk_that_is_full_while_a_folder_is_copied(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(2000))
    copy = tmp_path / "copy"
    with pytest.raises(UserError, match=rf"^{copy}: the disk is full"), no_file_larger_than(1000), disk_errors(copy):
        shutil.copytree(tmp_path / "folder", copy)


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


COMMANDS = {
    "prepare": ["--english", "{made}/text.txt"],
    "data": ["--english", "{made}/text.txt", "--vocab-size", "400"],
    "train-tokenizer": ["--input", "{made}/text.txt", "--vocab-size", "400"],
    "tokenize": ["--dataset-dir", "{data}/documents", "--tokenizer-dir", "{data}/tokenizer"],
    "prepare-sft": ["--input", "{made}/chat.jsonl", "--tokenizer-dir", "{data}/tokenizer", "--row-tokens", "256"],
    "tokenizer-report": ["--dataset-dir", "{data}/documents", "--tokenizer-dir", "{data}/tokenizer"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("num_bytes", [0, 3000])
def test_a_disk_that_is_full_for_a_command_that_prepares_data(
    command: str,
    num_bytes: int,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.txt").write_text("A line about birds and 12 other animals.\n" * 500)
    questions = [{"question": f"How many are {number}?", "answer": str(number)} for number in range(500)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    words = [word.format(made=tmp_path, data=rows.parent) for word in COMMANDS[command]]
    output = tmp_path / "disk" / "out"
    monkeypatch.setattr(sys, "argv", [f"tonsai {command}", *words, "--output-dir", str(output)])
    main = import_module(f"tonsai_jax.commands.{command.replace('-', '_')}").main
    with pytest.raises(SystemExit) as ended, no_file_larger_than(num_bytes):
        run_command(main)
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {output}")
    assert "the disk is full" in line or "could not write token rows" in line
    assert not [path for path in (tmp_path / "disk").rglob(".*")], "nothing half-written is left"
