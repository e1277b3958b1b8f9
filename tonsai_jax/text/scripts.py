"""Scripts: the letters of each, the languages written in it, and the share of a text that is in it.

The script distinguishes Khmer from English at almost no cost. It cannot distinguish French from English.
"""

import functools
import re
from unicodedata import category

import numpy as np

Ranges = tuple[tuple[int, int], ...]

# Ranges of code points (first, last) with the letters and marks of a script, by its ISO 15924 code.
SCRIPT_RANGES: dict[str, Ranges] = {
    "Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Armn": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "Beng": ((0x980, 0x9FF),),
    "Cyrl": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Deva": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Ethi": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "Geor": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Gujr": ((0xA80, 0xAFF),),
    "Guru": ((0xA00, 0xA7F),),
    "Hang": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "Hani": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    "Hebr": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Kana": ((0x3031, 0x3035), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Khmr": ((0x1780, 0x17D3), (0x17D7, 0x17D7), (0x17DC, 0x17DD)),
    "Knda": ((0xC80, 0xCFF),),
    "Laoo": ((0xE80, 0xEFF),),
    "Latn": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "Mlym": ((0xD00, 0xD7F),),
    "Mymr": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Orya": ((0xB00, 0xB7F),),
    "Sinh": ((0xD80, 0xDFF),),
    "Taml": ((0xB80, 0xBFF),),
    "Telu": ((0xC00, 0xC7F),),
    "Thai": ((0xE00, 0xE7F),),
    "Tibt": ((0xF00, 0xFFF),),
}  # fmt: skip
# Codes for several scripts together, and second names of a script.
SCRIPT_RANGES |= {
    "Hans": SCRIPT_RANGES["Hani"],
    "Hant": SCRIPT_RANGES["Hani"],
    "Jpan": SCRIPT_RANGES["Hani"] + SCRIPT_RANGES["Kana"],
    "Kore": SCRIPT_RANGES["Hang"] + SCRIPT_RANGES["Hani"],
}
# Languages by their script. Languages with two scripts in daily use (Serbian, Uzbek, ...) are left out.
_LANGUAGES = {
    "Arab": "ar fa ps ur",
    "Armn": "hy",
    "Beng": "as bn",
    "Cyrl": "be bg kk ky mk ru tg uk",
    "Deva": "hi mr ne sa",
    "Ethi": "am ti",
    "Geor": "ka",
    "Grek": "el",
    "Gujr": "gu",
    "Guru": "pa",
    "Hani": "yue zh",
    "Hebr": "he yi",
    "Jpan": "ja",
    "Khmr": "km",
    "Knda": "kn",
    "Kore": "ko",
    "Laoo": "lo",
    "Latn": "af ca ceb cs cy da de en eo es et eu fi fil fr ga gl ha hr hu id ig is it jv la lb lt lv mg mi ms mt nl nn no "
    "nb pl pt ro rw sk sl sn so sq st su sv sw tl tr vi xh yo zu",
    "Mlym": "ml",
    "Mymr": "mnw my shn",
    "Orya": "or",
    "Sinh": "si",
    "Taml": "ta",
    "Telu": "te",
    "Thai": "th",
    "Tibt": "bo dz",
}  # fmt: skip
_SCRIPT_OF = {tag: script for script, tags in _LANGUAGES.items() for tag in tags.split()}
_NO_LETTER, _FOREIGN, _OWN = range(3)
_LAST = 0x3FFFF  # there is no letter above
_COMBINING = range(0x300, 0x370)  # accents are used with letters of any script, so they are not counted
_LATIN_LETTER = re.compile("[A-Za-z]")
CHUNK = 1 << 20  # characters counted together, so that a long text needs no more memory

# Two-letter tags for ISO 639-3 codes that models use, some of them for a larger language that includes the code's.
SHORT_TAGS = {
    "amh": "am", "arb": "ar", "ara": "ar", "ben": "bn", "bod": "bo", "bul": "bg", "cat": "ca", "ces": "cs", "cmn": "zh",
    "dan": "da", "deu": "de", "ell": "el", "eng": "en", "est": "et", "ekk": "et", "fas": "fa", "fin": "fi", "fra": "fr",
    "guj": "gu", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ind": "id", "ita": "it", "jav": "jv",
    "jpn": "ja", "kan": "kn", "kat": "ka", "kaz": "kk", "khm": "km", "kor": "ko", "lao": "lo", "lav": "lv", "lit": "lt",
    "lvs": "lv", "mal": "ml", "mar": "mr", "msa": "ms", "mya": "my", "nep": "ne", "nld": "nl", "nob": "nb", "npi": "ne",
    "ory": "or", "pan": "pa", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "san": "sa", "sin": "si",
    "slk": "sk", "slv": "sl", "spa": "es", "sun": "su", "swe": "sv", "swh": "sw", "tam": "ta", "tel": "te", "tgl": "tl",
    "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh", "zsm": "ms",
}  # fmt: skip


def script_share(text: str, language: str) -> float:
    """The share of the letters and marks of a text that are in the script of a language, 0 to 1.

    `language` is a BCP-47 tag; a script in the tag is used (`sr-Latn`). Returns 1.0 if the script is unknown or the text has no
    letters, because then nothing contradicts the language.
    """
    script = script_of(language)
    if script is None:
        return 1.0
    table = _table(script)
    if text.isascii():  # fast path: all letters, if any, are Latin
        return 0.0 if table[ord("a")] != _OWN and _LATIN_LETTER.search(text) else 1.0
    counts = np.zeros(3, np.int64)
    for start in range(0, len(text), CHUNK):
        points = np.frombuffer(text[start : start + CHUNK].encode("utf-32-le", "surrogatepass"), np.uint32)
        counts += np.bincount(table[np.minimum(points, _LAST)], minlength=3)
    letters = int(counts[_FOREIGN] + counts[_OWN])
    return int(counts[_OWN]) / letters if letters else 1.0


def script_of(language: str) -> str | None:
    """The ISO 15924 code of the script in a BCP-47 tag, or else of the script of its language; None if it is unknown."""
    primary, *subtags = language.split("-")
    for subtag in subtags:
        if len(subtag) == 4 and subtag.isalpha():
            script = subtag.title()
            return script if script in SCRIPT_RANGES else None
    return _SCRIPT_OF.get(SHORT_TAGS.get(primary.lower(), primary.lower()))


@functools.cache
def _letters() -> np.ndarray:
    table = np.full(_LAST + 1, _NO_LETTER, np.uint8)
    table[[point for point in range(_LAST) if category(chr(point))[0] in "LM" and point not in _COMBINING]] = _FOREIGN
    return table


@functools.cache
def _table(script: str) -> np.ndarray:
    table = _letters().copy()
    for first, last in SCRIPT_RANGES[script]:
        run = table[first : last + 1]
        run[run == _FOREIGN] = _OWN
    return table
