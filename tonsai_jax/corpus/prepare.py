"""Raw text to prepared documents: clean every source in parallel pieces, join them, then write manifest and report.

The same input gives the same documents and content hash, however the work is cut and wherever it is done. What is finished
lies in a folder beside the output until the whole is: a run that was killed goes on from there, and a piece is taken again
only if its input, its settings and this program are what they were (a dataset of the Hub is known by its id). The output
folder is whole or not there at all.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.documents import FORMAT, VERSION
from tonsai_jax.corpus.duplicates import Deduplication, find_duplicates
from tonsai_jax.corpus.engine import Executor, code_version, content_key, run_stage
from tonsai_jax.corpus.faults import Errors, Faults
from tonsai_jax.corpus.normalize import Normalization
from tonsai_jax.corpus.parts import Clean, CleanedSource, identity, write_source
from tonsai_jax.corpus.report import write_report
from tonsai_jax.corpus.sources import Piece, Source, normalized_weights
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, disk_errors, read_json, sha256_file, write_json
from tonsai_jax.folders import atomic_folder

PIECE_BYTES = 64 * 2**20  # of files, as they lie on the disk, that one task reads
SMALL_BYTES = 16 * 2**20  # below this, processes take longer to start than to work
REPORT = "report.html"


def prepare(
    sources: Sequence[Source],
    output_dir: Path | str,
    *,
    normalization: Normalization | None = None,
    deduplication: Deduplication | None = None,
    executor: Executor | None = None,
    errors: Errors = "strict",
    planned_tokens: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the cleaned documents of `sources` to `output_dir`, a report beside them, and returns their manifest.

    An earlier dataset in `output_dir` is replaced, and only once the new one is complete. `errors` says whether input that
    cannot be read stops the run ("strict"), or documents are counted under `filters` in the manifest and sources left out,
    with the reason, under `failed` ("skip"). The report tells of the epochs of a run of `planned_tokens`. `progress` shows a
    line on stderr when that is a terminal.
    Raises `UserError` for sources that cannot be read or hold no document, weights that are all zero, a
    full disk, and an `output_dir` that holds anything but an earlier dataset.
    """
    output = Path(output_dir).absolute()
    normalized_weights(list(sources))  # or the error
    failed: dict[str, str] = {}
    for source in sources:  # all before the first is cleaned: a mistake in the last must not show after hours
        if source.documents is None:
            with _left_out(source, failed, errors):
                _check_first_text(source, errors)
    sources = _without(sources, failed)
    _check_output(output, sources)

    work = output.with_name(f".{output.name}.work")
    try:
        manifest = _prepare(
            sources,
            failed,
            output,
            work,
            Clean(normalization or Normalization(), errors),
            deduplication or Deduplication(),
            executor or Executor(),
            planned_tokens,
            progress,
        )
    except BaseException as error:
        finished = sum(file.stat().st_size for file in work.glob("clean/*.parquet"))
        if finished < SMALL_BYTES:  # made again in seconds: not worth a hidden folder
            shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, UserError):  # told of the folder that the user knows
            raise UserError(re.sub(re.escape(str(work)) + r"[^\s:]*", str(output), str(error))) from error
        raise
    if not failed:  # else the next run may go on from what is finished
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _prepare(
    sources: Sequence[Source],
    failed: dict[str, str],
    output: Path,
    work: Path,
    clean: Clean,
    deduplication: Deduplication,
    executor: Executor,
    planned_tokens: float | None,
    progress: bool,
) -> dict[str, Any]:
    with disk_errors(output):
        work.mkdir(parents=True, exist_ok=True)
        sources = [_on_disk(source, work) for source in sources]
    version = code_version()
    pieces: list[Piece] = []
    keys: list[str] = []
    for source in sources:
        with _left_out(source, failed, clean.errors):
            own = source.pieces(PIECE_BYTES)
            hashes = {path: _content_hash(path) for path in {span.path for piece in own for span in piece.spans}}
            keys += [content_key(version, clean, identity(piece, hashes)) for piece in own]
            pieces += own
    sources = _without(sources, failed)
    if executor.kind == "local" and not executor.workers and _is_small(pieces):
        executor = dataclasses.replace(executor, workers=1)
    cleaned = run_stage(
        work / "clean",
        clean,
        list(zip(keys, pieces, strict=True)),
        executor,
        stop_at_errors=clean.errors == "strict",
        progress="cleaning" if progress else None,
    )

    numbers: dict[str, list[int]] = {source.name: [] for source in sources}  # of the pieces of each
    for number, piece in enumerate(pieces):
        numbers[piece.source.name].append(number)
    for source in sources:
        with _left_out(source, failed, clean.errors):
            _check_cleaned(source, [cleaned[number] for number in numbers[source.name]])
    sources = _without(sources, failed)

    first_of: dict[int, tuple[str, int]] = {}
    if deduplication.exact:
        in_order = [number for source in sources for number in numbers[source.name]]
        key = content_key(version, [keys[number] for number in in_order])
        task = (key, tuple(keys[number] for number in in_order))
        (found,) = run_stage(work / "duplicates", find_duplicates, [task], executor)
        first_of = {number: (key, start) for number, start in zip(in_order, found["starts"], strict=True)}

    to_write = []
    for source in sources:
        cleaned_pieces = tuple((keys[number], first_of.get(number)) for number in numbers[source.name])
        whole = CleanedSource(source.name, source.language, cleaned_pieces)
        to_write.append((content_key(version, dataclasses.asdict(whole)), whole))
    written = run_stage(work / "written", write_source, to_write, executor, progress="writing" if progress else None)

    weights = normalized_weights(list(sources))
    entries, details = {}, {}
    for source, result in zip(sources, written, strict=True):
        if not result["files"]:
            raise UserError(
                f"source {source.name!r}: every document is a duplicate of an earlier one's; take it out of the sources"
            )
        entries[source.name] = {
            "weight": weights[source.name],
            "language": source.language,
            "license": source.license,
            "reading": _reading(pieces[numbers[source.name][0]]),
            "documents": result["statistics"]["documents"],
            "bytes": result["statistics"]["bytes"],
            "files": result["files"],
            "filters": _sum_of([*(cleaned[number]["filters"] for number in numbers[source.name]), result["filters"]]),
            "content_hash": result["content_hash"],
        }
        details[source.name] = result["statistics"]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "normalize": dataclasses.asdict(clean.normalization),
        "deduplicate": dataclasses.asdict(deduplication),
        "sources": entries,
    }
    if failed:
        manifest["failed"] = failed
    with atomic_folder(output, manifest="manifest.json", format=FORMAT) as folder:
        for (key, _), result in zip(to_write, written, strict=True):
            for name in result["files"]:
                _link(work / "written" / key / name, folder / name)
        write_report(folder / REPORT, manifest, details, planned_tokens)
        write_json(folder / "manifest.json", manifest)
    return manifest


@contextlib.contextmanager
def _left_out(source: Source, failed: dict[str, str], errors: Errors) -> Iterator[None]:
    """Where errors are to be skipped, notes why a source is left out instead of raising it."""
    try:
        yield
    except UserError as error:
        if errors == "strict":
            raise
        failed[source.name] = str(error)


def _without(sources: Sequence[Source], failed: dict[str, str]) -> list[Source]:
    left = [source for source in sources if source.name not in failed]
    if not left:
        raise UserError("; ".join(failed.values()))
    return left


def _check_cleaned(source: Source, results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        if "error" in result:
            raise UserError(result["error"])
    if not any(result["kept"] for result in results):
        read = sum(result["read"] for result in results)
        filters = _sum_of([result["filters"] for result in results])
        raise UserError(f"source {source.name!r}: no document left of {read} read{_in_words(filters)}")


def _content_hash(path: str) -> str:
    try:
        return sha256_file(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _is_small(pieces: Sequence[Piece]) -> bool:
    """Whether there is little to read, and no network to wait for."""
    local = all(piece.source.hf is None for piece in pieces)
    return local and sum(span.size for piece in pieces for span in piece.spans) < SMALL_BYTES


def _reading(piece: Piece) -> str | None:
    """Which fields were read and why; None where the files have none."""
    return None if piece.reading is None else str(piece.reading)


def _on_disk(source: Source, work: Path) -> Source:
    """The same source, its texts in a file if they were in memory."""
    if source.documents is None:
        return source
    path = work / "given" / f"{source.name}.jsonl"
    with atomic_write(path) as partial, partial.open("w", encoding="ascii") as file:
        for text in source.documents:
            file.write(json.dumps({"text": text}) + "\n")
    if not path.stat().st_size:
        raise UserError(f"source {source.name!r}: no document given")
    return dataclasses.replace(source, documents=None, path=str(path), text_column="text")


def _link(source: Path, target: Path) -> None:
    """Puts a file in a second place without copying it, where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sum_of(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count.get(name, 0) for count in counts) for name in sorted(set().union(*counts))}


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
            written = {"manifest.json", REPORT, *manifest["sources"]}
    if contents - written:
        raise UserError(
            f"{output}: holds {min(contents - written)!r}, which this command did not write; "
            "choose a new or empty folder (an earlier prepared dataset would be replaced)"
        )


def _check_first_text(source: Source, errors: Errors) -> None:
    faults = Faults(errors)
    if next(source.texts(faults), None) is None:
        raise UserError(
            f"source {source.name!r}: no document to read in {source.path or source.hf}{_in_words(faults.counts)}"
        )


def _in_words(counts: Mapping[str, int]) -> str:
    dropped = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()) if count)
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
        if entry["reading"]:
            lines.append(f"{name} {entry['reading']}")
        reasons = [f"{count:,} {kind}" for kind, count in entry["filters"].items() if count]
        if reasons:
            lines.append(f"dropped from {name}: {', '.join(reasons)}")
    return "\n".join(lines)
