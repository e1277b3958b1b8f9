"""Raw text to prepared documents: clean every source in parallel pieces, drop what must go, write documents and a report.

The same input gives the same documents and content hash, however the work is cut and wherever it is done. What is finished
lies in a folder beside the output until the whole is: a run that was killed goes on from there, and a piece is taken again
only if its input, its settings and this program are what they were (a dataset of the Hub is known by its id). The output
folder is whole or not there at all.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaned import Stored
from tonsai_jax.corpus.cleaning.clean import Clean, identity
from tonsai_jax.corpus.documents import FORMAT, VERSION
from tonsai_jax.corpus.duplicates.exact import Leaders
from tonsai_jax.corpus.duplicates.groups import describe_clusters
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.report import write_report
from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.source import Piece, Source, normalized_weights
from tonsai_jax.corpus.stages import Stages, content_hash
from tonsai_jax.corpus.statistics import merged_samples
from tonsai_jax.corpus.writing import CONTAMINATED, REPORT, ToWrite, WriteSource, check_output, link_files
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, atomic_write, disk_errors, write_json
from tonsai_jax.jobs.engine import code_version

PIECE_BYTES = 64 * 2**20  # of files, as they lie on the disk, that one task reads
SMALL_BYTES = 16 * 2**20  # below this, processes take longer to start than to work


def prepare(
    sources: Sequence[Source],
    output_dir: Path | str,
    settings: Settings | None = None,
    *,
    planned_tokens: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the cleaned documents of `sources` to `output_dir`, a report beside them, and returns their manifest.

    An earlier dataset in `output_dir` is replaced, and only once the new one is complete. Where `settings` say that errors are
    to be skipped, documents that cannot be read are counted under `filters` in the manifest, and sources that fail are left
    out and named, with the reason, under `failed`. The report tells of the epochs of a run of `planned_tokens`. `progress`
    shows a line on stderr when that is a terminal.
    Raises `UserError` for sources that cannot be read or hold no document, weights that are all zero, a full disk, and an
    `output_dir` that holds anything but an earlier dataset.
    """
    settings = settings or Settings()
    if planned_tokens is not None and not 0 < planned_tokens < math.inf:
        raise UserError(f"--tokens {planned_tokens:g}: must be above 0, how many tokens a run is to train on")
    output = Path(output_dir).absolute()
    normalized_weights(list(sources))  # or the error
    failed: dict[str, str] = {}
    for source in sources:  # all before the first is cleaned: a mistake in the last must not show after hours
        if source.documents is None:
            with _left_out(source, failed, settings.on_error):
                _check_first_text(source, settings.on_error)
    sources = _without(sources, failed)
    check_output(output, sources)

    work = output.with_name(f".{output.name}.work")
    try:
        manifest = _prepare(sources, failed, output, work, settings, planned_tokens, progress)
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


@dataclasses.dataclass
class _Underway:
    """A source on its way through the stages: its pieces, and for each of them the results so far."""

    source: Source
    pieces: list[Piece]
    keys: list[str]
    results: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)  # by stage, then by piece
    stored: list[Stored] = dataclasses.field(default_factory=list)
    written: dict[str, Any] = dataclasses.field(default_factory=dict)

    def sum_of(self, name: str) -> dict[str, int]:
        """The counts of this name in all results, added up."""
        results = [*(result for stage in self.results for result in stage), self.written]
        counts: Counter[str] = Counter()
        for result in results:
            counts.update(result.get(name, {}))
        return {kind: counts[kind] for kind in sorted(counts)}

    def all_of(self, name: str) -> list[Any]:
        """What all results have under this name."""
        results = [*(result for stage in self.results for result in stage), self.written]
        return [result[name] for result in results if name in result]


def _prepare(
    sources: Sequence[Source],
    failed: dict[str, str],
    output: Path,
    work: Path,
    settings: Settings,
    planned_tokens: float | None,
    progress: bool,
) -> dict[str, Any]:
    with disk_errors(output):
        work.mkdir(parents=True, exist_ok=True)
        sources = [_on_disk(source, work) for source in sources]
    stages = Stages(work, code_version("corpus"), settings.executor, progress)
    sets, set_texts = stages.index_sets(settings.decontaminate, settings.normalize)
    clean = Clean(settings.normalize, settings.redact, settings.quality, sets, settings.keep_dropped, settings.on_error)
    underway = []
    for source in sources:
        with _left_out(source, failed, settings.on_error):
            underway.append(_cut(source, stages, clean))
    if settings.executor.kind == "local" and not settings.executor.workers and _is_small(underway):
        stages = dataclasses.replace(stages, executor=dataclasses.replace(settings.executor, workers=1))

    tasks = [task for one in underway for task in zip(one.keys, one.pieces, strict=True)]
    results = iter(stages.run("clean", clean, tasks, "cleaning", stop=settings.on_error == "stop"))
    for one in underway:
        one.results.append([next(results) for _ in one.pieces])
        one.stored = [Stored("clean", key) for key in one.keys]
        with _left_out(one.source, failed, settings.on_error):
            _check_cleaned(one)
    cleaned = _still_there(underway, failed)

    if settings.deduplicate.lines:
        stripped = stages.strip_boilerplate([one.keys for one in cleaned], settings.deduplicate.lines)
        for one, (stored, own) in zip(cleaned, stripped, strict=True):
            one.stored = stored
            one.results.append(own)
    leaders = Leaders(None, None, ())
    if settings.deduplicate.exact or settings.deduplicate.near:
        leaders = stages.find_duplicates([piece for one in cleaned for piece in one.stored], settings.deduplicate)
    clusters = None
    if leaders.exact:
        stored = [piece for one in cleaned for piece in one.stored]
        clusters = describe_clusters(leaders, stored, [(one.source.name, len(one.stored)) for one in cleaned], work)
    _write(cleaned, leaders, stages, settings)
    for one in cleaned:
        with _left_out(one.source, failed, settings.on_error):
            _check_written(one)
    cleaned = _still_there(cleaned, failed)

    manifest = _manifest(cleaned, settings)
    if clusters:
        manifest["duplicates"] = {name: clusters[name] for name in ("clusters", "documents", "between")}
    if settings.decontaminate.files:
        manifest["decontaminate"] |= set_texts
    if failed:
        manifest["failed"] = failed
    details = {
        one.source.name: one.written["statistics"] | {"dropped": merged_samples(one.all_of("dropped"))}
        for one in cleaned
    }
    with atomic_folder(output, manifest="manifest.json", format=FORMAT) as folder:
        for one in cleaned:
            link_files(one.written["files"] + one.written["dropped_files"], Path(one.written["folder"]), folder)
        if settings.decontaminate.files:
            found = [hit for one in cleaned for hits in one.all_of("contaminated") for hit in hits]
            with (folder / CONTAMINATED).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(hit, ensure_ascii=False) + "\n" for hit in found)
        write_report(folder / REPORT, manifest, details, clusters, planned_tokens)
        write_json(folder / "manifest.json", manifest)
    return manifest


def _cut(source: Source, stages: Stages, clean: Clean) -> _Underway:
    pieces = source.pieces(PIECE_BYTES)
    hashes = {path: content_hash(path) for path in {span.path for piece in pieces for span in piece.spans}}
    judged_by = [content_hash(path) for path in clean.quality.files()]
    return _Underway(source, pieces, [stages.key(clean, judged_by, identity(piece, hashes)) for piece in pieces])


def _write(cleaned: Sequence[_Underway], leaders: Leaders, stages: Stages, settings: Settings) -> None:
    """Writes the documents of each source that stay; puts the result in `written`, with the folder."""
    first = iter(leaders.starts or itertools.repeat(0))
    tasks = []
    for one in cleaned:
        dropped = [Stored("clean", key) for key in one.keys] + [piece for piece in one.stored if piece.stage != "clean"]
        dropped = [piece._replace(key=f"{piece.key}.dropped") for piece in dropped] if settings.keep_dropped else []
        pieces = tuple((piece, next(first)) for piece in one.stored)
        source = ToWrite(one.source.name, one.source.language, pieces, tuple(dropped))
        tasks.append((stages.key(dataclasses.asdict(source), leaders, settings.keep_dropped), source))
    task = WriteSource(leaders.exact, leaders.near, settings.quality.judges, settings.keep_dropped)
    for one, (key, _), result in zip(cleaned, tasks, stages.run("written", task, tasks, "writing"), strict=True):
        one.written = result | {"folder": str(stages.work / "written" / key)}


def _manifest(cleaned: Sequence[_Underway], settings: Settings) -> dict[str, Any]:
    weights = normalized_weights([one.source for one in cleaned])
    entries = {
        one.source.name: {
            "weight": weights[one.source.name],
            "language": one.source.language,
            "license": one.source.license,
            "reading": _reading(one.pieces[0]),
            "documents": one.written["statistics"]["documents"],
            "bytes": one.written["statistics"]["bytes"],
            "files": one.written["files"],
            "filters": one.sum_of("filters"),
            "changes": one.sum_of("changes"),
            "content_hash": one.written["content_hash"],
        }
        for one in cleaned
    }
    manifest = {"format": FORMAT, "version": VERSION}
    for name in ("normalize", "redact", "quality", "decontaminate", "deduplicate"):
        manifest[name] = dataclasses.asdict(getattr(settings, name))
    return manifest | {"sources": entries}


@contextlib.contextmanager
def _left_out(source: Source, failed: dict[str, str], on_error: OnError) -> Iterator[None]:
    """Where errors are to be skipped, notes why a source is left out instead of raising it."""
    try:
        yield
    except UserError as error:
        if on_error == "stop":
            raise
        failed[source.name] = str(error)


def _without(sources: Sequence[Source], failed: dict[str, str]) -> list[Source]:
    left = [source for source in sources if source.name not in failed]
    if not left:
        raise UserError("; ".join(failed.values()))
    return left


def _still_there(underway: Sequence[_Underway], failed: dict[str, str]) -> list[_Underway]:
    left = [source.name for source in _without([one.source for one in underway], failed)]
    return [one for one in underway if one.source.name in left]


def _check_cleaned(one: _Underway) -> None:
    (results,) = one.results
    for result in results:
        if "error" in result:
            raise UserError(result["error"])
    if not any(result["kept"] for result in results):
        read = sum(result["read"] for result in results)
        raise UserError(
            f"source {one.source.name!r}: no document left of {read} read{_in_words(one.sum_of('filters'))}"
        )


def _check_written(one: _Underway) -> None:
    if not one.written["files"]:
        raise UserError(
            f"source {one.source.name!r}: no document left{_in_words(one.sum_of('filters'))}: take it out of the sources, "
            "or put it before those that have the same documents"
        )


def _is_small(underway: Sequence[_Underway]) -> bool:
    """Whether there is little to read, and no network to wait for."""
    pieces = [piece for one in underway for piece in one.pieces]
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


def _check_first_text(source: Source, on_error: OnError) -> None:
    faults = Faults(on_error)
    if next(source.texts(faults), None) is None:
        raise UserError(
            f"source {source.name!r}: no document to read in {source.path or source.hf}{_in_words(faults.counts)}"
        )


def _in_words(counts: Mapping[str, int]) -> str:
    dropped = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()) if count)
    return f" (dropped: {dropped})" if dropped else ""
