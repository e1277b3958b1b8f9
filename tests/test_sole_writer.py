"""Two commands on one output: one is refused, and what killed ones left is gone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, remove_left_behind
from tonsai_jax.sole_writer import sole_writer

HOLDS = """
from pathlib import Path
from tonsai_jax.sole_writer import sole_writer
with sole_writer(Path({!r})):
    print(flush=True)
    input()
"""


@contextmanager
def another_command(output: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes `output`."""
    command = [sys.executable, "-c", HOLDS.format(str(output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
            yield process
        finally:
            process.kill()


def test_a_second_command_on_an_output_is_refused(tmp_path: Path, rows: Path) -> None:
    output = tmp_path / "out"
    source = Source(name="a", language="en", license="CC0-1.0", documents=["A text of some words."])
    with another_command(output) as process:
        refused = rf"^{output}: another command is writing it \(process {process.pid} on .+\); wait until it has ended"
        with pytest.raises(UserError, match=refused):
            prepare([source], output, progress=False)
        with pytest.raises(UserError, match=refused):
            tokenize_dataset(rows.parent / "documents", rows.parent / "tokenizer", output, val_ratio=0, seed=0)
        with pytest.raises(UserError, match=refused), atomic_folder(output, manifest="m.json", format="f"):
            pass
    prepare([source], output, progress=False)  # the lock of a killed command holds nobody up
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_lock_is_gone_after_the_block_and_may_be_taken_again_inside(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with sole_writer(output), sole_writer(output):
        assert [path.name for path in output.parent.iterdir()] == [".out.lock"]
    assert list(output.parent.iterdir()) == []


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, living = dead_process(), os.getpid()
    for pid in (dead, living):
        (tmp_path / f".a.json.partial-{pid}").write_text("{")
        (tmp_path / f".out.partial-{pid}").mkdir()
    (tmp_path / ".mine.partial-x").write_text("")
    remove_left_behind(tmp_path, "out")
    assert not (tmp_path / f".out.partial-{dead}").exists()
    assert (tmp_path / f".a.json.partial-{dead}").exists()
    remove_left_behind(tmp_path)
    kept = {f".a.json.partial-{living}", f".out.partial-{living}", ".mine.partial-x"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_number_that_a_younger_process_has_now_is_that_of_a_dead_one(tmp_path: Path) -> None:
    partial = tmp_path / f".a.json.partial-{os.getpid()}"
    partial.write_text("{")
    os.utime(partial, (1, 1))
    remove_left_behind(tmp_path)
    assert not partial.exists()


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path: Path) -> None:
    dead = dead_process()
    for name in ("lost", "replaced"):
        (tmp_path / f".{name}.earlier-{dead}").mkdir()
        (tmp_path / f".{name}.earlier-{dead}" / "old").write_text("")
    (tmp_path / "replaced").mkdir()
    remove_left_behind(tmp_path)
    assert (tmp_path / "lost" / "old").exists()
    assert not (tmp_path / "replaced" / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"lost", "replaced"}
