"""Text cleaning: one pure function, `normalize`, that every document goes through before it is written.

It settles how a text is spelled in code points and nothing else: no word is added, removed or judged.
Characters that mean something in Khmer typing, such as the zero-width space between words (U+200B), are
left as they are.
"""

import re
import unicodedata

_COENG = "\u17d2"  # the Khmer sign that subscripts the consonant after it

_NEWLINE = "\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]"
# Controls other than tab and newline, the byte order mark, halves of surrogate pairs, and noncharacters.
_DROPPED = "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ud800-\udfff]"
_WIDE_SPACE = "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
# Most documents hold none of these, and one search is three times as fast as three substitutions.
_UNUSUAL = re.compile(f"[\r\v\f\x1c-\x1e\x85\u2028\u2029]|{_DROPPED}|{_WIDE_SPACE}")
# Only behind a visible character: indentation at the start of a line carries meaning (code, lists, verse).
# The lookbehind stands after the first space so that a long indentation costs one test a character.
_INNER_SPACES = re.compile(r"(?: (?=[ \t])|\t)(?<=\S.)[ \t]*")


def normalize(text: str) -> str:
    """Cleans whitespace and composes Unicode (NFC); applying it twice changes nothing more.

    Line ends become `\\n`; control characters, byte order marks and lone surrogates go; spaces of every
    width become U+0020 and runs of them inside a line one space (indentation stays); trailing spaces go;
    several blank lines in a row become one; both ends are stripped. Returns "" where nothing is left.

    NFC would swap U+17DD and U+17D2 (their combining classes are 230 and 9) and so tear the Khmer subscript
    sign from its consonant; here U+17D2 stays where it was typed.
    NFC: https://www.unicode.org/reports/tr15/.
    """
    text = _clean_whitespace(text)
    # Canonical Khmer order belongs here, before NFC, once there is one.
    return _compose(text)


def _clean_whitespace(text: str) -> str:
    if _UNUSUAL.search(text):
        text = re.sub(_NEWLINE, "\n", text)
        text = re.sub(_DROPPED, "", text)
        text = re.sub(_WIDE_SPACE, " ", text)
    if "  " in text or "\t" in text:
        text = _INNER_SPACES.sub(" ", text)
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = re.sub("\n{3,}", "\n\n", text)
    return text.strip()


def _compose(text: str) -> str:
    if unicodedata.is_normalized("NFC", text):
        return text
    return _COENG.join([unicodedata.normalize("NFC", part) for part in text.split(_COENG)])
