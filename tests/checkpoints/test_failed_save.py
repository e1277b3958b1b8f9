"""A save that the disk refuses: one line, soon, and the earlier checkpoints are whole."""

import errno
import os
import time
from pathlib import Path

import pytest

from tests.checkpoints.test_store import SMALL, kept, save
from tonsai_jax.checkpoints import checksums, store
from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE
from tonsai_jax.checkpoints.folder import stored_checkpoint
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.hosts.peers import Peers


def take_steps(checkpoints: Checkpoints) -> None:
    """Looks after the save in the background as the training loop does, for ten seconds at most."""
    for _ in range(500):
        checkpoints.check()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, UserError, "the disk is full"),
        (errno.EFBIG, UserError, "the disk is full"),
        (errno.EROFS, UserError, "cannot be written"),
        (errno.EIO, TemporaryError, "cannot be written now"),
    ],
)
def test_an_error_of_the_disk_in_the_background_ends_the_run_at_its_next_step(
    three: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[UserError], message: str
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(code, os.strerror(code), str(folder))

    checkpoints = Checkpoints(three, KeepPolicy(last=1))
    monkeypatch.setattr(store, "write_checksums", fail)
    checkpoints.save(SMALL, {"step": 4})
    with pytest.raises(UserError, match=message) as caught:
        take_steps(checkpoints)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "whole" in str(caught.value)
    assert kept(three) == [1, 2, 3]
    assert all(stored_checkpoint(three / "checkpoints" / str(step)).damage() is None for step in (1, 2, 3))


def test_the_run_after_a_failed_save_saves_again(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(store, "write_checksums", fail)
        with pytest.raises(UserError, match="the disk is full"):
            save(Checkpoints(three, KeepPolicy(last=9)), 4)
    again = Checkpoints(three, KeepPolicy(last=9))
    assert again.resume_step(print) == 3
    save(again, 4)
    again.close()
    assert kept(three) == [1, 2, 3, 4]


def test_a_disk_that_is_full_at_the_list_of_checksums_is_told_as_at_any_other_file(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checksums, "_sync", fail)
    checkpoints = Checkpoints(three, KeepPolicy(last=9))
    checkpoints.save(SMALL, {"step": 4})
    with pytest.raises(UserError, match=r"the disk is full .* the earlier ones are whole") as caught:
        checkpoints.wait()
    assert not Peers.is_lost_in(caught.value)


def test_an_error_after_the_final_name_does_not_say_that_the_checkpoint_was_not_written(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr(store, "add_late_files", fail)
    checkpoints = Checkpoints(three, KeepPolicy(last=9))
    checkpoints.save(SMALL, {"step": 4})
    with pytest.raises(TemporaryError, match="checkpoints/4: the disk failed"):
        checkpoints.wait()
    assert kept(three) == [1, 2, 3, 4]
    assert stored_checkpoint(three / "checkpoints" / "4").damage() is None


def test_a_good_save_is_ended_by_a_check(three: Path) -> None:
    checkpoints = Checkpoints(three, KeepPolicy(last=9))
    checkpoints.save(SMALL, {"step": 4})
    sums = three / "checkpoints" / "4" / CHECKSUMS_FILE
    for _ in range(500):
        checkpoints.check()
        if sums.is_file() and "_CHECKPOINT_METADATA" in sums.read_text():
            return
        time.sleep(0.02)
    pytest.fail("the last files never got their checksums")
