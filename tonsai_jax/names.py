"""Names that come from a file and become paths: they stay in the folder they belong to."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from tonsai_jax.errors import UserError

_LONGEST = 128  # characters; most file systems allow 255 bytes in a name


def is_folder_name(name: Any) -> bool:
    """Whether a name can be that of a folder on every system: letters, digits, `-`, `_` and `.`, with no `.` or `-` in front."""
    return isinstance(name, str) and len(name) <= _LONGEST and re.fullmatch(r"\w[\w.-]*", name) is not None


def file_inside(folder: Path, name: Any, manifest: Path) -> Path:
    """The file `name` of a folder, as a manifest gives it: relative, with `/`.

    Raises `UserError` for a name that is absolute, has `..` in it, or cannot be that of a file. A link that the folder's owner
    made is followed: the check is of what the manifest says.
    """
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    strange = not isinstance(name, str) or "\0" in name or "\\" in name
    if strange or not path.parts or path.is_absolute() or ".." in path.parts or path.as_posix() != name:
        raise UserError(
            f"{manifest}: names the file {name!r}, which is not a file inside {folder}; do not use this folder, or make it again"
        )
    return folder / path
