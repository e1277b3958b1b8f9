"""Scores the documents of any text files: those that `tonsai prepare` can read, cut into documents as it does."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from tonsai_jax.corpus.notes import notes
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.lines import COMPRESSIONS
from tonsai_jax.corpus.sources.source import Piece, Source
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import Score
from tonsai_jax.evaluation.documents.breakdown import Breakdown, Documents
from tonsai_jax.evaluation.documents.scorer import DocumentScorer
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.progress_bar import progress_bar

_ADDED_AT_ONCE = 4096  # scores of documents that are kept before they are added up


def score_texts(scorer: DocumentScorer, sources: Sequence[Source], note: Callable[[str], None]) -> Breakdown:
    """Scores every document of local sources, by language and by file.

    Args:
      note: called with a line about each file that may not be what the user thinks: hard-wrapped, in the script of another
        language, with documents that have no text.

    Raises `UserError` for a file that is empty, not UTF-8 or given twice, or that cannot be read; nothing is left out silently.
    """
    pieces = [(source.language, piece) for source in sources for piece in source.by_file()]
    for path, count in Counter(piece.spans[0].path for _, piece in pieces).items():
        if count > 1:
            raise UserError(f"--text: {path} is given {count} times; its documents would count more than once")
    for line in chain.from_iterable(notes(source, ()) for source in sources):
        note(line)
    found = Breakdown("file")
    without_text: Counter[str] = Counter()
    first_documents: list[int] = []  # the number of the first document of each piece, counted over all pieces

    def texts() -> Iterator[str]:
        number = 0
        for _, piece in pieces:
            first_documents.append(number)
            for text in _texts(piece):
                number += 1
                without_text[piece.spans[0].path] += not text.strip()
                yield text

    sizes = [span.size for _, piece in pieces for span in piece.spans if _holds_only_text(span.path)]
    total = sum(sizes) if len(sizes) == len(pieces) else None
    with progress_bar("evaluating", unit="B", total=total) as bar:
        scores = scorer.scores(texts())  # one stream of all files, so that small ones fill batches together
        while chunk := list(islice(scores, _ADDED_AT_ONCE)):
            documents = _documents([score for _, score in chunk])
            places = np.searchsorted(first_documents, [number for number, _ in chunk], side="right") - 1
            for place in np.unique(places):
                language, piece = pieces[place]
                found.add(language, piece.spans[0].path, documents[places == place])
            bar.update(int(documents.bytes.sum()))
    scored = {name for name, tally in found.parts.items() if tally.documents}
    for _, piece in pieces:
        if piece.spans[0].path not in scored:
            raise UserError(f"{piece.spans[0].path}: there is no text in this file")
    for path, count in without_text.items():
        if count:
            note(
                f"{path}: {count_of(count, 'document')} without text, such as a record without the field, were not scored"
            )
    return found


def task_scores(found: Breakdown) -> list[TaskScore]:
    """Bits per byte of each language and file, as a run keeps them."""
    named = [(f"text_{name}", tally) for name, tally in found.languages.items()]
    named += [(f"text {name}", tally) for name, tally in found.parts.items()]
    return [
        TaskScore(name, "bits_per_byte", *tally.bits_per_byte, n=tally.documents, higher_is_better=False)
        for name, tally in named
    ]


def _texts(piece: Piece) -> Iterator[str]:
    return (text for _, text in piece.documents(Faults(can_skip=False)))


def _documents(scores: list[Score]) -> Documents:
    sizes = np.array([score.bytes for score in scores])
    return Documents(
        np.array([score.nats for score in scores]), np.array([score.tokens for score in scores]), sizes, sizes
    )


def _holds_only_text(path: str) -> bool:
    return path.endswith(".txt") and not path.endswith(COMPRESSIONS)
