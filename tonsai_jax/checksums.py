"""Checksums by which a reader notices that a file is not the one that was written: damaged, replaced or changed.

Three forms: a checksum inside a manifest, of the rest of it; a file with the SHA-256 of the other files of a folder; and the
SHA-256 of a sample of a large file, which is read in milliseconds however large the file is.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file, write_json

KEY = "checksum"  # in a manifest

_BLOCK, _BLOCKS = 64 * 2**10, 16
SAMPLE_BYTES = _BLOCK * _BLOCKS  # a file up to this size is read as a whole


def with_checksum(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same manifest with the key `checksum`: the SHA-256 of everything else in it, in hex."""
    return manifest | {KEY: _checksum(manifest)}


def check_checksum(path: Path, manifest: dict[str, Any], remedy: str) -> None:
    """Raises `UserError` where a manifest was changed after it was written. One without a checksum is an earlier version's.

    Args:
      path: its file, for the message.
      remedy: what to do, for the message: "prepare the dataset again".
    """
    if KEY in manifest and manifest[KEY] != _checksum(manifest):
        raise UserError(
            f"{path}: damaged, or changed since it was written (its checksum does not fit); {remedy}, or copy the file again; "
            f'if you changed it on purpose, remove the key "{KEY}" from it'
        )


def _checksum(manifest: dict[str, Any]) -> str:
    # As JSON reads it back: an integer key becomes text, a tuple a list.
    rest = json.loads(json.dumps({key: value for key, value in manifest.items() if key != KEY}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_sha256s(path: Path, files: Iterable[Path]) -> None:
    """Writes `{name: SHA-256}` of files that lie in the same folder as `path`, as JSON."""
    write_json(path, {file.name: sha256_file(file) for file in sorted(files)})


def check_sha256s(path: Path, remedy: str) -> None:
    """Raises `UserError` where a file that `path` names is missing or has changed. Without `path` nothing is checked."""
    if not path.is_file():
        return
    wanted = read_json(path)
    if not isinstance(wanted, dict):
        raise UserError(f"{path}: damaged, it does not hold the checksums of files; {remedy}")
    for name, checksum in wanted.items():
        # A name that leads elsewhere would be no danger, since the file is only read, but it is damage.
        file = path.parent / Path(name).name
        if file.name != name or not file.is_file():
            raise UserError(f"{file}: no such file, but {path.name} names it; {remedy}")
        if sha256_file(file) != checksum:
            raise UserError(
                f"{file}: damaged, or changed since it was written (its checksum in {path.name} does not fit); {remedy}; if you "
                f"changed it on purpose, remove {path.name}"
            )


def sample_sha256(path: Path) -> str:
    """SHA-256, in hex, of 16 blocks of 64 KiB evenly spread over a file; of the whole file up to `SAMPLE_BYTES`."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if size <= SAMPLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        for number in range(_BLOCKS):
            file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
