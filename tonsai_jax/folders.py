"""Folders that are either whole or absent: fill one beside the final name, then rename."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json


@contextmanager
def atomic_folder(path: str | Path, *, manifest: str, format: str) -> Iterator[Path]:
    """Gives an empty folder beside `path`; it becomes `path` when the block ends well, else it is removed.

    An earlier folder at `path` stays whole and in its place until the new one is complete. It is replaced
    only if its file `manifest` says that it has the same `format`: a person's own files are never removed.

    Raises:
      UserError: `path` exists and is neither an empty folder nor one of this format; the disk is full.
    """
    path = Path(path).absolute()
    if path.exists() and not (path.is_dir() and (_has_format(path / manifest, format) or not any(path.iterdir()))):
        raise UserError(
            f"{path}: already exists and was not made by this command; choose another output folder, or remove this one"
        )
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    earlier = path.with_name(f".{path.name}.earlier-{os.getpid()}")
    try:
        with disk_errors(path):
            _remove_left_behind(path)
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
    except UserError as error:  # told of the folder that the user knows
        raise UserError(str(error).replace(str(partial), str(path))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def _remove_left_behind(path: Path) -> None:
    """Removes what a process that was killed left beside `path`."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        process = folder.name.rpartition("-")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


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
