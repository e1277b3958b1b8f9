"""The text files that `--text km=FILE en=FILE` names."""

import re
from collections.abc import Iterable
from pathlib import Path

from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError


def text_sources(words: Iterable[str], document: str | None = None, text_column: str | None = None) -> list[Source]:
    """The sources that words such as `km=FILE`, `FILE`, `en=FILE` name; a word without a language continues the one before.

    Args:
      words: a FILE is a file, a folder or a glob.
      document: what a document of a txt file is, see `Source`.
      text_column: the field with the text, see `Source`.

    Raises `UserError` for a language or a file that does not exist, and for a word that cannot be understood.
    """
    sources: list[Source] = []
    language = None
    for word in words:
        before, is_named, location = word.partition("=")
        if is_named and not Path(word).exists():
            language = before
        else:
            location = word
        if language is None or not location:
            raise UserError(f"--text {word}: write the language and its file, such as --text km=FILE en=FILE")
        settings = {"document": document, "text_column": text_column}
        name = re.sub(r"[^\w.-]", "_", Path(location).name).lstrip(".-") or "text"
        sources.append(Source(name=name, language=language, path=location, **settings))  # type: ignore[arg-type]
    return sources
