"""Raw text to prepared documents: read every source, clean it, write parquet and then the manifest.

Memory stays bounded (one row group of text), the same input gives the same documents and content hash, and
the output folder is whole or not there at all.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.documents import FORMAT, VERSION, DocumentWriter
from tonsai_jax.corpus.normalize import normalize
from tonsai_jax.corpus.readers import Errors, Faults
from tonsai_jax.corpus.sources import Source, normalized_weights
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json
from tonsai_jax.folders import atomic_folder
from tonsai_jax.text_progress import TextProgress

LARGEST_DOCUMENT = 2**30  # bytes; parquet cannot hold a value of 2 GiB


def prepare(
    sources: Sequence[Source], output_dir: Path | str, *, errors: Errors = "strict", progress: bool = True
) -> dict[str, Any]:
    """Writes the cleaned documents of `sources` to `output_dir` and returns their manifest.

    An earlier dataset in `output_dir` is replaced, and only once the new one is complete. `errors` says
    whether input that cannot be read stops the run ("strict") or is counted under `filters` in the manifest
    ("skip"). `progress` shows a line on stderr when that is a terminal.
    Raises `UserError` for sources that cannot be read or hold no document, weights that are all zero, a
    full disk, and an `output_dir` that holds anything but an earlier dataset.
    """
    output = Path(output_dir).absolute()
    weights = normalized_weights(list(sources))
    _check_output(output, sources)
    for source in sources:  # all before the first is written: a mistake in the last must not show after hours
        if source.documents is None:
            _check_first_text(source, errors)

    entries = {}
    # The readers report their own errors, so an OSError that arrives here comes from writing.
    with atomic_folder(output, manifest="manifest.json", format=FORMAT) as folder:
        for source in sources:
            with TextProgress(source.name, wanted=progress) as progress_line:
                entry = _write_source(source, folder, errors, progress_line)
            entries[source.name] = {"weight": weights[source.name], **entry}
        manifest = {"format": FORMAT, "version": VERSION, "sources": entries}
        write_json(folder / "manifest.json", manifest)
    return manifest


def _check_output(output: Path, sources: Sequence[Source]) -> None:
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
            written = {"manifest.json", *manifest["sources"]}
    if contents - written:
        raise UserError(
            f"{output}: holds {min(contents - written)!r}, which this command did not write; "
            "choose a new or empty folder (an earlier prepared dataset would be replaced)"
        )


def _check_first_text(source: Source, errors: Errors) -> None:
    faults = Faults(errors)
    if next(source.texts(faults), None) is None:
        raise UserError(f"source {source.name!r}: no document to read in {source.path or source.hf}{_in_words(faults)}")


def _write_source(source: Source, folder: Path, errors: Errors, progress_line: TextProgress) -> dict[str, Any]:
    faults = Faults(errors)
    faults.counts["empty"] = 0
    content = hashlib.sha256()
    documents = total = read = 0
    with DocumentWriter(folder, source=source.name, language=source.language) as writer:
        for read, raw in enumerate(source.texts(faults), start=1):
            text = normalize(raw)
            if not text:
                faults.counts["empty"] += 1
                continue
            encoded = text.encode("utf-8")
            size = len(encoded)
            if size > LARGEST_DOCUMENT:
                raise UserError(
                    f"source {source.name!r}: document {read} has {size / 1e9:.1f} GB, the limit is "
                    f"{LARGEST_DOCUMENT / 1e9:.1f} GB; for txt files set `document: line` or `paragraph`"
                )
            # The size goes in too, so that text moved from one document to the next changes the hash.
            content.update(size.to_bytes(8, "little") + encoded)
            writer.add(text, size, f"{source.name}/{read - 1}")
            documents += 1
            total += size
            progress_line.add(1, size)
    if not documents:
        raise UserError(f"source {source.name!r}: no document left of {read} read{_in_words(faults)}")
    return {
        "language": source.language,
        "license": source.license,
        "documents": documents,
        "bytes": total,
        "files": writer.files,
        "filters": dict(sorted(faults.counts.items())),
        "content_hash": content.hexdigest(),
    }


def _in_words(faults: Faults) -> str:
    dropped = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.counts.items()) if count)
    return f" (dropped: {dropped})" if dropped else ""


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is reported for each source: language, weight, documents, megabytes (10^6 bytes), dropped."""
    return {
        name: {
            "language": entry["language"],
            "weight": entry["weight"],
            "documents": entry["documents"],
            "megabytes": entry["bytes"] / 1e6,
            "dropped": sum(entry["filters"].values()),
        }
        for name, entry in manifest["sources"].items()
    }


def table(manifest: dict[str, Any]) -> str:
    """The figures as a table for people, followed by why documents were dropped."""
    width = max(len("source"), *(len(name) for name in manifest["sources"]))
    lines = [f"{'source':{width}}  language  weight    documents          MB  dropped"]
    for name, row in figures(manifest).items():
        lines.append(
            f"{name:{width}}  {row['language']:8}  {row['weight']:6.3f}  {row['documents']:11,}  "
            f"{row['megabytes']:10,.2f}  {row['dropped']:7,}"
        )
    for name, entry in manifest["sources"].items():
        reasons = [f"{count:,} {kind}" for kind, count in entry["filters"].items() if count]
        if reasons:
            lines.append(f"dropped from {name}: {', '.join(reasons)}")
    return "\n".join(lines)
