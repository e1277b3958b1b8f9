"""The folder of a run's checkpoints as it lies on the disk: which there are, which are damaged, and where damaged ones go."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE, METADATA_FILE, damage_of, has_checksums
from tonsai_jax.files import disk_errors

DAMAGED_FOLDER = "damaged"
HAS_CHECKSUMS = "checksums"  # keys of what Orbax keeps for us as custom metadata
IS_TEMPORARY = "temporary"


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint with its final name.

    Attributes:
      folder: `WORKDIR/checkpoints/STEP`.
      seconds: when it was saved, in seconds since 1970.
      is_temporary: saved because of `checkpoint.every_minutes`.
      has_metadata: whether Orbax's file about it can be read.
      has_checksums: False where an earlier version saved it, so that it cannot be verified.
    """

    folder: Path
    step: int
    seconds: float
    is_temporary: bool
    has_metadata: bool
    has_checksums: bool

    def size(self) -> int:
        """Its bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def damage(self, items: Iterable[str] | None = None, share: tuple[int, int] = (0, 1)) -> str | None:
        """What is damaged, see `damage_of`; None where nothing is, or where it has no checksums."""
        if not self.has_checksums:
            return None if self.has_metadata else f"{METADATA_FILE}: is missing or cannot be read"
        if not has_checksums(self.folder):
            return f"{CHECKSUMS_FILE}: is missing"
        return damage_of(self.folder, items, share)


def stored_checkpoints(workdir: Path) -> list[StoredCheckpoint]:
    """The checkpoints of a run in the order of their steps. Folders of unfinished saves are not among them."""
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        return []
    folders = [path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]
    return [stored_checkpoint(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))]


def stored_checkpoint(folder: Path) -> StoredCheckpoint:
    """What the folder of a checkpoint says about it; where its metadata is damaged, what the folder's date says."""
    metadata = _metadata(folder)
    custom = metadata.get("custom_metadata")
    custom = custom if isinstance(custom, dict) else {}
    saved_at = metadata.get("commit_timestamp_nsecs")
    return StoredCheckpoint(
        folder,
        int(folder.name),
        seconds=saved_at / 1e9 if isinstance(saved_at, int) else folder.stat().st_mtime,
        is_temporary=custom.get(IS_TEMPORARY) is True,
        has_metadata=bool(metadata),
        has_checksums=custom.get(HAS_CHECKSUMS) is True or has_checksums(folder),
    )


def set_aside(workdir: Path, step: int) -> Path:
    """Moves a damaged checkpoint to `WORKDIR/damaged/STEP-TIME`; returns that folder. Raises `UserError` where it cannot."""
    target = workdir / DAMAGED_FOLDER / f"{step}-{time.strftime('%Y%m%d-%H%M%S')}"
    with disk_errors(target):
        target.parent.mkdir(exist_ok=True)
        (workdir / "checkpoints" / str(step)).rename(target)
    return target


def delete(checkpoint: StoredCheckpoint) -> None:
    """Deletes a checkpoint. It loses its final name first, so a killed deletion leaves nothing that looks whole."""
    going = checkpoint.folder.with_name(f"{checkpoint.step}.orbax-checkpoint-tmp-deleted")
    with disk_errors(checkpoint.folder):
        checkpoint.folder.rename(going)
        shutil.rmtree(going)


def damaged_checkpoints(workdir: Path) -> list[Path]:
    """The folders of the checkpoints that were set aside."""
    folder = workdir / DAMAGED_FOLDER
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def damaged_steps(workdir: Path) -> set[int]:
    """The steps of the checkpoints that were set aside."""
    steps = (path.name.partition("-")[0] for path in damaged_checkpoints(workdir))
    return {int(step) for step in steps if step.isdecimal()}


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
