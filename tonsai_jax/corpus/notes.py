"""What a person should know about a source before hours are spent on it: files left out, hard-wrapped files, another script."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import unread_json_files
from tonsai_jax.corpus.sources.pieces import Span
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.text.scripts import SCRIPT_RANGES, script_share

_MOST_FILES = 100  # of a source, whose script is looked at
_SAMPLE_CHARACTERS = 20_000  # of a file
_FEWEST_CHARACTERS = 200  # a shorter text may be a name or a formula
# A document in two languages, as in configs/data/parallel.yaml, has about half of its letters in the script of each.
_LEAST_IN_SCRIPT = 0.3


def wrapping_in_words(spans: Sequence[Span]) -> str | None:
    """How the hard-wrapped files of a source are read; None if it has none."""
    boundaries = {span.path: span.boundary for span in spans if span.wrapping}
    if not boundaries:
        return None
    files = len({span.path for span in spans})
    where = "the text is" if files == 1 else f"{len(boundaries)} of {files} files are"
    documents = "the file" if set(boundaries.values()) == {"file"} else "each paragraph"
    return f"{where} hard-wrapped, so {documents} is one document with its lines joined"


def notes(source: Source, texts: Iterable[str]) -> Iterator[str]:
    """Gives lines to show about a source. `texts` are its texts from the first one on; they are used for a dataset on the Hub."""
    if source.documents is not None:
        return
    unread = len(unread_json_files(source.path)) if source.path else 0
    if unread:
        yield (
            f"source {source.name!r}: left out {count_of(unread, '.json file')}, because {source.path} has files of other "
            "formats too; if they hold text, give them a source of their own"
        )
    files = source.by_file()
    spans = [span for piece in files for span in piece.spans]
    wrapped = [span for span in spans if span.wrapping]
    if wrapped and wrapped[0].wrapping:
        yield (
            f"source {source.name!r}: {wrapping_in_words(spans)} ({Path(wrapped[0].path).name}: lines of about "
            f"{wrapped[0].wrapping.width} characters); to make each line a document, set `document: line` in the sources file "
            "(or give `--document line`)"
        )
    samples = [
        (Path(piece.spans[0].path).name, _head(text for _, text in piece.documents(Faults("skip"))))
        for piece in files[:_MOST_FILES]
    ]
    if source.hf is not None:
        samples = [(source.hf, _head(texts))]
    foreign = [(name, text) for name, text in samples if _is_foreign(text, source.language)]
    if foreign:
        name, text = foreign[0]
        shares = {script: script_share(text, f"und-{script}") for script in SCRIPT_RANGES}
        script = max(shares, key=lambda each: shares[each])
        others = len(foreign) - 1
        more = f" and {others} more file{'s' if others > 1 else ''}" if others else ""
        yield (
            f"source {source.name!r}: the language is {source.language}, but {shares[script]:.0%} of the letters in {name} are "
            f"in another script ({script}){more}; set `language` to the language of the text, or give it a source of its own"
        )


def _head(texts: Iterable[str]) -> str:
    """The beginning of some texts, joined."""
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text[:_SAMPLE_CHARACTERS])
        size += len(parts[-1])
        if size >= _SAMPLE_CHARACTERS:
            break
    return "\n".join(parts)


def _is_foreign(text: str, language: str) -> bool:
    return len(text) >= _FEWEST_CHARACTERS and script_share(text, language) < _LEAST_IN_SCRIPT
