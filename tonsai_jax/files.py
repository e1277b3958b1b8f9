"""Files that are either whole or absent: write beside the final name, then rename."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission or a file in the way of a folder into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"{path}: the disk is full; free some space or choose another folder, then run again"
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(f"{path}: no permission to write here; choose another folder") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UserError(
                f"{path}: no folder can be made here, a file is in the way; choose another folder"
            ) from error
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder; it becomes `path` when the block ends well, and is removed when it does not."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable UTF-8 JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


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
        raise UserError(f"{path}: not valid JSON ({error})") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
