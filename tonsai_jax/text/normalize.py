"""Text normalization: one pure function, `normalize`, applied to every document before it is written.

It only changes how a text is encoded in code points: no word is added, removed or corrected.

An export holds a copy of this file, `khmer.py` and `syllables.py`, joined into one for people without this package
(tonsai_jax/huggingface/normalizer.py). So they import only each other and Python's standard library (and `ftfy`, where a text
needs it), and no two of them define the same name.
"""

import dataclasses
import re
from typing import Literal, get_args

from tonsai_jax.errors import UserError
from tonsai_jax.text.khmer import Zwsp, compose, normalize_khmer

Digits = Literal["keep", "arabic", "khmer"]

# Each is the inside of a character class.
LINE_END = "\r\v\f\x1c-\x1e\x85\u2028\u2029"
WIDE_SPACE = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Control characters other than line ends, the byte order mark, and noncharacters.
CONTROL = "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff"
_SURROGATE = "\ud800-\udfff"
# Most texts have none of these, and then cost one search. A single class, because alternatives are ten times slower.
_UNUSUAL = re.compile(f"[{LINE_END}{WIDE_SPACE}{CONTROL}{_SURROGATE}]")
# Only after a visible character: indentation at the start of a line has a meaning (code, lists, verse).
# The lookbehind comes after the first space, so that a long indentation costs one test per character.
_INNER_SPACES = re.compile(r"(?: (?=[ \t])|\t)(?<=\S.)[ \t]*")
# UTF-8 that was decoded as Latin-1 or Windows-1252: the first byte of a character, then all of its other bytes.
_BYTE = "[\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_MOJIBAKE = re.compile(
    f"[\u00c2-\u00f4]{_BYTE}(?:(?<=[\u00c2-\u00df].)|{_BYTE}(?:(?<=[\u00e0-\u00ef]..)|{_BYTE}(?<=[\u00f0-\u00f4]...)))"
)
# str.translate's tables: by code point, what is written instead.
QUOTES = str.maketrans({**dict.fromkeys("“”„‟«»", '"'), **dict.fromkeys("‘’‚‛‹›", "'")})
DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
ARABIC_DIGITS = str.maketrans("០១២៣៤៥៦៧៨៩", "0123456789")
KHMER_DIGITS = str.maketrans("0123456789", "០១២៣៤៥៦៧៨៩")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What `normalize` does: the keys under `normalize:` in a sources file. Raises `UserError` for other values."""

    khmer: bool = True  # Khmer in canonical order (docs/khmer.md)
    zwsp: Zwsp = "strip"  # the zero-width space between Khmer words: "strip" removes it, "keep" keeps it
    fold_coeng_da: bool = True  # write COENG DA as COENG TA, which looks the same
    mojibake: bool = True  # repair UTF-8 that was decoded as Latin-1 or Windows-1252
    controls: bool = True  # remove control characters, byte order marks and noncharacters
    whitespace: bool = True  # one kind of space and of line end; shorten runs of them; indentation stays
    nfc: bool = True  # Unicode NFC: a letter and its accent become one code point
    quotes: bool = False  # write every quotation mark as " or '
    dashes: bool = False  # write every hyphen, dash and minus sign as -
    digits: Digits = "keep"  # "keep" Khmer and Arabic digits, or write all as "arabic" or "khmer"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            allowed = (True, False) if field.type is bool else get_args(field.type)
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in allowed):
                choices = ", ".join(str(choice).lower() for choice in allowed)
                raise UserError(f"normalize: {field.name} is {value!r}; it must be one of: {choices}")


DEFAULT = Normalization()


def normalize(text: str, settings: Normalization = DEFAULT) -> str:
    """Puts Khmer in canonical order, cleans white space and puts the text into NFC. A second call changes nothing more.

    By default: line ends become `\\n`; control characters and byte order marks are removed; spaces of every width become
    U+0020, and a run of them inside a line becomes one (indentation stays); trailing spaces are removed; several consecutive
    blank lines become one; both ends are stripped; the zero-width space between Khmer words is removed. `settings` turns each
    of these off, and others on. Lone surrogates are always removed, because no file can store them. Returns "" if nothing is
    left. NFC (https://www.unicode.org/reports/tr15/) comes after the Khmer step, because it would undo that step.
    """
    clean = _normalize_once(text, settings)
    while settings.mojibake and clean != text and _MOJIBAKE.search(clean):  # rare: one repair may uncover another
        text, clean = clean, _normalize_once(clean, settings)
    return clean


def normalize_prompt(text: str, settings: Normalization = DEFAULT) -> str:
    """Normalizes the beginning of a document, which a model continues: like `normalize`, but white space stays."""
    return normalize(text, dataclasses.replace(settings, whitespace=False))


def _normalize_once(text: str, settings: Normalization) -> str:
    unicode = not text.isascii()  # costs nothing: Python knows it of every string
    if unicode and settings.mojibake and _MOJIBAKE.search(text):
        text = "\n".join([_repaired(line) for line in text.split("\n")])
    if settings.quotes:
        text = text.translate(QUOTES)
    if settings.dashes:
        text = text.translate(DASHES)
    if settings.digits == "khmer":
        text = text.translate(KHMER_DIGITS)
    if _UNUSUAL.search(text):
        text = re.sub(f"[{_SURROGATE}]", "", text)
        if settings.controls:
            text = re.sub(f"[{CONTROL}]", "", text)
        if settings.whitespace:
            text = re.sub(f"[{LINE_END}]", "\n", text.replace("\r\n", "\n"))
            text = re.sub(f"[{WIDE_SPACE}]", " ", text)
    if settings.khmer and unicode:
        text = normalize_khmer(text, zwsp=settings.zwsp, fold_coeng_da=settings.fold_coeng_da, nfc=settings.nfc)
    elif settings.nfc and unicode:
        text = compose(text)
    if settings.digits == "arabic":
        text = text.translate(ARABIC_DIGITS)
    return _clean_whitespace(text) if settings.whitespace else text


def _repaired(line: str) -> str:
    if not _MOJIBAKE.search(line):
        return line
    import ftfy  # imported here, because few texts need it, and copies of this file must work without it

    # Repairs only what can be restored completely: a lost byte is not guessed.
    return ftfy.fix_encoding(line, ftfy.TextFixerConfig(replace_lossy_sequences=False, fix_c1_controls=False))


def _clean_whitespace(text: str) -> str:
    if "  " in text or "\t" in text:
        text = _INNER_SPACES.sub(" ", text)
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = re.sub("\n{3,}", "\n\n", text)
    return text.strip()
