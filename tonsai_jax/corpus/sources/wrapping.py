"""Hard-wrapped text files: lines that a program broke at a fixed width, as in most books on the web.

There a line is not a document and not a sentence. A file is judged by its first 256 KiB alone, so the verdict is the same for
every part of it, on every machine and in every run.
"""

import contextlib
import functools
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import pyarrow as pa

from tonsai_jax.corpus.sources.lines import Boundary, open_bytes
from tonsai_jax.text.scripts import SCRIPT_RANGES

PREFIX_BYTES = 256 * 2**10  # decompressed
# Of real text, re-wrapped at 60 to 80 characters, against lists of sentences, phrases and prompts, in Khmer and in English:
# tests/corpus/test_wrapping.py has the figures on both sides of these limits.
_FEWEST_BREAKS = 10  # with fewer, chance decides
_FEWEST_WITHOUT_CASE = 100  # where no capital letter tells a new sentence from a broken one
_WIDTHS = range(40, 201)  # in characters; Khmer verse has shorter lines
_LEAST_FULL = 0.6  # share of lines of at least 0.7 of the width
# Where words have spaces between them: share of lines that have no room for the first word of the next line, and of lines with
# a space (a list of addresses or numbers has none).
_LEAST_FORCED = 0.5
_LEAST_WITH_SPACES = 0.8
_MOST_ENDED = 0.45  # share of lines that end a sentence
_LEAST_LOWER = 0.4  # share of lines that begin with a small letter, in scripts that have capitals
# Lines that are made by a pattern are a list: share of lines that begin with a letter, and with the same characters; and where
# words have spaces between them, share of lines of the same length.
_LEAST_LETTERS = 0.6
_MOST_ALIKE = 0.6
_ALIKE_CHARACTERS = 5
_MOST_EQUAL = 0.8
_FULL = 0.7  # of the width
_VERY_FULL = 0.8
# Of the full lines, the share that is very full: higher where lines break inside the runs of letters between two spaces.
_FILLED = 0.92

_ENDS_OF_SENTENCE = tuple(".!?…:;\"'”’»)]。！？។៕៖៚")
_ITEM = re.compile(r"(?:[-*•◦▪]|\d{1,3}[.)])\s")  # of a list
_UNSPACED = re.compile(
    "["
    + "".join(
        f"{chr(first)}-{chr(last)}"
        for script in ("Hani", "Kana", "Khmr", "Laoo", "Mymr", "Thai")
        for first, last in SCRIPT_RANGES[script]
    )
    + "]"
)


@dataclass(frozen=True)
class Wrapping:
    """How a text file is wrapped.

    Attributes:
      width: characters in its longest lines, without a few that stand out.
      boundary: what a document of the file is: a paragraph, or the file if it has no blank line.
      glue: what joins two lines between two letters of a script without spaces between words: "" if lines break anywhere
        there, " " if lines break only at spaces.
    """

    width: int
    boundary: Boundary
    glue: str


def find_wrapping(path: Path) -> Wrapping | None:
    """How a text file is wrapped; None if it is not, or cannot be read: reading it will report why."""
    with contextlib.suppress(OSError, pa.ArrowException):
        status = path.stat()
        return _wrapping_in(path.absolute(), status.st_size, status.st_mtime_ns)
    return None


@functools.cache  # `prepare` asks several times for each file
def _wrapping_in(path: Path, size: int, mtime_ns: int) -> Wrapping | None:
    """How a text file is wrapped. `size` and `mtime_ns` are not used here: a file that has changed is looked at again."""
    with open_bytes(path) as stream:
        return wrapping_of(stream.read(PREFIX_BYTES))


def wrapping_of(prefix: bytes) -> Wrapping | None:
    """How a text is wrapped, by its first bytes; None if it is not."""
    cut = prefix.rpartition(b"\n")[0] if len(prefix) == PREFIX_BYTES else prefix
    lines = [line.strip() for line in cut.decode("utf-8-sig", "replace").split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    breaks = [(line, after) for line, after in itertools.pairwise(lines) if line and after]
    if len(breaks) < _FEWEST_BREAKS:
        return None
    width = lengths[int(0.98 * (len(lengths) - 1))]

    def share(found: list[bool]) -> float:
        return sum(found) / max(len(found), 1)

    full = share([len(line) >= _FULL * width for line, _ in breaks])
    ended = share([line.endswith(_ENDS_OF_SENTENCE) for line, _ in breaks])
    if width not in _WIDTHS or full < _LEAST_FULL or ended > _MOST_ENDED:
        return None
    with_letter = share([category(after[0])[0] in "LM" for _, after in breaks])
    alike = Counter(after[:_ALIKE_CHARACTERS] for _, after in breaks).most_common(1)[0][1] / len(breaks)
    if with_letter < _LEAST_LETTERS or alike > _MOST_ALIKE:
        return None
    is_lower = [after[0].islower() for _, after in breaks if after[0].lower() != after[0].upper()]
    has_case = len(is_lower) >= len(breaks) / 2
    if (has_case and share(is_lower) < _LEAST_LOWER) or (not has_case and len(breaks) < _FEWEST_WITHOUT_CASE):
        return None
    forced = share([len(f"{line} {after.split(maxsplit=1)[0]}") > width for line, after in breaks])
    with_spaces = share([" " in line for line, _ in breaks])
    is_unspaced = share([bool(_UNSPACED.match(after)) for _, after in breaks]) >= 0.5
    equal = Counter(len(line) for line, _ in breaks).most_common(1)[0][1] / len(breaks)
    if not is_unspaced and (forced < _LEAST_FORCED or with_spaces < _LEAST_WITH_SPACES or equal > _MOST_EQUAL):
        return None
    broken = [line for line, _ in breaks]
    filled = max(_filled(list(map(length, broken))) for length in (len, _columns))
    return Wrapping(
        width,
        boundary="paragraph" if "" in lines[lines.index(broken[0]) : -1] else "file",
        glue="" if filled >= _FILLED else " ",
    )


def _filled(lengths: list[int]) -> float:
    """Of the lines that are full, the share that is very full."""
    width = sorted(lengths)[int(0.98 * (len(lengths) - 1))]
    full = [length for length in lengths if length >= _FULL * width]
    return sum(length >= _VERY_FULL * width for length in full) / len(full)


def _columns(line: str) -> int:
    """The columns of a line on a screen, by which some programs break: marks above and below a letter have none."""
    return sum(category(character) not in ("Mn", "Cf") for character in line)


def unwrap(text: str, wrapping: Wrapping) -> str:
    """Joins the lines of a text that were broken because they were full, or had no room for the next word. Short lines (verse,
    titles), lines that are indented further and the items of lists begin a new line.

    A space joins two lines. Nothing does after a hyphen inside a word, and `wrapping.glue` does between two letters of a script
    without spaces between words.
    """
    lines = text.split("\n")
    parts = lines[:1]
    for before, line in itertools.pairwise(lines):
        end, start = before.rstrip(), line.lstrip()
        is_indented = len(line) - len(start) > len(before) - len(before.lstrip())
        if not end or not start or is_indented or _ITEM.match(start):
            parts += ["\n", line]
            continue
        unspaced = _UNSPACED.match(end[-1]) and _UNSPACED.match(start)
        length = len(end.lstrip())
        no_room = length + 1 + len(start.split()[0]) > wrapping.width and not (unspaced and not wrapping.glue)
        if length < _FULL * wrapping.width and not no_room:
            parts += ["\n", line]
            continue
        in_word = end.endswith("-") and not end.endswith(" -")
        parts[-1] = parts[-1].rstrip()
        parts += ["" if in_word else wrapping.glue if unspaced else " ", start]
    return "".join(parts)
