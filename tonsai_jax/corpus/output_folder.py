"""The folder of prepared documents: what lies in it beside them, and whether one that is there may be replaced."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tonsai_jax.corpus.documents import FORMAT
from tonsai_jax.corpus.sources import Source
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json

REPORT = "report.html"
CONTAMINATED = "contaminated.jsonl"
DROPPED = "dropped"  # the folder of what did not stay


def check_output(output: Path, sources: Sequence[Source]) -> None:
    """Raises `UserError` for a folder that holds anything but an earlier dataset, or from which a source reads."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output-dir must be a folder")
    for source in sources:
        for file in source.files():
            if output in file.absolute().parents:
                raise UserError(f"{file}: source {source.name!r} reads from the output folder; choose another folder")
    contents = {entry.name for entry in output.iterdir()} if output.exists() else set()
    if not contents:
        return
    written: set[str] = set()
    if "manifest.json" in contents:
        manifest = read_json(output / "manifest.json")
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            written = {"manifest.json", REPORT, CONTAMINATED, DROPPED, *manifest["sources"]}
    if contents - written:
        raise UserError(
            f"{output}: holds {min(contents - written)!r}, which this command did not write; "
            "choose a new or empty folder (an earlier prepared dataset would be replaced)"
        )


def link_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Puts files of one folder in a second place, without copying them where the file system can."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)
