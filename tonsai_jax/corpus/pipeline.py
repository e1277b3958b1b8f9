"""The stages of text preparation: which task each stage runs, on which inputs, and what its results depend on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaning.boilerplate import FindBoilerplate, count_lines, strip_lines
from tonsai_jax.corpus.cleaning.clean import Clean, identity
from tonsai_jax.corpus.cleaning.decontaminate import Decontamination, index_sets
from tonsai_jax.corpus.duplicates.exact import Deduplication, DuplicateGroups, FindExactDuplicates
from tonsai_jax.corpus.duplicates.near import (
    BANDS,
    MatchBand,
    ResolveMatches,
    Signatures,
    compute_signatures,
    partition_count,
)
from tonsai_jax.corpus.intermediate import StoredPiece
from tonsai_jax.corpus.sources.lines import file_size
from tonsai_jax.corpus.sources.pieces import text_bytes
from tonsai_jax.corpus.sources.source import Piece
from tonsai_jax.corpus.writing import SourcePieces, WriteSource
from tonsai_jax.errors import UserError
from tonsai_jax.files import sha256_file
from tonsai_jax.jobs.cache import content_key, loaded_code_hash
from tonsai_jax.jobs.engine import Engine, Task
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.text.normalize import Normalization

# A result depends on its stage's version, the source of the modules that the task uses, and the inputs. Raise a version when
# results change although no module and no input does: another release of a library, for example.
STAGE_VERSIONS = {
    "contamination": 1,
    "clean": 1,
    "lines": 1,
    "boilerplate": 1,
    "stripped": 1,
    "duplicates": 1,
    "signed": 1,
    "matched": 1,
    "near": 1,
    "written": 1,
}

TASKS: tuple[Task | type, ...] = (
    index_sets, Clean, count_lines, FindBoilerplate, strip_lines, FindExactDuplicates, compute_signatures, MatchBand,
    ResolveMatches, WriteSource,
)  # fmt: skip

_Results = list[dict[str, Any]]


class Pipeline:
    """Runs the stages in a work folder, `{work}/{stage}`. Results that exist there are not computed again.

    Args:
      work: the work folder.
      engine: runs the tasks.
      progress: whether the progress of the stages that can take long is shown on stderr.
    """

    def __init__(self, work: Path, engine: Engine, *, progress: bool):
        self.work = work
        self._engine = engine
        self._progress = progress
        for task in TASKS:  # now, and not hours later when the files may have been edited
            loaded_code_hash(task.__module__)

    def key(self, stage: str, task: Task, *inputs: Any) -> str:
        """The name of the result of `task` in a stage. `inputs` are all values that the result depends on."""
        return content_key(stage, STAGE_VERSIONS[stage], loaded_code_hash(task.__module__), *inputs)

    def index_sets(self, sets: Decontamination, normalization: Normalization) -> tuple[str | None, dict[str, Any]]:
        """Writes the n-grams of the evaluation sets; returns the key of that result (None without sets) and counts of texts.

        Raises `UserError` if no text of the sets is long enough to be searched for.
        """
        if not sets.files:
            return None, {}
        hashes = [content_hash(path) for path in sets.paths()]
        key = self.key("contamination", index_sets, sets, normalization, hashes)
        (counts,) = self._run("contamination", index_sets, [(key, (sets, normalization))], "reading evaluation sets")
        if not counts["texts"]:
            raise UserError(
                f"decontaminate: every text of {', '.join(sets.files)} is too short to be searched for; set smaller values for "
                "`words` and `clusters`"
            )
        return key, counts

    def piece_keys(self, clean: Clean, pieces: Sequence[Piece]) -> list[str]:
        """The key of the cleaned form of each piece."""
        paths = sorted({span.path for piece in pieces for span in piece.spans})
        hashes = content_hashes(paths, progress=self._progress)
        lists = [content_hash(path) for path in clean.quality.files()]
        return [self.key("clean", clean, clean, lists, identity(piece, hashes)) for piece in pieces]

    def clean(self, clean: Clean, pieces: Sequence[tuple[str, Piece]]) -> _Results:
        """Cleans (key, piece) pairs; returns the result of each, or {"error": message} if `clean` skips errors."""
        is_known = all(piece.spans and piece.source.max_samples is None for _, piece in pieces)
        sizes = [text_bytes(piece.spans) for _, piece in pieces] if is_known and self._progress else []
        return self._run("clean", clean, pieces, "cleaning", stop=clean.on_error == "stop", sizes=sizes)

    def strip_boilerplate(
        self, sources: Sequence[Sequence[str]], documents: int
    ) -> list[tuple[list[StoredPiece], _Results]]:
        """Removes the lines that occur in at least `documents` documents of their source.

        `sources` has, for each source, the keys of its cleaned pieces. Returns, for each source, where its pieces are now
        and the results of `strip_lines`.
        """
        pieces = [key for keys in sources for key in keys]
        line_key = {key: self.key("lines", count_lines, key) for key in pieces}
        self._run("lines", count_lines, [(line_key[key], key) for key in pieces], "counting lines")
        find = FindBoilerplate(documents)
        counted = [tuple(line_key[key] for key in keys) for keys in sources]
        searches = [(self.key("boilerplate", find, find, keys), keys) for keys in counted]
        self._run("boilerplate", find, searches, "finding repeated lines")
        tasks = [
            (self.key("stripped", strip_lines, key, found), (key, found))
            for keys, (found, _) in zip(sources, searches, strict=True)
            for key in keys
        ]
        results = iter(self._run("stripped", strip_lines, tasks, "removing lines"))
        stored = iter([StoredPiece("stripped", key) for key, _ in tasks])
        return [([next(stored) for _ in keys], [next(results) for _ in keys]) for keys in sources]

    def find_duplicates(self, pieces: Sequence[StoredPiece], settings: Deduplication) -> DuplicateGroups:
        """Groups the duplicates among the documents of all pieces. The first document of a group, in this order, is kept."""
        stage = pieces[0].stage
        keys = tuple(piece.key for piece in pieces)
        find = FindExactDuplicates(stage)
        exact = self.key("duplicates", find, find, keys)
        (found,) = self._run("duplicates", find, [(exact, keys)], "finding duplicates")
        starts = tuple(found["starts"])
        if not settings.near:
            return DuplicateGroups(f"duplicates/{exact}", None, starts)
        signed = [(self.key("signed", compute_signatures, stage, key), (stage, key)) for key in keys]
        self._run("signed", compute_signatures, signed, "comparing")
        signatures = Signatures(tuple(key for key, _ in signed), starts)
        partitions = partition_count(starts[-1])
        match = MatchBand(signatures, exact, settings.similarity, partitions)
        matched = self.key("matched", match, match)
        matches = [(f"{matched}-{band}-{part}", (band, part)) for band in range(BANDS) for part in range(partitions)]
        self._run("matched", match, matches, "finding near-duplicates")
        resolve = ResolveMatches(signatures, exact, settings.similarity)
        match_keys = tuple(key for key, _ in matches)
        near = self.key("near", resolve, resolve, match_keys)
        self._run("near", resolve, [(near, match_keys)], "grouping near-duplicates")
        return DuplicateGroups(f"duplicates/{exact}", f"near/{near}", starts)

    def write(
        self, write: WriteSource, sources: Sequence[SourcePieces], sizes: Sequence[int] = ()
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Writes the documents of each source that are kept; returns the folder and the result of each.

        `sizes`: bytes of text of each source, about, for the progress.
        """
        tasks = [(self.key("written", write, write, source), source) for source in sources]
        results = self._run("written", write, tasks, "writing", sizes=sizes)
        return [(self.work / "written" / key, result) for (key, _), result in zip(tasks, results, strict=True)]

    def _run(
        self,
        stage: str,
        task: Task,
        tasks: Sequence[tuple[str, Any]],
        name: str | None = None,
        *,
        stop: bool = True,
        sizes: Sequence[int] = (),
    ) -> _Results:
        """Runs `task` for each (key, payload). `name` is what the progress calls the stage; `stop`: an error ends the stage."""
        progress = name if self._progress else None
        return self._engine.run(self.work / stage, task, tasks, stop_at_errors=stop, progress=progress, sizes=sizes)


def content_hashes(paths: Sequence[Path | str], *, progress: bool) -> dict[str, str]:
    """{path: `content_hash`} of input files. Raises `UserError` at the first that cannot be read.

    Args:
      progress: show the progress on stderr.
    """
    hashes = {}
    total = sum(map(file_size, paths))
    with progress_bar("looking for changes in the input", unit="B", total=total, wanted=progress) as bar:
        for path in paths:
            hashes[str(path)] = content_hash(path)
            bar.update(file_size(path))
    return hashes


def content_hash(path: Path | str) -> str:
    """SHA-256 of an input file, in hex. Raises `UserError` if the file cannot be read."""
    try:
        return sha256_file(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
