"""Files and folders that are either whole or absent: write next to the final name, then rename."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.errors import DISK_FAULTS, TEMPORARY_FAULTS, TemporaryError, UserError
from tonsai_jax.sole_writer import sole_writer

_LFS_POINTER = b"version https://git-lfs"


def is_disk_full(error: BaseException) -> bool:
    """Whether the system refused to write because the disk, a quota or the largest allowed file is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an error of the disk (it is full, or this place of it cannot be written) into a `UserError` that names `path`.

    One that may be gone at the next try (`TEMPORARY_FAULTS`) becomes a `TemporaryError`.
    """
    try:
        yield
    except OSError as raised:
        error = _first_of_copy(raised)
        if is_disk_full(error):
            raise UserError(f"{path}: {DISK_FAULTS[error.errno or 0]}") from error
        if error.errno in TEMPORARY_FAULTS:
            raise TemporaryError(f"{path}: {DISK_FAULTS[error.errno or 0]}") from error
        if isinstance(error, PermissionError):
            raise UserError(f"{path}: no permission to write here; choose another folder") from error
        if isinstance(error, IsADirectoryError):
            raise UserError(f"{path}: is a folder, but a file is to be written; give the name of a file") from error
        if error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.EBUSY):
            raise UserError(f"{path}: cannot be written here ({error.strerror}); choose another folder") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UserError(
                f"{path}: no folder can be made here, a file is in the way; choose another folder"
            ) from error
        raise


def _first_of_copy(error: OSError) -> OSError:
    """The first error in one of `shutil.copytree`, which has those of all files, as text; any other error itself."""
    number = re.search(r"\[Errno (\d+)\]", str(error)) if isinstance(error, shutil.Error) else None
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def file_to_write(path: str) -> Path:
    """The path of a file that a command will write at its end; the `type` of such an option in argparse.

    Raises `UserError` at once, and not after hours of work, where nothing can be written there. Writes nothing itself.
    """
    if not path:
        raise UserError("the name of the file to write is empty; give one, or leave the option out")
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, but a file is to be written; give the name of a file")
    _check_writable(Path(path).absolute().parent, path)
    return Path(path)


def folder_to_write(path: str) -> Path:
    """The path of a folder that a command will fill; otherwise as `file_to_write`."""
    _check_writable(Path(path).absolute(), path)
    return Path(path)


def folder_to_replace(path: str) -> Path:
    """The path of a folder for `atomic_folder`, which writes next to it; otherwise as `file_to_write`."""
    if os.path.ismount(path):
        raise UserError(f"{path}: is a mount point, which cannot be replaced; give a folder in it, as {path}/out")
    if os.path.exists(path):
        _check_writable(Path(path).absolute(), path)
    _check_writable(Path(path).absolute().parent, path)
    return Path(path)


def _check_writable(folder: Path, path: str) -> None:
    """Tries to make a file in `folder`, or in the nearest folder around it that exists; `path` is for the message."""
    if "://" in path:
        raise UserError(f"{path}: is a URL, and this command writes to folders of this machine; give a folder")
    try:
        with disk_errors(Path(path)):
            while not _exists(folder):
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written here ({error.strerror}); choose another folder") from error


def _exists(path: Path) -> bool:
    """Whether there is something; unlike `Path.exists`, raises `OSError` where there cannot be anything."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder: renamed to `path` if the block succeeds, removed if it fails."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, manifest: str, format: str) -> Iterator[Path]:
    """Yields an empty folder next to `path`: renamed to `path` if the block succeeds, removed if it fails.

    An earlier folder at `path` stays whole and in its place until the new one is complete. It is replaced
    only if its file `manifest` says that it has the same `format`: a person's own files are never removed.

    Raises:
      UserError: `path` exists and is neither an empty folder nor one of this format; another command is writing it; the disk
        is full.
    """
    path = Path(path).absolute()
    check_replaceable(path, manifest=manifest, format=format)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    earlier = path.with_name(f".{path.name}.earlier-{os.getpid()}")
    try:
        with disk_errors(path), sole_writer(path):
            remove_left_behind(path.parent, path.name)
            _make(partial)
            yield partial
            if path.exists():
                path.rename(earlier)
            try:
                partial.rename(path)
            except OSError:
                if earlier.exists():
                    earlier.rename(path)
                raise
    except UserError as error:  # report the path that the user gave
        raise UserError(str(error).replace(str(partial), str(path))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Makes `target` a copy of the folder `source`, whole or not at all; what was there before is removed."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with disk_errors(target):
        remove_left_behind(target.parent, target.name)
        try:
            shutil.copytree(source, partial)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(path: Path, *, manifest: str, format: str) -> None:
    """Raises the `UserError` of `atomic_folder` where the folder `path` holds something else."""
    if path.exists() and not (path.is_dir() and (_has_format(path / manifest, format) or not any(path.iterdir()))):
        raise UserError(
            f"{path}: already exists and was not made by this command; choose another output folder, or remove this one"
        )


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable UTF-8 JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes each value as a line of UTF-8 JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array for `np.load`, whole or not at all."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def read_json(path: Path) -> Any:
    """Reads JSON; raises `UserError` where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        refuse_lfs_pointer(path)
        raise UserError(f"{path}: not valid JSON ({error})") from None


def refuse_lfs_pointer(path: Path) -> None:
    """Raises `UserError` if a file is what git leaves in its place where git-lfs is not installed."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"{path}: only a Git-LFS pointer, not the file itself; run `git lfs pull` in its folder")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_left_behind(folder: Path, name: str | None = None) -> None:
    """Removes what killed processes of this machine left in `folder` while they wrote: temporary files and folders.

    A folder that was just being replaced gets its name back, unless the new one has it already.

    Args:
      name: of the file or folder that was being written; None for all.
    """
    name = "*" if name is None else glob.escape(name)
    for earlier in filter(_is_of_dead_process, folder.glob(f".{name}.earlier-*")):
        path = earlier.with_name(earlier.name.removeprefix(".").rpartition(".earlier-")[0])
        if not path.exists():
            earlier.rename(path)
        shutil.rmtree(earlier, ignore_errors=True)
    for partial in filter(_is_of_dead_process, folder.glob(f".{name}.partial-*")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _is_of_dead_process(path: Path) -> bool:
    """Whether the process whose number ends the name has ended: nobody has the number now, or a younger process has it."""
    import psutil  # imported here: the benchmarks write files on machines without it

    number = path.name.rpartition("-")[2]
    try:
        return number.isdigit() and psutil.Process(int(number)).create_time() > path.lstat().st_mtime
    except psutil.NoSuchProcess:
        return True
    except (OSError, psutil.Error):
        return False


def _has_format(manifest: Path, format: str) -> bool:
    try:
        value = read_json(manifest)
    except UserError:
        return False
    return isinstance(value, dict) and value.get("format") == format


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder.parent}: no folder can be made here ({error.strerror})") from error
