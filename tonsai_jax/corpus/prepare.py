"""Raw text to prepared documents: clean every source in parallel parts, join the parts, then write manifest and report.

The same input gives the same documents and content hash, however the work is cut and wherever it is done. What is finished
lies in a folder beside the output until the whole is: a run that was killed goes on from there, and a part is taken again
only if its input, its settings and this program are what they were. The output folder is whole or not there at all.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.documents import FORMAT, ROW_GROUP_BYTES, VERSION, DocumentWriter
from tonsai_jax.corpus.engine import Executor, code_version, content_key, run_stage
from tonsai_jax.corpus.normalize import Normalization, normalize
from tonsai_jax.corpus.readers import Errors, Faults
from tonsai_jax.corpus.report import write_report
from tonsai_jax.corpus.sources import Source, normalized_weights
from tonsai_jax.corpus.statistics import Statistics
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, disk_errors, read_json, sha256_file, write_json
from tonsai_jax.folders import atomic_folder

LARGEST_DOCUMENT = 2**30  # bytes; parquet cannot hold a value of 2 GiB
PART_BYTES = 64 * 2**20  # of files, as they lie on the disk, that one task reads
SMALL_BYTES = 16 * 2**20  # below this, processes take longer to start than to work
REPORT = "report.html"


def prepare(
    sources: Sequence[Source],
    output_dir: Path | str,
    *,
    normalization: Normalization | None = None,
    executor: Executor | None = None,
    errors: Errors = "strict",
    planned_tokens: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the cleaned documents of `sources` to `output_dir`, a report beside them, and returns their manifest.

    An earlier dataset in `output_dir` is replaced, and only once the new one is complete. `errors` says
    whether input that cannot be read stops the run ("strict") or is counted under `filters` in the manifest
    ("skip"). The report tells of the epochs of a run of `planned_tokens`. `progress` shows a line on stderr when that is a
    terminal.
    Raises `UserError` for sources that cannot be read or hold no document, weights that are all zero, a
    full disk, and an `output_dir` that holds anything but an earlier dataset.
    """
    output = Path(output_dir).absolute()
    weights = normalized_weights(list(sources))
    _check_output(output, sources)
    for source in sources:  # all before the first is cleaned: a mistake in the last must not show after hours
        if source.documents is None:
            _check_first_text(source, errors)

    work = output.with_name(f".{output.name}.work")
    try:
        manifest = _prepare(
            sources,
            weights,
            output,
            work,
            _Clean(normalization or Normalization(), errors),
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
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _prepare(
    sources: Sequence[Source],
    weights: dict[str, float],
    output: Path,
    work: Path,
    clean: "_Clean",
    executor: Executor,
    planned_tokens: float | None,
    progress: bool,
) -> dict[str, Any]:
    with disk_errors(output):
        work.mkdir(parents=True, exist_ok=True)
        sources = [_on_disk(source, work) for source in sources]
    parts = [part for source in sources for part in _parts(source)]
    if executor.kind == "local" and not executor.workers and _total_bytes(parts) < SMALL_BYTES:
        executor = dataclasses.replace(executor, workers=1)
    version = code_version()
    keys = [content_key(version, clean, part.identity()) for part in parts]
    cleaned = run_stage(
        work / "clean", clean, list(zip(keys, parts, strict=True)), executor, progress="cleaning" if progress else None
    )

    joins = []
    for source in sources:
        own = [n for n, part in enumerate(parts) if part.source.name == source.name]
        join = _Join(source.name, source.language, tuple((keys[n], cleaned[n]["read"]) for n in own))
        joins.append((content_key(version, dataclasses.asdict(join)), join))
        filters = _sum_of([cleaned[n]["filters"] for n in own])
        if not sum(cleaned[n]["kept"] for n in own):
            read = sum(cleaned[n]["read"] for n in own)
            raise UserError(f"source {source.name!r}: no document left of {read} read{_in_words(filters)}")
    joined = run_stage(work / "join", _join, joins, executor, progress="writing" if progress else None)

    entries, details = {}, {}
    for source, result in zip(sources, joined, strict=True):
        own = [n for n, part in enumerate(parts) if part.source.name == source.name]
        entries[source.name] = {
            "weight": weights[source.name],
            "language": source.language,
            "license": source.license,
            "documents": result["statistics"]["documents"],
            "bytes": result["statistics"]["bytes"],
            "files": result["files"],
            "filters": _sum_of([cleaned[n]["filters"] for n in own]),
            "content_hash": result["content_hash"],
        }
        details[source.name] = result["statistics"]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "normalize": dataclasses.asdict(clean.normalization),
        "sources": entries,
    }
    with atomic_folder(output, manifest="manifest.json", format=FORMAT) as folder:
        for (key, _), result in zip(joins, joined, strict=True):
            for name in result["files"]:
                _link(work / "join" / key / name, folder / name)
        write_report(folder / REPORT, manifest, details, planned_tokens)
        write_json(folder / "manifest.json", manifest)
    return manifest


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one task reads: some files of a source, or the whole of it (no files)."""

    source: Source
    files: tuple[Path, ...]

    def identity(self) -> dict[str, Any]:
        """What the documents of this part depend on."""
        reading = {key: value for key, value in vars(self.source).items() if key not in ("path", "weight", "license")}
        return {**reading, "files": [(file.name, sha256_file(file)) for file in self.files]}

    def texts(self, faults: Faults) -> Iterator[str]:
        return self.source.texts(faults, self.files or None)


def _parts(source: Source) -> list[_Part]:
    """A source cut between its files; one that is read in part only stays whole."""
    files = source.files()
    if not files or source.max_samples is not None:
        return [_Part(source, tuple(files))]
    parts: list[list[Path]] = [[]]
    size = 0
    for file in files:
        if parts[-1] and size + file.stat().st_size > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(file)
        size += file.stat().st_size
    return [_Part(source, tuple(part)) for part in parts]


def _total_bytes(parts: Sequence[_Part]) -> float:
    if not all(part.files for part in parts):
        return float("inf")  # over the network: nobody knows
    return sum(file.stat().st_size for part in parts for file in part.files)


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


@dataclasses.dataclass(frozen=True)
class _Clean:
    """The task that reads and cleans one part; its texts go to `{key}.parquet`, with their places among those read."""

    normalization: Normalization
    errors: Errors

    def __call__(self, part: _Part, path: Path) -> dict[str, Any]:
        faults = Faults(self.errors)
        faults.counts["empty"] = 0
        read = kept = 0
        schema = pa.schema([("text", pa.string()), ("place", pa.int64())])
        with (
            atomic_write(path.with_suffix(".parquet")) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=False) as writer,
        ):
            texts: list[str] = []
            places: list[int] = []
            waiting = 0
            for read, raw in enumerate(part.texts(faults), start=1):
                text = normalize(raw, self.normalization)
                if not text:
                    faults.counts["empty"] += 1
                    continue
                size = len(text.encode("utf-8"))
                if size > LARGEST_DOCUMENT:
                    raise UserError(
                        f"source {part.source.name!r}: document {read} has {size / 1e9:.1f} GB, the limit is "
                        f"{LARGEST_DOCUMENT / 1e9:.1f} GB; for txt files set `document: line` or `paragraph`"
                    )
                if texts and waiting + size > ROW_GROUP_BYTES:
                    writer.write_table(pa.table([texts, places], schema=schema))
                    texts, places, waiting = [], [], 0
                texts.append(text)
                places.append(read - 1)
                waiting += size
                kept += 1
            if texts:
                writer.write_table(pa.table([texts, places], schema=schema))
        return {"read": read, "kept": kept, "filters": dict(sorted(faults.counts.items()))}


@dataclasses.dataclass(frozen=True)
class _Join:
    """The cleaned parts of one source: their keys, and how many documents were read in each."""

    source: str
    language: str
    parts: tuple[tuple[str, int], ...]


def _join(join: _Join, path: Path) -> dict[str, Any]:
    """The task that writes one source's documents as they stay, under `path`."""
    statistics = Statistics()
    content = hashlib.sha256()
    shutil.rmtree(path, ignore_errors=True)
    with disk_errors(path):
        path.mkdir(parents=True)
        first = 0
        with DocumentWriter(path, source=join.source, language=join.language) as writer:
            for key, read in join.parts:
                for text, place in _cleaned(path.parent.parent / "clean" / f"{key}.parquet"):
                    encoded = text.encode("utf-8")
                    size = len(encoded)
                    document_id = f"{join.source}/{first + place}"
                    # The size goes in too, so that text moved from one document to the next changes the hash.
                    content.update(size.to_bytes(8, "little") + encoded)
                    statistics.add(document_id, text, size)
                    writer.add(text, size, document_id)
                first += read
    return {"files": writer.files, "content_hash": content.hexdigest(), "statistics": statistics.as_json()}


def _cleaned(path: Path) -> Iterator[tuple[str, int]]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield from zip(table.column("text").to_pylist(), table.column("place").to_pylist(), strict=True)


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
        reasons = [f"{count:,} {kind}" for kind, count in entry["filters"].items() if count]
        if reasons:
            lines.append(f"dropped from {name}: {', '.join(reasons)}")
    return "\n".join(lines)
