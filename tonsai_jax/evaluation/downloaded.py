"""Test sets that a person downloads once into one folder, and that are read from there without a network.

Each file is found by its name, in whatever folder below the given one it lies; docs/scorecard.md has the commands that download
them and their licences.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

from tonsai_jax.errors import UserError
from tonsai_jax.files import refuse_lfs_pointer

NTREX_FILES = {"km": "newstest2019-ref.khm.txt", "en": "newstest2019-src.eng.txt"}
CODES = {"km": "khm_Khmr", "en": "eng_Latn"}  # of FLORES+ and SIB-200
_HELP = "docs/scorecard.md has the command that downloads it"


@dataclasses.dataclass(frozen=True)
class Parallel:
    """The same sentences in both languages: `texts["km"][i]` and `texts["en"][i]` say the same."""

    name: str
    texts: dict[str, list[str]]


def read_ntrex(folder: Path) -> Parallel:
    """NTREX-128: 1,997 sentences of news, one a line. Raises `UserError` for a file that is missing, empty or damaged."""
    return _parallel("ntrex", {language: _find(folder, [name]) for language, name in NTREX_FILES.items()})


def read_flores(folder: Path) -> Parallel:
    """FLORES+ devtest, 1,012 sentences: a file of the Hub (parquet or jsonl), or of FLORES-200 (one sentence a line).

    Raises `UserError` for a file that is missing, empty or damaged.
    """
    return _parallel("flores", {language: _find(folder, _flores_names(code)) for language, code in CODES.items()})


def has_flores(folder: Path) -> bool:
    """Whether a file of FLORES+ in one of the languages is below the folder."""
    return any(any(folder.rglob(name)) for code in CODES.values() for name in _flores_names(code))


def _flores_names(code: str) -> list[str]:
    return [f"devtest/{code}.parquet", f"devtest/{code}.jsonl", f"{code}.devtest"]


def read_sib200(folder: Path, language: str, split: str) -> list[dict[str, str]]:
    """SIB-200: records with "text" and "category", one of seven topics; 204 in the split "test", 701 in "train".

    Raises `UserError` for a file that is missing, empty or damaged.
    """
    path = _find(folder, [f"{CODES[language]}/{split}.tsv"])
    rows = list(csv.DictReader(io.StringIO(_text(path)), delimiter="\t"))
    if not rows or not all(row.get("text") and row.get("category") for row in rows):
        raise UserError(f"{path}: not a table with the columns category and text in every row; download it again")
    return rows


def _find(folder: Path, names: Sequence[str]) -> Path:
    """The file of one of these names below the folder, the first name first."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one with the downloaded test sets (docs/scorecard.md)")
    for name in names:
        if found := sorted(path for path in folder.rglob(name) if path.is_file()):
            return found[0]
    raise UserError(f"{folder}: there is no {' or '.join(names)} in it; {_HELP}")


def _parallel(name: str, paths: dict[str, Path]) -> Parallel:
    texts = {language: _sentences(path) for language, path in paths.items()}
    km, en = len(texts["km"]), len(texts["en"])
    if km != en:
        raise UserError(
            f"{paths['km']} has {km:,} sentences and {paths['en']} has {en:,}: they do not belong together, or one is damaged; "
            "download both again"
        )
    return Parallel(name, texts)


def _sentences(path: Path) -> list[str]:
    """The sentences of a file: one a line, or one in the field `text` of each row."""
    if path.suffix == ".parquet":
        texts = _parquet(path)
    else:
        lines = _text(path).removesuffix("\n").split("\n")  # not `splitlines`: a sentence may hold U+2028
        texts = (
            [_text_of(line, path, number) for number, line in enumerate(lines, 1)] if path.suffix == ".jsonl" else lines
        )
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UserError(f"{path}: sentence {number} is empty; download the file again")
    if not texts:
        raise UserError(f"{path}: no sentences; download the file again")
    return [text.strip() for text in texts]


def _text(path: Path) -> str:
    refuse_lfs_pointer(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # which also makes one kind of line end
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; download the file again") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; download it again")
    return text


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{path}: line {number} is not JSON with a "text"; download the file again') from None


def _parquet(path: Path) -> list[str]:
    import pyarrow.parquet as pq  # imported here: the other formats need no library

    refuse_lfs_pointer(path)
    try:
        return [str(text) for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are kinds of these
        reason = str(error).splitlines()[0]
        raise UserError(f'{path}: no parquet file with a column "text" ({reason}); download it again') from None
