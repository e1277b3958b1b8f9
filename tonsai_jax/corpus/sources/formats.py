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
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        known = [file for file in visible if file_format(file)]
        files = [file for file in known if file_format(file) != ".json"] or known
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


def file_format(path: Path) -> str | None:
    """The format of a file, such as ".jsonl" for `a.jsonl.gz`; None if it is unknown."""
    name = path.name.lower()
    inner = name.removesuffix(".gz").removesuffix(".zst")
    ending = Path(inner).suffix
    if ending not in FORMATS or (ending == ".parquet" and inner != name):
        return None
    return ending
