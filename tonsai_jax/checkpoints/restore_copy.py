"""Brings a run down from the place that holds a copy of it, so that a new machine goes on where another one stopped."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tonsai_jax.checkpoints.folder import set_aside, stored_checkpoint, stored_checkpoints
from tonsai_jax.checkpoints.overview import read_sane_steps
from tonsai_jax.checkpoints.place import IncompleteError, Place, reason, unreachable
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json, write_json

RECORD_FILE = "mirror.json"  # in the workdir, and only there
_Result = TypeVar("_Result")
_COMING_DOWN = ".from_mirror"
_TRIES, _FIRST_WAIT_SECONDS = 3, 2.0


class Record:
    """What a workdir knows about its copies, `WORKDIR/mirror.json`.

    Attributes:
      run: the id of the run; empty where it has no copy yet, or where the file is lost or damaged.
      copied: by place, then by step, the files of each checkpoint that was copied: {path: [bytes, nanoseconds of its date]}.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / RECORD_FILE
        self.run = ""
        self._copied: dict[str, dict[int, Any]] = {}
        with contextlib.suppress(UserError, AttributeError, KeyError, TypeError, ValueError):
            value = read_json(self._path)
            places = value.get("copied", {}).items()
            copied = {where: {int(step): dict(files) for step, files in steps.items()} for where, steps in places}
            self.run, self._copied = str(value["run"]), copied

    def of(self, place: Place) -> dict[int, Any]:
        return self._copied.get(place.where, {})

    def write(self, place: Place, copied: dict[int, Any]) -> None:
        self._copied[place.where] = copied
        write_json(self._path, {"run": self.run, "copied": self._copied})


def files_of(folder: Path) -> dict[str, list[int]]:
    """The files of a checkpoint: {path in the folder: [bytes, nanoseconds of its date]}. Another save gives other dates."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # it was removed at this moment
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def local_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir, in rising order."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def bring_down(
    place: Place,
    workdir: Path,
    say: Callable[[str], None],
    step: int | None = None,
    *,
    training: bool = False,
    with_sane: bool = False,
) -> None:
    """Brings the newest whole checkpoint at `place`, or that of `step`, and the small files of the run to `workdir`.

    The small files stay as they are where `workdir` has a checkpoint that is newer than the one that is brought. Does nothing
    where the workdir has that checkpoint or, without `step`, a newer one, or where the place has no run. A checkpoint whose
    bytes are not those that were saved is not whole.

    Args:
      training: the run goes on in `workdir`. Then a place that cannot be reached is no reason to stop, if the workdir has
        checkpoints. A checkpoint that was copied before and is gone from the workdir was removed there on purpose; one that is
        damaged there is replaced by its copy. And a new run is refused where its copy could not be written.
      with_sane: brings also the newest sane checkpoint, to which a run can go back.

    Raises:
      UserError: the place holds another run than the workdir, or something else than a run; no checkpoint there is whole; the
        place is a folder in which the run was trained further.
      TemporaryError: the place cannot be reached, and the workdir has no checkpoint.
    """
    shutil.rmtree(workdir / _COMING_DOWN, ignore_errors=True)
    here, record = local_steps(workdir), Record(workdir)
    unreached = "the run goes on from this machine's checkpoints"
    try:
        run = _patiently(place.run)
        there = place.whole_steps() if run else []
        trained_there = [each for each in place.steps_trained_there() if training and each > max(there, default=-1)]
        is_foreign = not run and place.has_other_files()
    except UserError:
        raise
    except Exception as error:
        if here and training:
            say(f"{place}: cannot be reached now ({reason(error)}); {unreached}")
            return
        raise unreachable(place, error, "so it is not known whether a run is to be continued from there") from None
    if is_foreign:
        raise UserError(f"{place}: holds something else than a copy of a run; give an empty or a new place")
    if not run:
        if training and not here:
            _check_writable(place)
        return
    if here and not record.run:
        unknown = (
            f"holds a copy of a run, and {workdir / RECORD_FILE}, which says whether of this one, is missing or damaged"
        )
        own = json.dumps({"run": run["run"]})
        raise UserError(
            f"{place}: {unknown}; where it is of this run, write {own} to that file; where not, give another place, or an empty "
            "--workdir to continue that run"
        )
    if record.run and record.run != run["run"]:
        raise UserError(
            f"{place}: holds a copy of another run than {workdir}; give another place, or an empty --workdir to continue that run"
        )
    if trained_there:
        steps = ", ".join(map(str, trained_there))
        raise UserError(
            f"{place}: holds checkpoint {steps}, trained in that folder itself and newer than the copy there; "
            f"go on with --workdir={place.where} and another mirror or none, or move away what was trained there"
        )
    copied = record.of(place)
    if step is None:
        newer = [each for each in there if not here or each > here[-1]]
        wanted = [each for each in newer if not (here and training and each in copied)]
    else:
        wanted = [step] if step not in here else []
        if wanted and step not in there:
            raise UserError(f"{place}: no checkpoint at step {step}; there are: {', '.join(map(str, there)) or 'none'}")
    start = time.monotonic()
    for each in reversed(wanted):
        try:
            folders = {each: _get(place, each, workdir)}
            if not here or each > here[-1]:  # else those here are newer, and a run may be writing them
                _patiently(lambda: place.get_small_files(workdir))
            if with_sane:
                folders |= _get_sane(place, workdir, [other for other in there if other <= each], here, say)
        except IncompleteError as error:
            if step is not None:
                raise UserError(f"{place}: {error}; choose another one of {', '.join(map(str, there))}") from None
            say(f"{place}: {error}; the checkpoint before it is taken")
            continue
        except UserError:
            raise
        except Exception as error:
            raise unreachable(place, error, "run the same command again") from None
        record.run = run["run"]
        record.write(place, copied)  # before a checkpoint is here: one of an unknown run would be refused
        for brought, folder in sorted(folders.items()):
            copied = copied | {brought: _install(folder, workdir)}
        shutil.rmtree(workdir / _COMING_DOWN, ignore_errors=True)
        record.write(place, copied)
        what = "checkpoint " + " and ".join(map(str, sorted(folders, reverse=True)))
        say(f"{place}: brought {what} of this run to {workdir} in {time.monotonic() - start:.1f} s")
        return
    if wanted and not here:
        raise UserError(f"{place}: no checkpoint there is whole; give another place, or remove this one to begin anew")
    if training:
        try:
            _replace_damaged(place, workdir, there, record, say)
        except UserError:
            raise
        except Exception as error:
            say(f"{place}: cannot be read ({reason(error)}); {unreached}")


def _check_writable(place: Place) -> None:
    try:
        _patiently(place.check_writable)
    except Exception as error:
        hint = "no step was trained yet; correct the place or the rights there, or leave it out"
        raise unreachable(place, error, hint, "written") from None


def _get_sane(
    place: Place, workdir: Path, there: list[int], here: list[int], say: Callable[[str], None]
) -> dict[int, Path]:
    """The newest sane checkpoint of those `there`, where it is neither the newest of all nor in the workdir already."""
    sane = max(read_sane_steps(workdir) & {*there}, default=None)
    if sane is None or sane == there[-1] or sane in here:
        return {}
    try:
        return {sane: _get(place, sane, workdir)}
    except IncompleteError as error:
        say(f"{place}: {error}; the run cannot go back to it at a spike")
        return {}


def _replace_damaged(place: Place, workdir: Path, there: list[int], record: Record, say: Callable[[str], None]) -> None:
    """Takes the copy of the newest checkpoint where that one is damaged here, so that no step is lost."""
    for found in reversed(stored_checkpoints(workdir)):
        damage = found.damage()
        if damage is None:
            return
        if found.step not in there:
            continue
        try:
            folder = _get(place, found.step, workdir)
        except IncompleteError:
            continue  # the trainer moves it away, and says so
        moved = set_aside(workdir, found.step)
        record.write(place, record.of(place) | {found.step: _install(folder, workdir)})
        shutil.rmtree(workdir / _COMING_DOWN, ignore_errors=True)
        what = f"{found.folder}: this checkpoint is damaged ({damage}); it was moved to {moved}"
        say(f"{what}, and its copy was brought from {place}")
        return


def _get(place: Place, step: int, workdir: Path) -> Path:
    """The folder to which the checkpoint was brought; raises `IncompleteError` where it is not whole."""
    folder = workdir / _COMING_DOWN / str(step)

    def get() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with disk_errors(folder):
            place.get_checkpoint(step, folder)

    _patiently(get)
    if (damage := stored_checkpoint(folder).damage()) is not None:
        raise IncompleteError(f"checkpoint {step} is damaged ({damage})")
    return folder


def _install(folder: Path, workdir: Path) -> dict[str, list[int]]:
    """Gives a checkpoint that came down its final name; returns its files."""
    target = workdir / "checkpoints" / folder.name
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    return files_of(target)


def _patiently(work: Callable[[], _Result]) -> _Result:
    """Does `work` again, after a pause, where the storage failed; what the user must correct, and what is missing, is raised."""
    for attempt in range(_TRIES - 1):
        try:
            return work()
        except (UserError, IncompleteError, ImportError):
            raise
        except Exception:
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
    return work()
