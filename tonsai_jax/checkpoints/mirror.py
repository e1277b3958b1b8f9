"""Copies a run to a second place while it trains (`checkpoint.mirror`): each finished checkpoint and all small files.

A thread of the first process looks at the workdir every few seconds, so nothing of the run waits for the copy or knows of it. A
place that fails is tried again, later and later, and never stops the run. What is removed in the workdir is removed there.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE
from tonsai_jax.checkpoints.folder import damaged_steps, stored_checkpoints
from tonsai_jax.checkpoints.overview import policy_of
from tonsai_jax.checkpoints.place import EXPORT_FOLDER, RUN_FILE, Place, reason
from tonsai_jax.checkpoints.restore_copy import Record, files_of, local_steps
from tonsai_jax.checkpoints.roll_backs import RollBacks
from tonsai_jax.files import disk_errors

LOOK_SECONDS = 5.0  # between two looks at the folder of checkpoints
SMALL_FILES_SECONDS = 60.0  # between two copies of the files that change all the time, such as metrics.jsonl
LONGEST_WAIT_SECONDS = 300.0  # between two tries where the place fails
END_SECONDS = 600.0  # the longest wait for the last copies when the run ends; after an error of the run, a tenth of it
_LAST_TRIES = 3
LAST_WAIT_SECONDS = 1.0  # between two of the last tries
_HELD = ".mirror"  # in the workdir: the checkpoint that is being copied
# What stays in the workdir: it belongs to this machine, is large and can be made again, or is copied in another way.
_NOT_COPIED = (
    "checkpoints",
    "damaged",
    EXPORT_FOLDER,
    "heartbeats",
    "hub_export",
    "mirror.json",
    "profile",
    "trainer.lock",
)


class Mirror:
    """A context in which the run of `workdir` is copied to `place` in the background; the last copies are made at its end.

    Args:
      say: prints a line; it is called in another thread.
    """

    def __init__(self, place: Place, workdir: Path, say: Callable[[str], None]) -> None:
        self._place, self._workdir, self._say = place, workdir, say
        self._writer = uuid.uuid4().hex  # of this process
        self._record = Record(workdir)
        self._copied = self._record.of(place)
        self._small: dict[str, tuple[int, int]] = {}  # files that were copied, as they were then: bytes, date
        self._small_at = 0.0
        self._failed = ""  # why the last try failed
        self._begun = self._displaced = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def __enter__(self) -> Self:
        self._release()  # what a killed process held
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = END_SECONDS if error is None else END_SECONDS / 10 if isinstance(error, Exception) else 0.0
        self._ending.set()
        self._thread.join(min(2.0, seconds))
        if self._thread.is_alive() and seconds:
            rest = f"for at most {seconds:.0f} s; the run is saved in {self._workdir}"
            self._say(f"{self._place}: copying what is not there yet, {rest}")
            self._thread.join(seconds)
        missing = [step for step in local_steps(self._workdir) if step not in self._copied]
        if self._displaced or not (missing or self._failed or self._thread.is_alive()):
            return
        what = f"checkpoint {', '.join(map(str, missing))}" if missing else "some files"
        self._say(
            f"{self._place}: not copied there ({self._failed or 'there was no time left'}): {what}; "
            f"the run is in {self._workdir}, and the same command copies it again"
        )

    def _work(self) -> None:
        wait, last_tries = LOOK_SECONDS, _LAST_TRIES
        while True:
            is_last = self._ending.wait(wait)
            try:
                self._copy(is_last)
            except Exception as error:  # whatever a storage raises
                if not self._failed:
                    self._say(
                        f"{self._place}: cannot be written ({reason(error)}); training goes on, and it is tried again"
                    )
                elif not is_last:
                    last_tries = 1  # it has failed for a while
                self._failed = reason(error)
                wait = min(max(LOOK_SECONDS, 2 * wait), LONGEST_WAIT_SECONDS)
            else:
                if self._failed:
                    self._say(f"{self._place}: can be written again; all of the run up to now is there")
                self._failed, wait, last_tries = "", LOOK_SECONDS, (0 if is_last else _LAST_TRIES)
            if self._displaced or (is_last and last_tries <= 1):
                return
            if is_last:
                last_tries -= 1
                time.sleep(LAST_WAIT_SECONDS)

    def _copy(self, is_last: bool) -> None:
        """Copies what is new, small files before checkpoints: a checkpoint there has its metrics with it.

        Those that the run went back behind are removed before all that, so that none of them is taken for the newest with the
        files of today. A checkpoint that was set aside as damaged is not gone on purpose, so its copy stays until retention
        removes it.
        """
        steps = local_steps(self._workdir)
        found = {step: files_of(self._workdir / "checkpoints" / str(step)) for step in steps}
        new = [step for step in reversed(steps) if found[step] != self._copied.get(step)]
        damaged = damaged_steps(self._workdir) - {*steps}
        away = [step for step in self._copied if step not in found] if steps else []
        given_up = self._given_up(away, steps[-1], damaged) if away else set()
        gone = [step for step in away if step in given_up or step not in damaged]
        if not (new or gone or is_last or time.monotonic() - self._small_at > SMALL_FILES_SECONDS):
            return
        if not (self._workdir / "config.json").is_file() or not self._owns_the_place():
            return
        if self._copied.keys() & found.keys():  # else nothing would be left there
            self._remove(sorted(given_up, reverse=True))
        self._copy_small_files()
        for step in new:
            if self._has_new_checksums(step, found[step]):
                self._copy_checksums(step, found[step])
            else:
                self._copy_checkpoint(step, found[step])
        self._remove([step for step in gone if step in self._copied])
        self._remove(self._outdated(steps, damaged) if new else [])
        self._copy_files([self._workdir / EXPORT_FOLDER])  # last, as it may be large

    def _given_up(self, away: list[int], newest: int, damaged: set[int]) -> set[int]:
        """Of the checkpoints that were copied and are `away` from here, those that the run went back behind."""
        roll_backs = RollBacks(self._workdir, newest)
        saved = {step: max((date for _, date in self._copied[step].values()), default=0) / 1e9 for step in away}
        return {
            step for step in away if (step > newest and step not in damaged) or roll_backs.gave_up(step, saved[step])
        }

    def _remove(self, steps: list[int]) -> None:
        for step in steps:
            self._place.remove_checkpoint(step)
            self._note({other: files for other, files in self._copied.items() if other != step})

    def _outdated(self, here: list[int], damaged: set[int]) -> list[int]:
        """The checkpoints there that retention would have removed, of those that this machine never had or set aside."""
        theirs = set(self._place.whole_steps()) - {*here} - (self._copied.keys() - damaged)
        if not theirs:
            return []
        policy = policy_of(self._workdir, stored_checkpoints(self._workdir))
        policy.temporary.update(step for step in theirs if self._place.is_temporary(step))
        return sorted(theirs - policy.keeps(sorted(theirs | {*here})))

    def _has_new_checksums(self, step: int, files: dict[str, list[int]]) -> bool:
        """Whether only its checksums changed since it was copied: a save adds the files that Orbax writes last to them."""
        before = self._copied.get(step) or {}
        changed = {name for name in files.keys() | before.keys() if files.get(name) != before.get(name)}
        return changed == {CHECKSUMS_FILE} and CHECKSUMS_FILE in files and step in self._place.whole_steps()

    def _copy_checksums(self, step: int, files: dict[str, list[int]]) -> None:
        folder = self._workdir / "checkpoints" / str(step)
        try:
            self._place.replace_checksums(step, folder, _sizes(files))
        except FileNotFoundError:
            if files_of(folder) == files:  # then it is the place that is missing
                raise
        if files_of(folder) == files:
            self._note(self._copied | {step: files})

    def _copy_checkpoint(self, step: int, files: dict[str, list[int]]) -> None:
        with self._held(step) as folder:
            try:
                self._place.put_checkpoint(step, folder, files)
            except FileNotFoundError:
                if files_of(folder) == files:  # then it is the place that is missing
                    raise
            if files_of(folder) == files:
                self._place.seal_checkpoint(step, _sizes(files))
                self._note(self._copied | {step: files})
            else:  # removed, or saved again, before it was held
                self._place.remove_checkpoint(step)

    @contextlib.contextmanager
    def _held(self, step: int) -> Iterator[Path]:
        """A folder with the files of a checkpoint under second names, as retention may remove it before a slow copy is done."""
        folder, held = self._workdir / "checkpoints" / str(step), self._workdir / _HELD / str(step)
        try:
            shutil.copytree(folder, held, copy_function=os.link)
            folder = held
        except OSError:
            pass  # a disk without hard links, or retention was faster still
        try:
            yield folder
        finally:
            self._release()

    def _release(self) -> None:
        shutil.rmtree(self._workdir / _HELD, ignore_errors=True)

    def _owns_the_place(self) -> bool:
        """Whether this process is the one that writes there: the last one that began to. The first call is such a beginning."""
        at_place = self._place.run() or {}
        if self._begun:
            if at_place.get("writer") != self._writer:
                self._displaced = True
                self._say(
                    f"{self._place}: another trainer ({at_place.get('host')}) writes there now, so this one no longer does; "
                    "stop one of the two"
                )
            return not self._displaced
        if not self._record.run:
            self._record.run = at_place.get("run") or uuid.uuid4().hex
        run = {"run": self._record.run, "writer": self._writer, "host": socket.gethostname()}
        self._note(self._copied)  # first here: the copy of a run that does not know its own id would be refused
        self._place.write_json(RUN_FILE, run)
        self._begun = True
        self._place.remove_unfinished()
        return True

    def _copy_small_files(self) -> None:
        self._copy_files([top for top in sorted(self._workdir.iterdir()) if top.name not in _NOT_COPIED])
        self._small_at = time.monotonic()

    def _copy_files(self, tops: list[Path]) -> None:
        """Copies these files, and what is in these folders, where they changed since."""
        for top in tops:
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                name = path.relative_to(self._workdir).as_posix()
                if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                    self._copy_file(path, name)

    def _copy_file(self, path: Path, name: str) -> None:
        try:
            status = path.stat()
            now = (status.st_size, status.st_mtime_ns)
            if self._small.get(name) != now:
                self._place.put(path, name)
                self._small[name] = now
        except FileNotFoundError:
            if path.exists():  # then it is the place that is missing
                raise

    def _note(self, copied: dict[int, object]) -> None:
        self._copied = dict(copied)
        with disk_errors(self._workdir):
            self._record.write(self._place, self._copied)


def _sizes(files: dict[str, list[int]]) -> dict[str, int]:
    return {name: size for name, (size, _) in files.items()}
