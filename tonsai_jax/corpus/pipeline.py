"""The stages of preparing text behind the reading: which task runs over what, and what each result depends on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.corpus.cleaned import Stored
from tonsai_jax.corpus.cleaning.boilerplate import FindBoilerplate, count_lines, strip_lines
from tonsai_jax.corpus.cleaning.decontaminate import Decontamination, index_sets
from tonsai_jax.corpus.duplicates.exact import Deduplication, FindDuplicates, Leaders
from tonsai_jax.corpus.duplicates.near import BANDS, Match, Resolve, Signed, match_parts, sign
from tonsai_jax.errors import UserError
from tonsai_jax.files import sha256_file
from tonsai_jax.jobs.engine import Executor, Task, content_key, run_stage
from tonsai_jax.text.normalize import Normalization


@dataclasses.dataclass(frozen=True)
class Stages:
    """Runs stages in a work folder; what is there already is not done again.

    Attributes:
      version: of this program's code, on which every result depends.
      progress: whether a line on stderr tells how far a stage is.
    """

    work: Path
    version: str
    executor: Executor
    progress: bool

    def key(self, *parts: Any) -> str:
        """The name of a result that depends on `parts`."""
        return content_key(self.version, *parts)

    def run(
        self, stage: str, task: Task, tasks: Sequence[tuple[str, Any]], name: str | None = None, *, stop: bool = True
    ) -> list[dict[str, Any]]:
        """Runs `task` for each (key, payload); `name` is what the progress calls it, `stop` whether errors end the stage."""
        shown = name if self.progress else None
        return run_stage(self.work / stage, task, tasks, self.executor, stop_at_errors=stop, progress=shown)

    def index_sets(self, sets: Decontamination, normalization: Normalization) -> tuple[str | None, dict[str, Any]]:
        """The key of the n-grams of the evaluation sets, None where there are none, and how many texts they have."""
        if not sets.files:
            return None, {}
        hashes = [content_hash(path) for path in sets.paths()]
        key = self.key(sets, normalization, hashes)
        (counts,) = self.run("contamination", index_sets, [(key, (sets, normalization))])
        if not counts["texts"]:
            raise UserError(
                f"decontaminate: no text of {', '.join(sets.files)} is long enough to be found; set `words` and `clusters` lower"
            )
        return key, counts

    def strip_boilerplate(
        self, sources: Sequence[Sequence[str]], documents: int
    ) -> list[tuple[list[Stored], list[dict[str, Any]]]]:
        """Takes the lines out that stand in `documents` documents of their source.

        `sources` has the keys of the cleaned pieces of each. Returns, for each, where the pieces are now and the results of
        `strip_lines`.
        """
        every = [key for keys in sources for key in keys]
        self.run("lines", count_lines, [(key, key) for key in every], "counting lines")
        searches = [(self.key(keys, documents), tuple(keys)) for keys in sources]
        self.run("boilerplate", FindBoilerplate(documents), searches)
        tasks = [
            (self.key(key, found), (key, found))
            for keys, (found, _) in zip(sources, searches, strict=True)
            for key in keys
        ]
        results = iter(self.run("stripped", strip_lines, tasks, "taking out lines"))
        stored = iter([Stored("stripped", key) for key, _ in tasks])
        return [([next(stored) for _ in keys], [next(results) for _ in keys]) for keys in sources]

    def find_duplicates(self, pieces: Sequence[Stored], settings: Deduplication) -> Leaders:
        """Finds the duplicates among all documents; of those that are equal or alike the first in this order stays."""
        stage = pieces[0].stage
        keys = tuple(piece.key for piece in pieces)
        exact = self.key("exact", keys)
        (found,) = self.run("duplicates", FindDuplicates(stage), [(exact, keys)])
        starts = tuple(found["starts"])
        if not settings.near:
            return Leaders(f"duplicates/{exact}", None, starts)
        self.run("signed", sign, [(key, (stage, key)) for key in keys], "comparing")
        signed = Signed(keys, starts)
        parts = match_parts(starts[-1])
        near = self.key("near", exact, settings.similarity, parts)
        matches = [(f"{near}-{band}-{part}", (band, part)) for band in range(BANDS) for part in range(parts)]
        match = Match(signed, exact, settings.similarity, parts)
        self.run("matched", match, matches, "finding near-duplicates")
        resolve = Resolve(signed, exact, settings.similarity)
        self.run("near", resolve, [(near, tuple(key for key, _ in matches))])
        return Leaders(f"duplicates/{exact}", f"near/{near}", starts)


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file that is to be read; raises `UserError` where it cannot be."""
    try:
        return sha256_file(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
