"""The checksums of a checkpoint's files, in a file of the checkpoint's own folder, so that a copy of the folder has them too.

CRC-32 finds every single flipped bit and every damaged run of up to 32 bits, and misses other damage once in 4e9 times. It is
meant for faults of disks and memory, not for an attacker, and is several times as fast as SHA-256.
"""

import errno
import json
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.files import atomic_write, read_json

CHECKSUMS_FILE = "checksums.json"
METADATA_FILE = "_CHECKPOINT_METADATA"  # Orbax's, about the whole checkpoint
# Orbax writes these two after it has called us and before the folder gets its final name.
LATE_FILES = (METADATA_FILE, "commit_success.txt")
_BLOCK_BYTES = 1 << 22
_THREADS = 4  # zlib releases Python's lock, so files are read next to each other


def write_checksums(folder: Path) -> None:
    """Writes `folder/checksums.json`, which holds the bytes and the CRC-32 of every file that is there now.

    Also brings all of them to the disk, so that they outlive a power failure when the folder gets its final name.

    Raises `OSError` where a file cannot be read, or this one not written.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS_FILE]
    with ThreadPoolExecutor(_THREADS) as threads:
        sums = list(threads.map(_synced_sum_of, paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    _write(folder, {name: found for name, found in zip(names, sums, strict=True) if name not in LATE_FILES})


def add_late_files(folder: Path) -> None:
    """Adds the files that Orbax writes last to the checksums of a checkpoint that has its final name."""
    late = {name: _sum_of(folder / name) for name in LATE_FILES if (folder / name).is_file()}
    _write(folder, _read(folder) | late)


def has_checksums(folder: Path) -> bool:
    return (folder / CHECKSUMS_FILE).is_file()


def damage_of(folder: Path, items: Iterable[str] | None = None, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is damaged in a checkpoint that has checksums, as "params/_METADATA: is missing"; None where nothing is.

    Args:
      folder: the checkpoint's folder.
      items: the items of it to read, such as "params"; None is all. The files next to the items are always read.
      share: (number, count) to read only one of `count` shares of the files.

    Raises:
      UserError: no permission to read a file.
      TemporaryError: the storage did not answer; an error of the disk itself (EIO) counts as damage.
    """
    try:
        sums = _read(folder)
    except (UserError, ValueError) as error:
        return f"{CHECKSUMS_FILE}: {str(error).removeprefix(f'{folder / CHECKSUMS_FILE}: ')}"
    wanted = None if items is None else {*items}
    names = [name for name in sorted(sums) if wanted is None or "/" not in name or name.split("/")[0] in wanted]
    number, count = share
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda name: _difference(folder, name, sums[name]), names[number::count])
        return next(filter(None, found), None)


def is_fault_of_storage(error: BaseException) -> bool:
    """Whether an error in reading a checkpoint says that the storage did not answer, and not that a file of it is damaged."""
    about_the_file = FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    return isinstance(error, OSError) and not isinstance(error, about_the_file) and error.errno != errno.EIO


def _difference(folder: Path, name: str, wanted: Any) -> str | None:
    try:
        found = _sum_of(folder / name)
    except OSError as error:
        if is_fault_of_storage(error):
            raise TemporaryError(
                f"{folder / name}: cannot be read now ({error.strerror}); run the same command again"
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(f"{folder / name}: no permission to read this file of the checkpoint") from error
        if error.errno == errno.EIO:
            return f"{name}: the disk cannot read it ({error.strerror})"
        return f"{name}: is missing"
    if found == wanted:
        return None
    if not isinstance(wanted, dict) or found["bytes"] != wanted.get("bytes"):
        size = wanted.get("bytes") if isinstance(wanted, dict) else wanted
        return f"{name}: has {found['bytes']} bytes, and had {size} when it was saved"
    return f"{name}: its bytes are not those that were saved"


def _synced_sum_of(path: Path) -> dict[str, Any]:
    _sync(path)  # TensorStore has done it for the arrays, for which this costs nothing
    return _sum_of(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sum_of(path: Path) -> dict[str, Any]:
    size = checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
            size += len(block)
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def _read(folder: Path) -> dict[str, Any]:
    """The checksums by the file's path; raises `UserError` or `ValueError` where the file does not hold them."""
    path = folder / CHECKSUMS_FILE
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        raise ValueError("does not hold checksums")
    if path.read_text(encoding="utf-8") != _text(value["files"]):  # a flipped bit in a space is damage too
        raise ValueError("its bytes are not those that were saved")
    return dict(value["files"])


def _write(folder: Path, sums: dict[str, Any]) -> None:
    with atomic_write(folder / CHECKSUMS_FILE) as partial:
        partial.write_text(_text(sums), encoding="utf-8")
        _sync(partial)


def _text(sums: dict[str, Any]) -> str:
    return json.dumps({"files": sums}, indent=2) + "\n"
