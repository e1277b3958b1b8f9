"""The copy of a run in another place: what is there, what comes back, and that a place that fails stops nothing."""

import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.eight_devices import run_on_two_processes_of_four_devices
from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun
from tonsai_jax.checkpoints import mirror as mirror_module
from tonsai_jax.checkpoints import restore_copy
from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE, METADATA_FILE, add_late_files, write_checksums
from tonsai_jax.checkpoints.elsewhere import copies_elsewhere
from tonsai_jax.checkpoints.folder import IS_TEMPORARY, set_aside, stored_checkpoints
from tonsai_jax.checkpoints.mirror import Mirror
from tonsai_jax.checkpoints.place import Place, unreachable
from tonsai_jax.checkpoints.restore_copy import bring_down, local_steps
from tonsai_jax.config import default_config
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.hosts import processes

NUMBERS = itertools.count()
CONFIG = '{"checkpoint": {"keep_last": 2, "keep_every": 100, "keep_best": 1}}'


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(mirror_module, "LAST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(restore_copy, "_FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture(params=["folder", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "mirror") if request.param == "folder" else f"memory://bucket-{next(NUMBERS)}/run"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text(CONFIG)
    (tmp_path / "run/tokenizer/vocab.json").write_text('{"ក": 0}')
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 8}\n{"st')
    return tmp_path / "run"


def save(workdir: Path, *steps: int, text: str = "weights", is_temporary: bool = False) -> None:
    """A checkpoint as the mirror sees it: files in a folder that gets its final name when it is whole."""
    for step in steps:
        partial = workdir / f"checkpoints/{step}.orbax-checkpoint-tmp"
        (partial / "params/d").mkdir(parents=True)
        (partial / "params/d/array").write_text(f"{text} of {step}")
        (partial / "progress").write_text(str(step))
        write_checksums(partial)
        if is_temporary:
            (partial / METADATA_FILE).write_text(json.dumps({"custom_metadata": {IS_TEMPORARY: True}}))
        shutil.rmtree(workdir / f"checkpoints/{step}", ignore_errors=True)
        partial.rename(workdir / f"checkpoints/{step}")


def mirror_all(workdir: Path, where: str) -> list[str]:
    said: list[str] = []
    with Mirror(Place(where, "checkpoint.mirror"), workdir, said.append):
        pass
    return said


def bring(where: str, workdir: Path, **settings: Any) -> list[str]:
    said: list[str] = []
    bring_down(Place(where, "checkpoint.mirror"), workdir, said.append, **settings)
    return said


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


# What is copied


def test_a_run_comes_back_as_it_was(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8, 16)
    (workdir / "trainer.lock").write_text("of this machine")
    assert mirror_all(workdir, where) == []
    (line,) = bring(where, tmp_path / "new", training=True)
    assert line.startswith(f"checkpoint.mirror={where}: brought checkpoint 16 of this run to {tmp_path / 'new'}")
    back = files_below(tmp_path / "new")
    assert back.pop("mirror.json")
    assert back == {
        "config.json": CONFIG,
        "metrics.jsonl": '{"step": 8}\n',  # the line that was being written is not in the copy
        "tokenizer/vocab.json": '{"ក": 0}',
        "checkpoints/16/params/d/array": "weights of 16",
        "checkpoints/16/progress": "16",
        "checkpoints/16/checksums.json": (workdir / "checkpoints/16/checksums.json").read_text(),
    }


def test_a_checkpoint_is_copied_while_the_run_goes_on(workdir: Path, where: str) -> None:
    place = Place(where, "checkpoint.mirror")
    with Mirror(place, workdir, print):
        for step in (8, 16):
            save(workdir, step)
            wait_until(lambda step=step: step in place.whole_steps())  # type: ignore[misc]


def test_what_retention_removes_is_removed_there_also_after_a_kill(workdir: Path, where: str) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints/8")
    save(workdir, 24)
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [16, 24]


def test_the_copy_outlives_the_loss_of_all_checkpoints_here(workdir: Path, where: str) -> None:
    save(workdir, 8)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints")
    mirror_all(workdir, where)
    bring(where, workdir, training=True)
    assert local_steps(workdir) == [8]


def test_a_checkpoint_saved_again_at_the_same_step_is_copied_again(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8)
    mirror_all(workdir, where)
    save(workdir, 8, text="others!")
    mirror_all(workdir, where)
    bring(where, tmp_path / "new")
    assert (tmp_path / "new/checkpoints/8/params/d/array").read_text() == "others! of 8"


def test_machines_that_take_turns_leave_there_what_one_machine_would(workdir: Path, where: str, tmp_path: Path) -> None:
    """Each of them has only the newest checkpoint of the one before."""
    save(workdir, 8, 16, 32, 100, 108, 116)
    (workdir / "scores.json").write_text('{"8": 2.0, "16": 1.0, "32": 3.0}')
    mirror_all(workdir, where)
    bring(where, tmp_path / "new", training=True)
    mirror_all(tmp_path / "new", where)
    save(tmp_path / "new", 124)
    mirror_all(tmp_path / "new", where)
    assert Place(where, "").whole_steps() == [16, 100, 116, 124]  # the best one, each hundredth, the last two
    bring(where, workdir, training=True)
    assert local_steps(workdir)[-1] == 124


def test_a_checkpoint_that_was_rolled_back_does_not_return(workdir: Path, where: str) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints/16")
    assert bring(where, workdir, training=True) == []  # killed before the copy was removed
    assert local_steps(workdir) == [8]


def go_back(workdir: Path, to_step: int) -> None:
    """As a run does at a spike; `to_step` may be below the newest checkpoint that is left."""
    record = {"number": 1, "to_step": to_step, "time": time.time(), "data": {"next": 1}}
    (workdir / "roll_backs.jsonl").write_text(json.dumps(record) + "\n")


@pytest.mark.parametrize(
    ("saved_again", "goes_back", "left"),
    [
        pytest.param((12,), False, [8], id="a person set it back"),
        pytest.param((12, 20), True, [8], id="it went back and is past the given up step"),
        pytest.param((20, 24), False, [8, 16], id="retention"),
    ],
)
def test_a_checkpoint_that_was_given_up_is_removed_before_anything_is_copied(
    workdir: Path, failing: dict[str, int], saved_again: tuple[int, ...], goes_back: bool, left: list[int]
) -> None:
    """The machine is lost at the first file: a new one must not take the given up one with the metrics of today."""
    where = f"memory://bucket-{next(NUMBERS)}/run"
    failing["puts"] = 1000
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints/16")
    if goes_back:
        go_back(workdir, 8)
    save(workdir, *saved_again)
    (workdir / "metrics.jsonl").write_text("of today\n")
    failing["puts"] = 1  # mirrored/run.json
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == left
    failing["puts"] = 1000
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [8, *saved_again]


def test_what_was_given_up_stays_until_another_checkpoint_is_there(workdir: Path, failing: dict[str, int]) -> None:
    where = f"memory://bucket-{next(NUMBERS)}/run"
    failing["puts"] = 1000
    save(workdir, 16)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints/16")
    save(workdir, 8)
    failing["puts"] = 1
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [16]
    failing["puts"] = 1000
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [8]


def test_an_older_checkpoint_comes_without_the_small_files_of_its_time(
    workdir: Path, where: str, tmp_path: Path
) -> None:
    """`tonsai evaluate --step 8` on the machine that trains the run."""
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    bring(where, tmp_path / "new")
    (tmp_path / "new/metrics.jsonl").write_text("what was written since")
    bring(where, tmp_path / "new", step=8)
    assert local_steps(tmp_path / "new") == [8, 16]
    assert (tmp_path / "new/metrics.jsonl").read_text() == "what was written since"


def test_a_slow_copy_is_not_cut_off_by_retention(
    workdir: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a place that takes longer than two saves would never get a whole checkpoint."""
    put, seal, sealed = Place.put, Place.seal_checkpoint, []

    def slow(place: Place, source: Path, name: str) -> None:
        put(place, source, name)
        if "/8/" in name:
            shutil.rmtree(workdir / "checkpoints/8", ignore_errors=True)

    def watched(place: Place, step: int, sizes: dict[str, int]) -> None:
        seal(place, step, sizes)
        sealed.append(step)
        bring(where, tmp_path / "new", step=step)

    save(workdir, 8)
    monkeypatch.setattr(Place, "put", slow)
    monkeypatch.setattr(Place, "seal_checkpoint", watched)
    assert mirror_all(workdir, where) == []
    assert sealed == [8]
    assert (tmp_path / "new/checkpoints/8/progress").read_text() == "8"
    assert not (workdir / ".mirror").exists()


def put_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are copied from now on."""
    put, names = Place.put, []

    def watched(place: Place, source: Path, name: str) -> None:
        names.append(name)
        put(place, source, name)

    monkeypatch.setattr(Place, "put", watched)
    return names


def test_checksums_that_come_late_are_copied_alone(
    workdir: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer adds those of the files that Orbax writes last when it looks at the save again, minutes later."""
    save(workdir, 8)
    checkpoint = workdir / "checkpoints/8"
    (checkpoint / METADATA_FILE).write_text("{}")
    mirror_all(workdir, where)
    names = put_names(monkeypatch)
    add_late_files(checkpoint)
    mirror_all(workdir, where)
    assert [name for name in names if name.startswith(("checkpoints", "mirrored"))] == ["checkpoints/8/checksums.json"]
    bring(where, tmp_path / "new")
    assert files_below(tmp_path / "new/checkpoints/8") == files_below(checkpoint)
    assert Place(where, "").read_json("mirrored/8.json")[CHECKSUMS_FILE] == (checkpoint / CHECKSUMS_FILE).stat().st_size


def test_a_copy_whose_list_was_not_written_again_is_whole(
    workdir: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off between the late checksums and the list."""
    save(workdir, 8)
    (workdir / "checkpoints/8" / METADATA_FILE).write_text("{}")
    mirror_all(workdir, where)
    add_late_files(workdir / "checkpoints/8")
    Place(where, "").put(workdir / "checkpoints/8" / CHECKSUMS_FILE, f"checkpoints/8/{CHECKSUMS_FILE}")
    bring(where, tmp_path / "new")
    assert local_steps(tmp_path / "new") == [8]


def test_late_checksums_of_a_copy_that_is_gone_bring_all_of_it_back(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8)
    mirror_all(workdir, where)
    Place(where, "").remove_checkpoint(8)
    add_late_files(workdir / "checkpoints/8")
    mirror_all(workdir, where)
    bring(where, tmp_path / "new")
    assert files_below(tmp_path / "new/checkpoints/8") == files_below(workdir / "checkpoints/8")


def test_an_export_is_copied_last_and_does_not_come_back(
    workdir: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(workdir, 8)
    (workdir / "export").mkdir()
    (workdir / "export/model.safetensors").write_text("gigabytes")
    names = put_names(monkeypatch)
    mirror_all(workdir, where)
    assert names.index("export/model.safetensors") == len(names) - 1
    bring(where, tmp_path / "new")
    assert not (tmp_path / "new/export").exists()


def test_a_temporary_checkpoint_of_another_machine_takes_no_place(workdir: Path, where: str, tmp_path: Path) -> None:
    """Nor does a damaged scores.json stop the copies: then no checkpoint counts as the best."""
    save(workdir, 8, 16)
    save(workdir, 18, is_temporary=True)
    mirror_all(workdir, where)
    bring(where, tmp_path / "new", step=16)
    (tmp_path / "new/scores.json").write_text('{"8": ')
    save(tmp_path / "new", 24)
    assert mirror_all(tmp_path / "new", where) == []
    assert Place(where, "").whole_steps() == [16, 24]


# A damaged checkpoint, here or there


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def flip_a_bit_there(where: str, name: str) -> None:
    place = Place(where, "")
    content = bytearray(place._files.cat_file(place._path(name)))
    content[0] ^= 1
    place.put_bytes(bytes(content), name)


DAMAGE = "params/d/array: its bytes are not those that were saved"


def test_a_copy_with_a_flipped_bit_gives_the_checkpoint_before(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    flip_a_bit_there(where, "checkpoints/16/params/d/array")
    new = tmp_path / "new"
    first, second = bring(where, new, training=True)
    assert first == f"checkpoint.mirror={where}: checkpoint 16 is damaged ({DAMAGE}); the checkpoint before it is taken"
    assert "brought checkpoint 8" in second
    assert [found.damage() for found in stored_checkpoints(new)] == [None]
    assert bring(where, new, training=True)[0] == first  # again: it has not been saved anew yet
    assert local_steps(new) == [8]
    with pytest.raises(UserError, match=r"checkpoint 16 is damaged \(.*\); choose another one of 8, 16"):
        bring(where, new, step=16)
    save(new, 16)
    mirror_all(new, where)
    assert "brought checkpoint 16" in bring(where, tmp_path / "third", training=True)[-1]


def test_a_damaged_checkpoint_here_is_replaced_by_its_copy(workdir: Path, where: str) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    flip_a_bit(workdir / "checkpoints/16/params/d/array")
    (line,) = bring(where, workdir, training=True)
    assert line.startswith(
        f"{workdir}/checkpoints/16: this checkpoint is damaged ({DAMAGE}); it was moved to {workdir}/damaged"
    )
    assert line.endswith(f"and its copy was brought from checkpoint.mirror={where}")
    assert [found.damage() for found in stored_checkpoints(workdir)] == [None, None]
    assert bring(where, workdir, training=True) == mirror_all(workdir, where) == []
    assert Place(where, "").whole_steps() == [8, 16]


def test_the_copy_of_a_checkpoint_that_was_set_aside_stays_until_retention(workdir: Path, where: str) -> None:
    """The place could not be reached at the start, so the trainer moved it away."""
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    set_aside(workdir, 16)
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [8, 16]
    save(workdir, 32)
    mirror_all(workdir, where)
    assert 16 in Place(where, "").whole_steps()
    shutil.rmtree(workdir / "checkpoints/8")
    save(workdir, 40)
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [32, 40]


def test_the_copy_of_a_damaged_checkpoint_goes_where_the_run_goes_back_behind_it(workdir: Path, where: str) -> None:
    """Else it would stay above all that the run has, and a new machine would go on from it."""
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    set_aside(workdir, 16)
    go_back(workdir, 8)
    save(workdir, 12)
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [8, 12]


def test_a_new_machine_gets_the_checkpoint_to_go_back_to(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8, 16, 24)
    (workdir / "sane_steps.json").write_text("[8, 16]")
    mirror_all(workdir, where)
    (line,) = bring(where, tmp_path / "new", training=True, with_sane=True)
    assert "brought checkpoint 24 and 16 of this run" in line
    assert local_steps(tmp_path / "new") == [16, 24]
    assert mirror_all(tmp_path / "new", where) == []
    assert Place(where, "").whole_steps() == [8, 16, 24]
    flip_a_bit_there(where, "checkpoints/16/params/d/array")
    first, second = bring(where, tmp_path / "third", training=True, with_sane=True)
    assert first.endswith(f"checkpoint 16 is damaged ({DAMAGE}); the run cannot go back to it at a spike")
    assert "brought checkpoint 24 of" in second


# A place that fails


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A storage that takes `puts` files and then fails."""
    left = {"puts": 0}
    memory = fsspec.filesystem("memory")

    def pipe_file(path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if left["puts"] <= 0:
            raise TimeoutError("no answer")
        left["puts"] -= 1
        type(memory).pipe_file(memory, path, value, mode)

    def put_file(source: str, target: str, **_: Any) -> None:
        pipe_file(target, Path(source).read_bytes())

    monkeypatch.setattr(memory, "pipe_file", pipe_file, raising=False)
    monkeypatch.setattr(memory, "put_file", put_file, raising=False)
    return left


def test_a_place_that_fails_is_said_once_and_tried_again(workdir: Path, failing: dict[str, int]) -> None:
    said: list[str] = []
    where = f"memory://bucket-{next(NUMBERS)}/run"
    place = Place(where, "checkpoint.mirror")
    save(workdir, 8)
    with Mirror(place, workdir, said.append):
        wait_until(lambda: bool(said))
        time.sleep(0.3)  # several more tries
        why = "cannot be written (TimeoutError: no answer); training goes on, and it is tried again"
        assert said == [f"checkpoint.mirror={where}: {why}"]
        failing["puts"] = 1000
        wait_until(lambda: len(said) == 2)
        assert said[1] == f"checkpoint.mirror={where}: can be written again; all of the run up to now is there"
    assert place.whole_steps() == [8]
    assert len(said) == 2


def test_a_new_run_is_refused_where_its_copy_cannot_be_written(failing: dict[str, int], tmp_path: Path) -> None:
    """Nothing is lost yet, and the name of the place may be wrong."""
    where = f"memory://bucket-{next(NUMBERS)}/run"
    with pytest.raises(TemporaryError, match=r"cannot be written \(TimeoutError: no answer\); no step was trained yet"):
        bring(where, tmp_path / "new", training=True)
    failing["puts"] = 1
    assert bring(where, tmp_path / "new", training=True) == []
    assert not Place(where, "").has_other_files()
    assert Place(where, "").whole_steps() == []


def test_what_is_not_copied_at_the_end_is_said(workdir: Path, failing: dict[str, int]) -> None:
    where = f"memory://bucket-{next(NUMBERS)}/run"
    save(workdir, 8, 16)
    start = time.monotonic()
    *_, last = mirror_all(workdir, where)
    assert time.monotonic() - start < 10
    assert last == (
        f"checkpoint.mirror={where}: not copied there (TimeoutError: no answer): checkpoint 8, 16; "
        f"the run is in {workdir}, and the same command copies it again"
    )


def test_a_place_that_hangs_is_waited_for_only_so_long(
    workdir: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "END_SECONDS", 0.3)
    never = threading.Event()
    monkeypatch.setattr(Place, "put", lambda *_: never.wait())
    save(workdir, 8)
    *_, last = mirror_all(workdir, where)
    never.set()
    assert "not copied there (there was no time left): checkpoint 8" in last


@pytest.mark.parametrize("puts", range(9))
def test_a_copy_that_was_cut_off_is_never_taken_for_whole(
    workdir: Path, failing: dict[str, int], tmp_path: Path, puts: int
) -> None:
    """After any of its files: mirrored/run.json, three small ones, three of checkpoint 16, and its list."""
    where = f"memory://bucket-{next(NUMBERS)}/run"
    failing["puts"] = 1000
    save(workdir, 8)
    mirror_all(workdir, where)
    save(workdir, 16)
    failing["puts"] = puts
    mirror_all(workdir, where)
    bring(where, tmp_path / "new", training=True)
    (step,) = local_steps(tmp_path / "new")
    assert step == (16 if puts == 8 else 8)
    checkpoint = f"checkpoints/{step}"
    assert files_below(tmp_path / "new" / checkpoint) == files_below(workdir / checkpoint)
    failing["puts"] = 1000
    mirror_all(workdir, where)
    assert Place(where, "").whole_steps() == [8, 16]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "checkpoint 16 lacks its file progress"),
        (b"1", "file progress of checkpoint 16 has 1 bytes, not 2"),
    ],
)
def test_a_copy_that_lost_a_file_or_a_part_of_it_gives_the_checkpoint_before(
    workdir: Path, where: str, tmp_path: Path, content: bytes | None, message: str
) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    place = Place(where, "checkpoint.mirror")
    if content is None:
        place._files.rm(place._path("checkpoints/16/progress"))
    else:
        place.put_bytes(content, "checkpoints/16/progress")
    first, _ = bring(where, tmp_path / "new")
    assert first == f"{place}: {message}; the checkpoint before it is taken"
    assert local_steps(tmp_path / "new") == [8]


def test_a_folder_never_shows_half_a_checkpoint_under_its_final_name(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, such as one of Drive, can be used as a workdir itself."""
    put = Place.put
    seen: list[bool] = []

    def watched(place: Place, source: Path, name: str) -> None:
        put(place, source, name)
        seen.append((tmp_path / "mirror/checkpoints/8").exists())

    monkeypatch.setattr(Place, "put", watched)
    save(workdir, 8)
    mirror_all(workdir, str(tmp_path / "mirror"))
    assert seen == [False] * 6
    assert files_below(tmp_path / "mirror/checkpoints/8") == files_below(workdir / "checkpoints/8")
    assert not list((tmp_path / "mirror/mirrored/partial").iterdir())


@pytest.mark.parametrize("calls", range(6, 13))
def test_a_cut_off_copy_or_removal_in_a_folder_does_not_look_like_a_checkpoint_that_was_trained_there(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """From the list of checkpoint 16, the seventh call, to the last removal of checkpoint 8."""
    drive, left = tmp_path / "drive", [calls]

    def failing(work: Callable[..., Any]) -> Callable[..., Any]:
        def count_down(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(5, "the machine went away")
            return work(*arguments)

        return count_down

    save(workdir, 8)
    mirror_all(workdir, str(drive))
    save(workdir, 16)
    shutil.rmtree(workdir / "checkpoints/8")
    with monkeypatch.context() as faults:
        for owner, name in ((Place, "write_json"), (Place, "_remove"), (Path, "rename")):
            faults.setattr(owner, name, failing(getattr(owner, name)))
        mirror_all(workdir, str(drive))
        assert left[0] < 0
    place = Place(str(drive), "")
    assert place.whole_steps() == local_steps(drive)
    bring(str(drive), tmp_path / "new", training=True)
    assert local_steps(tmp_path / "new") == local_steps(drive)[-1:]
    mirror_all(workdir, str(drive))
    assert place.whole_steps() == local_steps(drive) == [16]


def test_what_was_trained_in_the_folder_itself_is_neither_removed_nor_passed_over(
    workdir: Path, tmp_path: Path
) -> None:
    drive = tmp_path / "drive"
    save(workdir, 8)
    mirror_all(workdir, str(drive))
    save(drive, 16, 24)
    for here in (workdir, tmp_path / "new"):
        with pytest.raises(
            UserError, match="holds checkpoint 16, 24, trained in that folder itself and newer than the"
        ):
            bring(str(drive), here, training=True)
    save(workdir, 32)
    mirror_all(workdir, str(drive))  # as a run that did not stop meanwhile
    assert local_steps(drive) == [8, 16, 24, 32]


def test_a_folder_that_becomes_unusable(workdir: Path, tmp_path: Path) -> None:
    """A disk that is taken away: a file is in the way, which stops even root."""
    said: list[str] = []
    with Mirror(Place(str(tmp_path / "drive"), "checkpoint.mirror"), workdir, said.append):
        save(workdir, 8)
        wait_until(lambda: (tmp_path / "drive/mirrored/8.json").is_file())
        shutil.rmtree(tmp_path / "drive")
        (tmp_path / "drive").write_text("")
        save(workdir, 16)
        wait_until(lambda: bool(said))
    assert "cannot be written" in said[0]
    assert "not copied there" in said[1]
    assert len(said) == 2


# A place that is not the run's


def test_a_second_trainer_takes_the_place_over(workdir: Path, where: str) -> None:
    said: list[str] = []
    place = Place(where, "checkpoint.mirror")
    with Mirror(place, workdir, said.append):
        save(workdir, 8)
        wait_until(lambda: place.whole_steps() == [8])
        mirror_all(workdir, where)
        save(workdir, 16)
        wait_until(lambda: bool(said))
    assert ["another trainer" in line for line in said] == [True]
    assert place.whole_steps() == [8]


def test_the_copy_of_another_run_is_refused(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8)
    mirror_all(workdir, where)
    other = shutil.copytree(workdir, tmp_path / "other")
    (other / "mirror.json").write_text('{"run": "another"}')
    with pytest.raises(UserError, match=r"holds a copy of another run than .*; give another place"):
        bring(where, other, training=True)


@pytest.mark.parametrize(
    "content", [None, '{"run": "f3', "[]", '{"copied": {}}', '{"run": "a", "copied": {"b": {"c": 1}}}']
)
def test_a_run_whose_mirror_json_is_lost_goes_on_when_a_person_says_that_the_copy_is_its_own(
    workdir: Path, where: str, content: str | None
) -> None:
    save(workdir, 8, 16)
    mirror_all(workdir, where)
    shutil.rmtree(workdir / "checkpoints/16")
    record = workdir / "mirror.json"
    record.unlink() if content is None else record.write_text(content)
    with pytest.raises(
        UserError, match=r"mirror.json, which says whether of this one, is missing or damaged"
    ) as raised:
        bring(where, workdir, training=True)
    (own,) = re.findall(r"write (\{.*\}) to that file", str(raised.value))
    record.write_text(own)
    bring(where, workdir, training=True)
    assert local_steps(workdir) == [8, 16]
    assert mirror_all(workdir, where) == []


@pytest.mark.parametrize("content", ["[]", '{"writer": "a"}', '{"run": 1}', '{"run": '])
def test_a_damaged_run_json_there_is_named(workdir: Path, content: str) -> None:
    where = f"memory://bucket-{next(NUMBERS)}/run"
    save(workdir, 8)
    mirror_all(workdir, where)
    Place(where, "").put_bytes(content.encode(), "mirrored/run.json")
    with pytest.raises(UserError, match=r"mirrored/run.json there is damaged; give another place"):
        bring(where, workdir, training=True)


def test_a_place_with_something_else_is_refused(workdir: Path, where: str) -> None:
    Place(where, "").put_bytes(b"a thesis", "thesis.txt")
    with pytest.raises(UserError, match="holds something else than a copy of a run"):
        bring(where, workdir, training=True)


def test_a_place_that_cannot_be_reached(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With checkpoints here the run goes on; without any it could begin anew what is at step 90,000 there, and does not."""

    def no_answer(*_: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(Place, "read_json", no_answer)
    save(workdir, 8)
    (line,) = bring("memory://far/run", workdir, training=True)
    assert line.endswith(
        "cannot be reached now (TimeoutError: no answer); the run goes on from this machine's checkpoints"
    )
    with pytest.raises(TemporaryError, match="not known whether a run is to be continued"):
        bring("memory://far/run", tmp_path / "new", training=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset"), TemporaryError),
        (type("EndpointConnectionError", (Exception,), {})("botocore's are no OSError"), TemporaryError),
        (OSError(5, "Input/output error"), TemporaryError),
        (PermissionError("Forbidden"), UserError),
        (NotADirectoryError("drive"), UserError),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), UserError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_a_launcher_tries_again_only_what_may_pass(error: Exception, kind: type[UserError]) -> None:
    assert type(unreachable(Place("/drive", "checkpoint.mirror"), error, "what now")) is kind


def test_a_missing_package_is_named() -> None:
    with pytest.raises(UserError, match=r"checkpoint.mirror=adl://x/y: a package for adl:// is missing; install it"):
        Place("adl://x/y", "checkpoint.mirror")
    with pytest.raises(UserError, match=r"checkpoint.mirror=nowhere://x: not a folder and not a URL"):
        Place("nowhere://x", "checkpoint.mirror")


def test_a_name_that_leads_out_of_the_folder_is_refused(workdir: Path, where: str, tmp_path: Path) -> None:
    save(workdir, 8)
    mirror_all(workdir, where)
    place = Place(where, "checkpoint.mirror")
    place.write_json("mirrored/8.json", {"../../../escaped": 1})
    place.put_bytes(b"x", "escaped")
    with pytest.raises(UserError, match=r"the name '../../../escaped' there leads out of the run's folder"):
        bring(where, tmp_path / "new")
    assert not (tmp_path / "escaped").exists()


# A whole run


@pytest.mark.full
def test_a_run_goes_on_from_its_mirror(rows: Path, made_once: MadeOnce, tmp_path: Path) -> None:
    folder = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train())
    never_stopped = TinyRun(rows, folder / "run")
    drive = tmp_path / "drive"
    run = TinyRun(rows, tmp_path / "lost", (f"checkpoint.mirror={drive}",))
    run.train(steps_today=10)
    shutil.rmtree(run.workdir)
    printed = run.train()
    assert f"checkpoint.mirror={drive}: brought checkpoint 10 of this run to {run.workdir}" in printed
    assert "weights: the checkpoint of this run at step 10" in printed
    assert run.losses() == never_stopped.losses()
    assert TinyRun(rows, drive).losses() == never_stopped.losses()
    assert json.loads((drive / "complete.json").read_text())["step"] == 24
    assert (drive / "report.html").is_file()
    assert local_steps(drive) == [16, 24]


def check_that_two_processes_find_the_run() -> None:
    folder, get = Path(os.environ["COPY_OF_A_RUN"]), Place.get_checkpoint
    config = default_config()
    config.checkpoint.mirror = str(folder / "mirror")

    def slow(place: Place, step: int, target: Path) -> None:
        time.sleep(1)
        get(place, step, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "get_checkpoint", slow)
        patch.delattr(
            processes, "process_allgather"
        )  # a collective has a time limit, and a run may need longer to come down
        with copies_elsewhere(config, folder / "new", print):
            assert local_steps(folder / "new") == [8]


@pytest.mark.full
def test_the_other_processes_wait_without_a_collective_until_the_run_is_here(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(workdir, 8)
    mirror_all(workdir, str(tmp_path / "mirror"))
    monkeypatch.setenv("COPY_OF_A_RUN", str(tmp_path))
    run_on_two_processes_of_four_devices(check_that_two_processes_find_the_run)
