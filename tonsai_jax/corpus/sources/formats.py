"""Which files are read: their formats by the end of their names, and the search in folders and globs."""

import glob
import os
from pathlib import Path

from tonsai_jax.corpus.sources.lines import COMPRESSIONS
from tonsai_jax.errors import UserError

WITH_FIELDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
FORMATS = (".txt", ".wet", ".warc", *WITH_FIELDS)
FORMATS_IN_WORDS = f".txt, .json, .jsonl, .csv, .tsv, .wet, .warc (each also {' or '.join(COMPRESSIONS)}) and .parquet"


def find_files(location: str) -> list[Path]:
    """Lists, sorted, the files at a path: a file, a folder (with all folders in it) or a glob.

    Hidden files and folders are left out, and in a folder also .json files next to files of another format: they describe those.
    Raises `UserError` if there is nothing to read.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        known = _known_files(path)
        files = [file for file in known if not _is_json(file)] or known
        if not files:
            raise UserError(f"{location}: this folder has no file that can be read; known formats: {FORMATS_IN_WORDS}")
    elif path.exists():
        files = [path]
    elif glob.has_magic(location):
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not files:
            raise UserError(f"{location}: no file matches this pattern")
    else:
        raise UserError(f"{location}: no such file or folder")
    for file in files:
        if not file_format(file):
            raise UserError(f"{file}: unknown file format; known formats: {FORMATS_IN_WORDS}")
    return sorted(files)


def unread_json_files(location: str) -> list[Path]:
    """The .json files at a path that `find_files` leaves out."""
    path = Path(location).expanduser()
    known = _known_files(path) if path.is_dir() else []
    json_files = [file for file in known if _is_json(file)]
    return json_files if len(json_files) < len(known) else []


def _known_files(folder: Path) -> list[Path]:
    """The files of a known format in a folder and in all folders in it, without the hidden ones."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return [file for file in visible if file_format(file)]


def _is_json(path: Path) -> bool:
    return file_format(path) == ".json"


def file_format(path: Path) -> str | None:
    """The format of a file, such as ".jsonl" for `a.jsonl.gz`; None if it is unknown."""
    name = path.name.lower()
    inner = name.removesuffix(".gz").removesuffix(".zst")
    ending = Path(inner).suffix
    if ending not in FORMATS or (ending == ".parquet" and inner != name):
        return None
    return ending
