"""Khmer text in one canonical form: a word that can be typed in several orders always gets the same code points.

The order inside an orthographic syllable is that of SIL's Khmer Encoding Structure, version 2 (October 2024), published as
https://www.unicode.org/notes/tn61/:
base, robat, up to two coengs with COENG RO second, shifter, ZWNJ, vowel, modifiers, final. docs/khmer.md explains each rule.
"""

import re
import unicodedata
from typing import Literal

from tonsai_jax.errors import UserError
from tonsai_jax.text.syllables import ATTHACAN, COENG, SYLLABLE, SYLLABLE_PART, ZWNJ

Zwsp = Literal["strip", "keep"]

_ZWSP = "\u200b"
_RO, _DA, _TA, _BA = "\u179a", "\u178a", "\u178f", "\u1794"
_U, _AA, _II, _E, _OE, _OO = "\u17bb", "\u17b6", "\u17b8", "\u17c1", "\u17be", "\u17c4"
_NIKAHIT, _ROBAT = "\u17c6", "\u17cc"
_MUUSIKATOAN, _TRIISAP = "\u17c9", "\u17ca"
_SAMYOK_SANNYA = "\u17d0"
_INHERENT = "\u17b4\u17b5"  # invisible vowels

_KHMER = "\u1780-\u17ff\u19e0-\u19ff"
# Direction marks and variation selectors have no meaning between two Khmer characters; the others none next to one.
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufe00-\ufe0f"
_INVISIBLE = f"\u00ad\u034f{_INHERENT}\u180e\u200b-\u200d\u2060-\u2064\ufeff{_DIRECTIONS}"

_HAS_KHMER = re.compile(f"[{_KHMER}]")
_HAS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_INVISIBLE_RUN = re.compile(f"[{_INVISIBLE}]+")
_NOT_DIRECTIONS = re.compile(f"[^{_DIRECTIONS}]+")

# The preferred spellings in Unicode's names list. U+17D3 stays: it has two meanings, and nothing shows which one was meant.
_DEPRECATED = re.compile("[\u17a3\u17a4\u17a8\u17d8]")
_PREFERRED = {"\u17a3": "\u17a2", "\u17a4": "\u17a2\u17b6", "\u17a8": "\u17a7\u1780", "\u17d8": "\u17d4\u179b\u17d4"}

# Lunar days 1 to 15: the number is above the line while the moon waxes, below it while it wanes. 0 marks a leap month.
_LUNAR_DAY = "(1[0-5]|[0-9])".translate({ord(digit): 0x17E0 + int(digit) for digit in "0123456789"})
_WAXING = re.compile(f"(?<![\u17e0-\u17e9]){_LUNAR_DAY}{COENG}\u17d4")
_WANING = re.compile(f"\u17d4{COENG}{_LUNAR_DAY}(?![\u17e0-\u17e9])")

_VOWEL_ORDER = {vowel: 0 for vowel in "\u17be\u17bf\u17c0\u17c1\u17c2\u17c3\u17c4\u17c5"}  # partly before the base
_VOWEL_ORDER |= {vowel: 1 for vowel in "\u17bb\u17bc\u17bd"}  # below
_VOWEL_ORDER |= {vowel: 2 for vowel in "\u17b7\u17b8\u17b9\u17ba"}  # above
_VOWEL_ORDER |= {_AA: 3}
_ABOVE_VOWELS = frozenset("\u17b7\u17b8\u17b9\u17ba\u17be\u17bf")
_FINALS = frozenset("\u17c7\u17c8")
# With a vowel above the base, a shifter is drawn like -u: TRIISAP if the syllable has one of these, else MUUSIKATOAN.
_STRONG = frozenset("កខគឃចឆជឈដឋឌឍតថទធផពភឞសហអ")
_ENDS_OF_PHRASES = "\u17d4\u17d5\u17d6\u17da"
_CACHE_LIMIT = 200_000  # distinct syllables; 45 MB of real text has about 5,400
_CACHED_LENGTH = 32  # characters; longer ones are noise that would only fill the memory


def normalize_khmer(text: str, *, zwsp: Zwsp = "strip", fold_coeng_da: bool = True, nfc: bool = True) -> str:
    """Puts Khmer into canonical form and the rest of the text into NFC. Text without Khmer is only put into NFC.

    A second call changes nothing more. Misspelled words stay: no word is looked up.

    Args:
      zwsp: what happens to the zero-width space, which some writers put between words: "strip" removes it; "keep" keeps one
        between words, and removes it inside syllables, next to white space and at both ends of the text. A zero-width space
        next to a letter of a script other than Khmer and Latin (Thai, Chinese) always stays.
      fold_coeng_da: write COENG DA as COENG TA: modern fonts draw both the same way, and writers mix them.
      nfc: put the rest of the text into NFC; False leaves it unchanged.

    Raises:
      UserError: `zwsp` has another value.
    """
    if zwsp not in ("strip", "keep"):
        raise UserError(f"zwsp={zwsp!r}: must be 'strip' or 'keep'")
    if not _HAS_KHMER.search(text):
        return compose(text) if nfc else text
    text = _canonical_text(text, zwsp, fold_coeng_da)
    while nfc and (composed := compose(text)) != text:  # rare: NFC moved a Latin mark out from between two Khmer ones
        text = _canonical_text(composed, zwsp, fold_coeng_da)
    return text


def compose(text: str) -> str:
    """NFC (https://www.unicode.org/reports/tr15/) that never moves U+17D2, the coeng.

    Plain NFC would swap U+17DD and U+17D2 (their combining classes are 230 and 9), which separates the coeng from its
    consonant.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    return COENG.join([unicodedata.normalize("NFC", part) for part in text.split(COENG)])


def _canonical_text(text: str, zwsp: Zwsp, fold_coeng_da: bool) -> str:
    if _DEPRECATED.search(text):
        text = _DEPRECATED.sub(lambda match: _PREFERRED[match[0]], text)
    if _HAS_INVISIBLE.search(text):
        text = _INVISIBLE_RUN.sub(_kept_zwsp if zwsp == "keep" else _stripped_zwsp, text)
    text = SYLLABLE.sub((_FOLDED if fold_coeng_da else _NOT_FOLDED).of, text)
    if COENG + "\u17d4" in text or "\u17d4" + COENG in text:
        text = _WAXING.sub(lambda match: chr(0x19E0 + int(match[1])), text)
        text = _WANING.sub(lambda match: chr(0x19F0 + int(match[1])), text)
    return text


class _CanonicalForms(dict[str, str]):
    """A cache: the canonical form of each syllable."""

    def __init__(self, fold_coeng_da: bool) -> None:
        self._fold_coeng_da = fold_coeng_da

    def of(self, match: re.Match[str]) -> str:
        return self[match[0]]

    def __missing__(self, syllable: str) -> str:
        canonical = _canonical(syllable, self._fold_coeng_da)
        if len(syllable) <= _CACHED_LENGTH:
            if len(self) >= _CACHE_LIMIT:
                self.clear()
            self[syllable] = canonical
        return canonical


_FOLDED, _NOT_FOLDED = _CanonicalForms(fold_coeng_da=True), _CanonicalForms(fold_coeng_da=False)


def _canonical(syllable: str, fold_coeng_da: bool) -> str:
    base = syllable[0]
    coengs: list[str] = []
    shifters: list[str] = []
    vowels: list[str] = []
    modifiers: list[str] = []
    finals: list[str] = []
    robat = zwnj = last_coeng = ""
    for part in SYLLABLE_PART.findall(syllable, 1):
        if part[0] == COENG:
            if part[-1] in (COENG, ATTHACAN):
                last_coeng = COENG
            else:
                coengs.append(_TA if fold_coeng_da and part[-1] == _DA else part[-1])
            if ATTHACAN in part:
                modifiers.append(ATTHACAN)
        elif part == _ROBAT:
            robat = part
        elif part == ZWNJ:
            zwnj = part
        elif part in (_MUUSIKATOAN, _TRIISAP):
            shifters.append(part)
        elif part in _VOWEL_ORDER:
            vowels.append(part)
        elif part in _FINALS:
            finals.append(part)
        else:
            modifiers.append(part)
    coengs.sort(key=lambda consonant: consonant == _RO)
    shifters, vowels, modifiers, finals = (
        list(dict.fromkeys(marks)) for marks in (shifters, vowels, modifiers, finals)
    )
    vowels = _joined(vowels)
    consonants = {base, *coengs}
    lowered = _MUUSIKATOAN if _BA in consonants or _STRONG.isdisjoint(consonants) else _TRIISAP
    pushed = not _ABOVE_VOWELS.isdisjoint(vowels) or ATTHACAN in modifiers or (_AA in vowels and _NIKAHIT in modifiers)
    above = pushed or _SAMYOK_SANNYA in modifiers
    if shifters != [lowered] or not (pushed if lowered == _TRIISAP else above):
        zwnj = ""  # it has no effect: SAMYOK SANNYA does not push TRIISAP down
    if above and _U in vowels:
        vowels.remove(_U)
        shifters = shifters or [lowered]
    subscripts = [COENG + consonant for consonant in coengs]
    return "".join((base, robat, *subscripts, *shifters, zwnj, *vowels, *modifiers, *finals, last_coeng))


def _joined(vowels: list[str]) -> list[str]:
    """The vowels in order, with two halves of OE or OO joined. OE + AA looks like OO + II and becomes that."""
    if _OE in vowels and _AA in vowels:
        vowels = [*vowels, _E, _II]
        vowels.remove(_OE)
    for half, whole in ((_AA, _OO), (_II, _OE)):
        if _E in vowels and half in vowels:
            vowels = [vowel for vowel in vowels if vowel not in (_E, half, whole)] + [whole]
    vowels = list(dict.fromkeys(vowels))
    return sorted(vowels, key=_VOWEL_ORDER.__getitem__)


def _stripped_zwsp(run: re.Match[str]) -> str:
    return _invisible(run, keep_zwsp=False)


def _kept_zwsp(run: re.Match[str]) -> str:
    return _invisible(run, keep_zwsp=True)


def _invisible(run: re.Match[str], *, keep_zwsp: bool) -> str:
    """What is kept of a run of invisible characters; it depends on the characters before and after the run."""
    before = run.string[run.start() - 1] if run.start() else " "
    after = run.string[run.end()] if run.end() < len(run.string) else " "
    sides = _is_khmer(before) + _is_khmer(after)
    stays = run[0].replace(_INHERENT[0], "").replace(_INHERENT[1], "")
    if sides:
        # Inside a syllable, ZWNJ may keep a shifter above the base; `_canonical` decides whether it does.
        zwnj = ZWNJ if ZWNJ in run[0] and _is_in_syllable(before) and before != COENG else ""
        stays = zwnj + (_NOT_DIRECTIONS.sub("", stays) if sides == 1 else "")
    elif _is_foreign(before) or _is_foreign(after):
        return stays
    stays = stays.replace(_ZWSP, "")
    if not keep_zwsp or _ZWSP not in run[0]:
        return stays
    inside = _is_mark(after) or before == COENG
    redundant = before.isspace() or after.isspace() or before in _ENDS_OF_PHRASES or after in _ENDS_OF_PHRASES
    return stays if inside or redundant else stays + _ZWSP


def _is_khmer(character: str) -> bool:
    return "\u1780" <= character <= "\u17ff" or "\u19e0" <= character <= "\u19ff" or character == "\u25cc"


def _is_foreign(character: str) -> bool:
    """A letter or mark of a script other than Khmer and Latin; there a zero-width space may have a meaning."""
    return character > "\u024f" and unicodedata.category(character)[0] in "LM" and not _is_khmer(character)


def _is_mark(character: str) -> bool:
    return "\u17b6" <= character <= "\u17d3" or character == ATTHACAN


def _is_in_syllable(character: str) -> bool:
    return "\u1780" <= character <= "\u17b3" or _is_mark(character) or character == "\u25cc"
