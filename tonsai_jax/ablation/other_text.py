"""Text of another domain than the training text: the complete runs are scored on it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tonsai_jax.ablation.plan import PlannedRun
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.documents.text_sources import text_sources
from tonsai_jax.files import read_json, sha256_file
from tonsai_jax.jobs.cache import content_key


@dataclass(frozen=True)
class OtherText:
    """The files of `--text`.

    Attributes:
      words: as a person types them after --text: ("km=news.txt", "en=books.txt").
      key: a name for the files and their content; figures of other text are never taken for those of this one.
    """

    words: tuple[str, ...]
    key: str

    @classmethod
    def of(cls, words: Sequence[str]) -> "OtherText":
        """Reads the files once, so that a mistake is found before hours of training.

        Raises `UserError` for a language or a file that does not exist, and for a file that cannot be read or has no text.
        """
        sources = text_sources(words)
        files = [(source.language, path) for source in sources for path in source.files()]
        for piece in (piece for source in sources for piece in source.by_file()):
            if not sum(bool(text.strip()) for _, text in piece.documents(Faults(can_skip=False))):
                raise UserError(f"--text: {piece.spans[0].path}: there is no text in this file")
        return cls(tuple(words), content_key([(language, str(path), sha256_file(path)) for language, path in files]))

    def command(self, run: PlannedRun) -> tuple[str, ...]:
        """Scores the last checkpoint of a run, and writes the figures to `file`."""
        words = ("--workdir", str(run.workdir), "--text", *self.words, "--json", str(self.file(run)))
        return (sys.executable, "-m", "tonsai_jax", "evaluate", *words)

    def file(self, run: PlannedRun) -> Path:
        """Where the figures of a run are, apart from those of other text."""
        return run.workdir / f"text-{self.key}.json"

    def bits_per_byte(self, run: PlannedRun) -> dict[str, float] | None:
        """{language: bits per byte} of the last checkpoint of a run; None if it was not scored yet.

        Raises `UserError` for a file of something else.
        """
        file = self.file(run)
        if not file.is_file():
            return None
        try:
            content = read_json(file)
            if content["step"] != run.total_steps:
                return None
            scores = [score for score in content["scores"] if score["kind"] == "language" and score["length"] is None]
            return {score["name"]: score["bits_per_byte"] for score in scores}
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{file}: not the scores of an evaluation ({error!r}); delete it and run this again"
            ) from None
