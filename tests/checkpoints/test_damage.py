"""Damage to a checkpoint: every flipped bit and lost file is noticed, and a run goes on from the checkpoint before it."""

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from tests.checkpoints.test_store import SMALL, abstract, kept, save
from tests.support.eight_devices import run_on_two_processes_of_four_devices
from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE, LATE_FILES
from tonsai_jax.checkpoints.folder import damaged_checkpoints, stored_checkpoint
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.files import read_json
from tonsai_jax.hosts.processes import gather_texts, on_every_process

KEEP = KeepPolicy(last=9)


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def forget_checksums(checkpoint: Path) -> None:
    """Makes it one that an earlier version saved."""
    (checkpoint / CHECKSUMS_FILE).unlink()
    metadata = checkpoint / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('"checksums": true', '"other": true'))


# Noticed


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fsync = tmp_path / "checkpoints" / "4", os.fsync
    before: set[int] = set()

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        if not folder.exists():
            before.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    save(Checkpoints(tmp_path, KEEP), 4)
    # Orbax's last two files come after it, and then the list of checksums is written again.
    early = [file for file in files_of(folder) if file.name not in (*LATE_FILES, CHECKSUMS_FILE)]
    assert len(early) > 5
    assert [file for file in early if file.stat().st_ino not in before] == []


def test_every_flipped_bit_is_noticed_in_every_file(three: Path) -> None:
    """Three bits of each file, among them those of the arrays, of the metadata, and of the checksums themselves."""
    checkpoint, draw = stored_checkpoint(three / "checkpoints" / "3"), random.Random(0)
    assert checkpoint.damage() is None
    flips = [(file, draw.randrange(8 * file.stat().st_size)) for file in files_of(checkpoint.folder) for _ in range(3)]
    flips += [(checkpoint.folder / CHECKSUMS_FILE, bit) for bit in range(8 * 20)]  # spaces among them
    assert len(flips) >= 60
    for file, bit in flips:
        flip(file, bit)
        damage = checkpoint.damage()
        assert damage is not None, (file, bit)
        assert file.name in damage or file.name == CHECKSUMS_FILE
        flip(file, bit)
    assert checkpoint.damage() is None


def test_every_lost_and_shortened_file_is_noticed(three: Path) -> None:
    checkpoint = stored_checkpoint(three / "checkpoints" / "3")
    for file in files_of(checkpoint.folder):
        content = file.read_bytes()
        for spoil in (file.unlink, lambda file=file, content=content: file.write_bytes(content[:-1])):
            spoil()
            assert stored_checkpoint(checkpoint.folder).damage() is not None, file
            file.write_bytes(content)
    assert checkpoint.damage() is None


def test_a_reader_is_told_of_damage_in_what_it_reads_and_of_the_one_before(three: Path) -> None:
    arrays = max(files_of(three / "checkpoints" / "3" / "params"), key=lambda file: file.stat().st_size)
    flip(arrays, 40)
    reader = Checkpoints(three, read_only=True)
    assert reader.resume_metadata(3)["step"] == 3  # it lies in another item
    with pytest.raises(
        UserError,
        match=r"3: this checkpoint is damaged \(params/.*\); the newest .* of step 2: move",
    ):
        reader.restore_params(3, abstract(SMALL).params)
    assert kept(three) == [1, 2, 3]


@pytest.mark.parametrize("error", ["Input/output error", "Stale file handle"])
def test_a_file_that_the_system_cannot_read(three: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    number = next(number for number in range(200) if os.strerror(number) == error)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, error)

    checkpoint = stored_checkpoint(three / "checkpoints" / "3")
    monkeypatch.setattr("zlib.crc32", fail)
    if error == "Input/output error":
        assert "the disk cannot read it (Input/output error)" in str(checkpoint.damage())
    else:
        with pytest.raises(
            TemporaryError, match=r"cannot be read now \(Stale file handle\); run the same command again"
        ):
            checkpoint.damage()


def test_what_orbax_cannot_read_is_one_line_without_checksums_too(three: Path) -> None:
    forget_checksums(three / "checkpoints" / "3")
    for file in files_of(three / "checkpoints" / "3" / "params"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(
        UserError,
        match=r"checkpoints/3: this checkpoint cannot be read \(.*\); .* give --step=2 to a command that has it$",
    ) as caught:
        Checkpoints(three, read_only=True).restore_params(3, abstract(SMALL).params)
    assert "\n" not in str(caught.value)


# Resumed


def resume(workdir: Path) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    return Checkpoints(workdir, KEEP).resume_step(lines.append), lines


def test_a_run_resumes_from_the_newest_whole_one_and_moves_the_damaged_ones_aside(three: Path) -> None:
    flip(three / "checkpoints" / "3" / "progress" / "metadata", 100)
    (three / "checkpoints" / "2" / CHECKSUMS_FILE).unlink()
    before = {file.name: file.read_bytes() for file in files_of(three / "checkpoints" / "3")}
    step, lines = resume(three)
    assert step == 1
    assert kept(three) == [1]
    assert [folder.name.partition("-")[0] for folder in damaged_checkpoints(three)] == ["2", "3"]
    assert {file.name: file.read_bytes() for file in files_of(damaged_checkpoints(three)[1])} == before
    assert [line.partition("; ")[0] for line in lines] == [
        f"{three}/checkpoints/3: this checkpoint is damaged (progress/metadata: its bytes are not those that were saved)",
        f"{three}/checkpoints/2: this checkpoint is damaged (checksums.json: is missing)",
    ]
    again, no_lines = resume(three)
    assert (again, no_lines) == (1, [])


def test_a_run_never_begins_again_because_all_checkpoints_are_damaged(three: Path) -> None:
    for step in ("1", "2", "3"):
        flip(three / "checkpoints" / step / "_CHECKPOINT_METADATA", 5)
    for _ in range(2):
        with pytest.raises(UserError, match=r"checkpoints/1: this checkpoint is damaged .* no whole one is left"):
            resume(three)
    assert kept(three) == [1]
    shutil.rmtree(three / "checkpoints" / "1")
    with pytest.raises(UserError, match="no checkpoint is left, only damaged ones in"):
        resume(three)


def test_a_new_run_has_no_checkpoint_to_resume_from(tmp_path: Path) -> None:
    assert resume(tmp_path) == (None, [])


def test_a_checkpoint_of_an_earlier_version_is_used_with_a_word_about_it(three: Path) -> None:
    forget_checksums(three / "checkpoints" / "3")
    assert resume(three) == (
        3,
        [f"{three}/checkpoints/3: saved by an earlier version without checksums, so it cannot be verified"],
    )


def check_two_processes_agree() -> None:
    from jax.experimental.multihost_utils import process_allgather

    workdir = Path(os.environ["TONSAI_TEST_WORKDIR"])
    lines: list[str] = []
    step = Checkpoints(workdir, KeepPolicy(last=9)).resume_step(lines.append)
    assert process_allgather(np.int32(step or 0)).tolist() == [2, 2]
    assert len(lines) == 1
    assert "checkpoints/3: this checkpoint is damaged" in lines[0]


@pytest.mark.full
def test_two_processes_take_the_same_checkpoint(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(files_of(three / "checkpoints" / "3")[-1], 3)
    monkeypatch.setenv("TONSAI_TEST_WORKDIR", str(three))
    run_on_two_processes_of_four_devices(check_two_processes_agree)
    assert kept(three) == [1, 2]


def check_a_temporary_fault_stays_one() -> None:
    def fail(error: Exception, other: Exception | None) -> None:
        if (mine := error if jax.process_index() == 0 else other) is not None:
            raise mine

    away = TemporaryError("the storage is away")
    for other, wanted in ((None, TemporaryError), (away, TemporaryError), (UserError("no permission"), UserError)):
        with pytest.raises(wanted, match=r"^process 0 \(.*\): the storage is away") as caught:
            on_every_process(lambda other=other: fail(away, other))  # type: ignore[misc]
        assert type(caught.value) is wanted
    assert gather_texts(f"text {jax.process_index()}") == ["text 0", "text 1"]


@pytest.mark.full
def test_two_processes_end_with_the_code_of_a_temporary_fault() -> None:
    run_on_two_processes_of_four_devices(check_a_temporary_fault_stays_one)


def test_a_device_without_memory_is_no_damage_and_a_storage_without_answer_is_temporary(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Checkpoints(three, read_only=True)
    for error, wanted, message in (
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), jax.errors.JaxRuntimeError, "^RESOURCE"),
        (OSError(errno.ESTALE, "Stale file handle"), TemporaryError, "3: cannot be read now .* run the same command"),
        (OSError(errno.EIO, "Input/output error"), UserError, "3: this checkpoint cannot be read"),
        (FileNotFoundError(errno.ENOENT, "No such file"), UserError, "3: this checkpoint cannot be read"),
    ):
        monkeypatch.setattr(reader._manager, "restore", mock.Mock(side_effect=error))
        with pytest.raises(wanted, match=message) as caught:
            reader.restore_params(3, abstract(SMALL).params)
        assert type(caught.value) is wanted


# Gone back to


def test_a_sane_checkpoint_that_is_damaged_is_moved_aside_and_the_one_before_it_is_taken(three: Path) -> None:
    lines: list[str] = []
    checkpoints = Checkpoints(three, KeepPolicy(last=9))
    for step in (1, 2):
        checkpoints.mark_sane(step)
    assert checkpoints.whole_sane_step(lines.append) == 2
    assert lines == []
    flip(files_of(three / "checkpoints" / "2" / "params")[-1], 3)
    assert checkpoints.whole_sane_step(lines.append) == 1
    assert "checkpoints/2: this checkpoint is damaged (params/" in lines[0]
    assert kept(three) == [1, 3]
    checkpoints.delete_after(1)
    assert kept(three) == [1]
    assert read_json(three / "sane_steps.json") == [1]
    flip(files_of(three / "checkpoints" / "1" / "params")[-1], 3)
    assert checkpoints.whole_sane_step(lines.append) is None
    assert kept(three) == [1], "the last one left is not moved"


def test_the_checkpoint_of_the_start_is_verified_again_when_it_is_read_later(three: Path) -> None:
    checkpoints = Checkpoints(three, KeepPolicy(last=9))
    assert checkpoints.resume_step(print) == 3
    checkpoints.restore_state(3, abstract(SMALL))
    flip(files_of(three / "checkpoints" / "3" / "params")[-1], 3)
    with pytest.raises(UserError, match="checkpoints/3: this checkpoint is damaged"):
        checkpoints.restore_state(3, abstract(SMALL))


# Killed while saving

KILLED_SAVE = """
import os, sys
from pathlib import Path
from tests.checkpoints.test_store import SMALL, save
from tonsai_jax.checkpoints import checksums, store

workdir, moment = Path(sys.argv[1]), sys.argv[2]
checkpoints = store.Checkpoints(workdir, store.KeepPolicy(last=9))

def die(*_, **__):
    os._exit(9)

def then_die(function):
    def call(*args, **kwargs):
        function(*args, **kwargs)
        die()
    return call

if moment == "before the checksums":
    store.write_checksums = die
elif moment == "in the checksums":
    checksums._write = die
elif moment == "after the checksums":
    store.write_checksums = then_die(store.write_checksums)
elif moment == "after the final name":
    store.add_late_files = die
elif moment == "in the late checksums":
    text = checksums._text
    checksums._text = lambda sums: die() if "_CHECKPOINT_METADATA" in sums else text(sums)
elif moment == "at once":
    checkpoints.save(SMALL, {"step": 4, "data": {}})
    die()
save(checkpoints, 4)
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("moment", "newest"),
    [
        ("at once", 3),
        ("before the checksums", 3),
        ("in the checksums", 3),
        ("after the checksums", 3),
        ("after the final name", 4),
        ("in the late checksums", 4),
    ],
)
def test_a_save_that_is_killed_leaves_whole_checkpoints_only(three: Path, moment: str, newest: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_SAVE, three, moment], timeout=120, check=False)
    assert done.returncode == 9
    assert resume(three) == (newest, [])
    reader = Checkpoints(three, read_only=True)
    jax.tree.map(np.testing.assert_array_equal, reader.restore_params(newest, abstract(SMALL).params), SMALL.params)
