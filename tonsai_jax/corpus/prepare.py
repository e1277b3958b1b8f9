"""Raw text to prepared documents: the stages in order.

The same input gives the same documents and content hashes, however the sources are cut into pieces and wherever the tasks run.
Finished results stay in a work folder next to the output, `.NAME.work`, until the output is complete. A run that was killed
continues from them; a result is used again only if its input, its settings and the code that computes it are unchanged. The
output folder appears complete or not at all.
"""

import dataclasses
import itertools
import json
import logging
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaning.clean import Clean, cleaned_bytes
from tonsai_jax.corpus.duplicates.exact import DuplicateGroups
from tonsai_jax.corpus.duplicates.groups import describe_groups
from tonsai_jax.corpus.intermediate import StoredPiece
from tonsai_jax.corpus.notes import notes
from tonsai_jax.corpus.output import build_manifest, check_output, write_output
from tonsai_jax.corpus.pipeline import Pipeline
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.source_state import FailedSources, SourceState, in_words
from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.source import Source, normalized_weights
from tonsai_jax.corpus.writing import SourcePieces, WriteSource
from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, disk_errors
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.sole_writer import sole_writer

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 2**20  # file bytes, as stored on disk, that one task reads
KEPT_BYTES = 2**20  # of text: when the command fails, less is not worth a hidden folder, as it takes a second
SMALL_BYTES = 16 * 2**20  # below this, one process is faster: worker processes take longer to start than to work


def prepare(
    sources: Sequence[Source],
    output_dir: Path | str,
    settings: Settings | None = None,
    *,
    planned_tokens: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the cleaned documents of `sources` and a report to `output_dir`, and returns their manifest.

    An earlier dataset in `output_dir` is replaced when the new one is complete. If `settings.on_error` is "skip", documents
    that cannot be read are counted under `filters` in the manifest, and sources that fail are left out and listed under
    `failed` with the reason.

    Args:
      planned_tokens: tokens of a planned training run; the report shows its epochs.
      progress: show the progress on stderr.

    Raises:
      UserError: a source cannot be read or has no document; all weights are zero; the disk is full; `output_dir` holds
        anything but an earlier dataset.
    """
    settings = settings or Settings()
    if planned_tokens is not None and not 0 < planned_tokens < math.inf:
        raise UserError(f"planned_tokens {planned_tokens:g} must be above 0: the number of tokens of the planned run")
    output = Path(output_dir).absolute()
    normalized_weights(list(sources))  # or its error
    failed = FailedSources(settings.on_error)
    for source in sources:  # first of all: a mistake in the last source must not show after hours
        if source.documents is None:
            with failed.catch(source):
                _check_source(source, settings.on_error)
    sources = failed.remaining(sources)
    check_output(output, sources)

    with disk_errors(output), sole_writer(output):
        return _prepare_or_keep(sources, failed, output, settings, planned_tokens, progress)


def _prepare_or_keep(
    sources: Sequence[Source],
    failed: FailedSources,
    output: Path,
    settings: Settings,
    planned_tokens: float | None,
    progress: bool,
) -> dict[str, Any]:
    """Removes the work folder at the end, unless the next run can go on from it."""
    work = output.with_name(f".{output.name}.work")
    try:
        manifest = _prepare(sources, failed, output, work, settings, planned_tokens, progress)
    except BaseException as error:
        is_kept = cleaned_bytes(work / "clean") >= KEPT_BYTES
        if not is_kept:
            shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, UserError):  # report the path that the user gave, not one in the work folder
            message = re.sub(re.escape(str(work)) + r"[^\s:]*", str(output), str(error))
            kept = f"; what is finished is kept in {work}, and the next run goes on from it" if is_kept else ""
            raise UserError(message + kept) from error
        raise
    if not failed.reasons:  # else the next run may continue from the finished results
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _prepare(
    sources: Sequence[Source],
    failed: FailedSources,
    output: Path,
    work: Path,
    settings: Settings,
    planned_tokens: float | None,
    progress: bool,
) -> dict[str, Any]:
    with disk_errors(output):
        work.mkdir(parents=True, exist_ok=True)
        sources = [_on_disk(source, work) for source in sources]
    states = []
    for source in sources:
        with failed.catch(source):
            states.append(SourceState(source, source.pieces(PIECE_BYTES)))

    with Engine(_executor(settings.executor, states), modules=(__name__,)) as engine:
        pipeline = Pipeline(work, engine, progress=progress)
        sets, set_texts = pipeline.index_sets(settings.decontaminate, settings.normalize)
        clean = Clean(
            settings.normalize, settings.redact, settings.quality, sets, settings.keep_dropped, settings.on_error
        )
        states = _clean(states, clean, pipeline, failed)
        if settings.deduplicate.lines:
            stripped = pipeline.strip_boilerplate([state.keys for state in states], settings.deduplicate.lines)
            for state, (stored, results) in zip(states, stripped, strict=True):
                state.stored = stored
                state.results.append(results)
        groups, described = DuplicateGroups(None, None, ()), None
        if settings.deduplicate.exact or settings.deduplicate.near:
            pieces = [piece for state in states for piece in state.stored]
            groups = pipeline.find_duplicates(pieces, settings.deduplicate)
            counts = [(state.source.name, len(state.stored)) for state in states]
            described = describe_groups(groups, pieces, counts, work)
        states = _write(states, groups, pipeline, settings, failed)

    manifest = build_manifest(states, settings, groups=described, set_texts=set_texts, failed=failed.reasons)
    write_output(output, states, manifest, described, planned_tokens)
    return manifest


def _clean(states: Sequence[SourceState], clean: Clean, pipeline: Pipeline, failed: FailedSources) -> list[SourceState]:
    """Cleans all pieces; returns the sources that have documents left."""
    for state in states:
        with failed.catch(state.source):
            state.keys = pipeline.piece_keys(clean, state.pieces)
    states = failed.remaining_states(states)
    tasks = [task for state in states for task in zip(state.keys, state.pieces, strict=True)]
    results = iter(pipeline.clean(clean, tasks))
    for state in states:
        state.results.append([next(results) for _ in state.pieces])
        state.stored = [StoredPiece("clean", key) for key in state.keys]
        with failed.catch(state.source):
            state.check_cleaned(clean.quality)
    return failed.remaining_states(states)


def _write(
    states: Sequence[SourceState],
    groups: DuplicateGroups,
    pipeline: Pipeline,
    settings: Settings,
    failed: FailedSources,
) -> list[SourceState]:
    """Writes the documents of each source that are kept; returns the sources that have documents left."""
    first = iter(groups.starts)
    sources = []
    for state in states:
        stages = [StoredPiece("clean", key) for key in state.keys]
        stages += [piece for piece in state.stored if piece.stage != "clean"]
        dropped = [piece._replace(key=f"{piece.key}.dropped") for piece in stages] if settings.keep_dropped else []
        pieces = tuple((piece, next(first, 0)) for piece in state.stored)
        sources.append(SourcePieces(state.source.name, state.source.language, pieces, tuple(dropped)))
    task = WriteSource(groups.exact, groups.near, settings.quality.is_active, settings.keep_dropped)
    sizes = [sum(state.all_of("bytes")) for state in states]
    for state, (folder, result) in zip(states, pipeline.write(task, sources, sizes), strict=True):
        state.folder, state.written = folder, result
        with failed.catch(state.source):
            state.check_written()
    return failed.remaining_states(states)


def _executor(executor: Executor, states: Sequence[SourceState]) -> Executor:
    """The executor that the settings name; with one worker if there is little to read and no network to wait for."""
    if executor.kind != "local" or executor.workers:
        return executor
    pieces = [piece for state in states for piece in state.pieces]
    is_local = all(piece.source.hf is None for piece in pieces)
    is_small = sum(span.size for piece in pieces for span in piece.spans) < SMALL_BYTES
    return dataclasses.replace(executor, workers=1) if is_local and is_small else executor


def _on_disk(source: Source, work: Path) -> Source:
    """The same source with its texts in a file, if they were in memory."""
    if source.documents is None:
        return source
    path = work / "given" / f"{source.name}.jsonl"
    with atomic_write(path) as partial, partial.open("w", encoding="ascii") as file:
        for text in source.documents:
            file.write(json.dumps({"text": text}) + "\n")
    if not path.stat().st_size:
        raise UserError(f"source {source.name!r}: no document given")
    return dataclasses.replace(source, documents=None, path=str(path), text_column="text")


def _check_source(source: Source, on_error: OnError) -> None:
    """Raises `UserError` if the source has no text to read; logs what is unusual about it."""
    faults = Faults(on_error)
    texts = source.texts(faults)
    first = next(texts, None)
    if first is None:
        where = source.path or source.hf
        raise UserError(f"source {source.name!r}: no document to read in {where}{in_words(faults.counts)}")
    for note in notes(source, itertools.chain([first], texts)):
        logger.warning("note: %s", note)
