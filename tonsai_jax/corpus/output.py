"""The output folder of a prepared dataset: documents, manifest, report."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.checksums import with_checksum
from tonsai_jax.corpus.documents import FORMAT, SETTINGS, VERSION
from tonsai_jax.corpus.notes import wrapping_in_words
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.report import write_report
from tonsai_jax.corpus.source_state import SourceState
from tonsai_jax.corpus.sources.source import Source, normalized_weights
from tonsai_jax.corpus.statistics import merged_samples
from tonsai_jax.corpus.writing import DROPPED
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, read_json, write_json

REPORT = "report.html"
CONTAMINATED = "contaminated.jsonl"


def check_output(output: Path, sources: Sequence[Source]) -> None:
    """Raises `UserError` if the folder holds anything but an earlier dataset, or if a source reads from it, now or next time."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output-dir must be a folder")
    for source in sources:
        folder = Path(source.path).expanduser().absolute() if source.path else None
        if folder in output.parents:
            raise UserError(
                f"{output}: lies in {source.path}, from which source {source.name!r} reads all files; choose another --output-dir"
            )
        for file in source.files():
            if output in file.absolute().parents:
                raise UserError(
                    f"{file}: source {source.name!r} reads from the output folder; choose another --output-dir"
                )
    contents = {entry.name for entry in output.iterdir()} if output.exists() else set()
    if not contents:
        return
    written: set[str] = set()
    if "manifest.json" in contents:
        manifest = read_json(output / "manifest.json")
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            written = {"manifest.json", REPORT, CONTAMINATED, DROPPED, *(manifest.get("sources") or ())}
    if contents - written:
        raise UserError(
            f"{output}: contains {min(contents - written)!r}, which this command did not write; choose a new or empty folder "
            "(only an earlier prepared dataset would be replaced)"
        )


def build_manifest(
    states: Sequence[SourceState],
    settings: Settings,
    *,
    groups: dict[str, Any] | None,
    set_texts: dict[str, Any],
    failed: dict[str, str],
) -> dict[str, Any]:
    """The manifest of a dataset.

    Args:
      groups: figures about duplicates from `describe_groups`; None if duplicates were not searched for.
      set_texts: counts of the texts of the evaluation sets.
      failed: {source that was left out: why}.
    """
    weights = normalized_weights([state.source for state in states])
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for name in SETTINGS:
        manifest[name] = dataclasses.asdict(getattr(settings, name))
    manifest["decontaminate"] |= set_texts
    manifest["sources"] = {
        state.source.name: {
            "weight": weights[state.source.name],
            "language": state.source.language,
            "license": state.source.license,
            "dataset": state.source.hf,
            "reading": _reading(state),
            "documents": state.written["statistics"]["documents"],
            "bytes": state.written["statistics"]["bytes"],
            "files": state.written["files"],
            "filters": state.sum_of("filters"),
            "changes": state.sum_of("changes"),
            "content_hash": state.written["content_hash"],
        }
        for state in states
    }
    if groups:
        manifest["duplicates"] = {name: groups[name] for name in ("clusters", "documents", "between")}
    if failed:
        manifest["failed"] = failed
    return manifest


def _reading(state: SourceState) -> str | None:
    """How the documents of a source were found in its files; None if each text, or each line of a txt file, is one."""
    reading = state.pieces[0].reading
    wrapping = wrapping_in_words([span for piece in state.pieces for span in piece.spans])
    return "; ".join(str(part) for part in (reading, wrapping) if part) or None


def write_output(
    output: Path,
    states: Sequence[SourceState],
    manifest: dict[str, Any],
    groups: dict[str, Any] | None,
    planned_tokens: float | None,
) -> None:
    """Puts the documents, the report and the manifest into `output`, all at once; an earlier dataset there is replaced.

    Args:
      groups: figures and examples of duplicates from `describe_groups`, for the report.
      planned_tokens: tokens of a planned run; the report shows its epochs.
    """
    details = {
        state.source.name: state.written["statistics"] | {"dropped": merged_samples(state.all_of("dropped"))}
        for state in states
    }
    with atomic_folder(output, manifest="manifest.json", format=FORMAT) as folder:
        for state in states:
            _link_files(state.written["files"] + state.written["dropped_files"], state.folder, folder)
        if manifest["decontaminate"]["files"]:
            found = [hit for state in states for hits in state.all_of("contaminated") for hit in hits]
            with (folder / CONTAMINATED).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(hit, ensure_ascii=False) + "\n" for hit in found)
        write_report(folder / REPORT, manifest, details, groups, planned_tokens)
        write_json(folder / "manifest.json", with_checksum(manifest))


def _link_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Puts files of one folder into another; copies them only where the file system cannot link."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)
