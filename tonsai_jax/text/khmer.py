"""Khmer text in one canonical form: the same word typed in two orders becomes the same code points.

The order inside an orthographic syllable (here: cluster) is that of SIL's Khmer Encoding Structure, version 2 (October 2024),
published as https://www.unicode.org/notes/tn61/:
base, robat, up to two coengs with COENG RO second, shifter, ZWNJ, vowel, modifiers, final. docs/khmer.md tells of each rule.
"""

import re
import unicodedata
from typing import Literal

from tonsai_jax.errors import UserError

Zwsp = Literal["strip", "keep"]

_ZWSP, _ZWNJ = "\u200b", "\u200c"
_COENG, _RO, _DA, _TA, _BA = "\u17d2", "\u179a", "\u178a", "\u178f", "\u1794"
_U, _AA, _II, _E, _OE, _OO = "\u17bb", "\u17b6", "\u17b8", "\u17c1", "\u17be", "\u17c4"
_NIKAHIT, _ROBAT = "\u17c6", "\u17cc"
_MUUSIKATOAN, _TRIISAP = "\u17c9", "\u17ca"
_SAMYOK_SANNYA, _ATTHACAN = "\u17d0", "\u17dd"
_INHERENT = "\u17b4\u17b5"  # vowels without a shape

_BASES = "\u1780-\u17a2\u17a5-\u17b3\u25cc"  # consonants, independent vowels, the dotted circle that carries a mark
_SUBSCRIPTS = "\u1780-\u17a2\u17a5-\u17b3"
_MARKS = "\u17b6-\u17d1\u17d3\u17dd"
_KHMER = "\u1780-\u17ff\u19e0-\u19ff"
# Directions and glyph variants mean nothing between two Khmer characters; the others nothing beside one.
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufe00-\ufe0f"
_INVISIBLE = f"\u00ad\u034f{_INHERENT}\u180e\u200b-\u200d\u2060-\u2064\ufeff{_DIRECTIONS}"

_HAS_KHMER = re.compile(f"[{_KHMER}]")
_HAS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_INVISIBLE_RUN = re.compile(f"[{_INVISIBLE}]+")
_NOT_DIRECTIONS = re.compile(f"[^{_DIRECTIONS}]+")
# A base and what hangs on it. NFC may have put ATTHACAN between a coeng and its consonant. A coeng without one ends it.
CLUSTER = re.compile(f"[{_BASES}](?:{_COENG}[{_COENG}{_ATTHACAN}]*[{_SUBSCRIPTS}]|[{_MARKS}{_ZWNJ}])*{_COENG}*")
_CLUSTER_PARTS = re.compile(f"{_COENG}[{_COENG}{_ATTHACAN}]*[{_SUBSCRIPTS}]?|.")

# Unicode's names list gives these preferred spellings. 17D3 stays: which of its two meanings was meant cannot be told.
_DEPRECATED = re.compile("[\u17a3\u17a4\u17a8\u17d8]")
_PREFERRED = {"\u17a3": "\u17a2", "\u17a4": "\u17a2\u17b6", "\u17a8": "\u17a7\u1780", "\u17d8": "\u17d4\u179b\u17d4"}

# Lunar days 1 to 15: the number above the line while the moon waxes, below it while it wanes. A zero is a leap month's sign.
_LUNAR_DAY = "(1[0-5]|[0-9])".translate({ord(digit): 0x17E0 + int(digit) for digit in "0123456789"})
_WAXING = re.compile(f"(?<![\u17e0-\u17e9]){_LUNAR_DAY}{_COENG}\u17d4")
_WANING = re.compile(f"\u17d4{_COENG}{_LUNAR_DAY}(?![\u17e0-\u17e9])")

_VOWEL_ORDER = {vowel: 0 for vowel in "\u17be\u17bf\u17c0\u17c1\u17c2\u17c3\u17c4\u17c5"}  # with a part before the base
_VOWEL_ORDER |= {vowel: 1 for vowel in "\u17bb\u17bc\u17bd"}  # below
_VOWEL_ORDER |= {vowel: 2 for vowel in "\u17b7\u17b8\u17b9\u17ba"}  # above
_VOWEL_ORDER |= {_AA: 3}
_ABOVE_VOWELS = frozenset("\u17b7\u17b8\u17b9\u17ba\u17be\u17bf")
_FINALS = frozenset("\u17c7\u17c8")
# A shifter that meets an above vowel is drawn as -u: TRIISAP in clusters with one of these, MUUSIKATOAN in the others.
_STRONG = frozenset("កខគឃចឆជឈដឋឌឍតថទធផពភឞសហអ")
_ENDS_OF_PHRASES = "\u17d4\u17d5\u17d6\u17da"
_CACHE_LIMIT = 200_000  # kinds of clusters; 45 MB of real text has some 5,400
_CACHED_LENGTH = 32  # characters; what is longer is rubbish that would only fill the memory


def normalize(text: str, *, zwsp: Zwsp = "strip", fold_coeng_da: bool = True, nfc: bool = True) -> str:
    """Puts Khmer into canonical form and composes the rest (NFC); text without Khmer is only composed.

    Applying it twice changes nothing more. Misspellings that are good code points stay: no word is looked up.

    Args:
      zwsp: what happens to the zero-width space, which some writers put between words: "strip" takes it out; "keep" leaves
        one where it stands between words, and takes it out inside clusters, beside white space and at ends. Neither
        touches one beside a letter of a script that is not Khmer or Latin (Thai, Chinese).
      fold_coeng_da: writes COENG DA as COENG TA: modern fonts draw both alike, and writers mix them.
      nfc: False leaves what is not Khmer as it is.

    Raises:
      UserError: `zwsp` is neither.
    """
    if zwsp not in ("strip", "keep"):
        raise UserError(f"zwsp={zwsp!r}: must be 'strip' or 'keep'")
    if not _HAS_KHMER.search(text):
        return compose(text) if nfc else text
    text = _canonical_text(text, zwsp, fold_coeng_da)
    while nfc and (composed := compose(text)) != text:  # rarely: it moved a Latin mark away from between Khmer ones
        text = _canonical_text(composed, zwsp, fold_coeng_da)
    return text


def compose(text: str) -> str:
    """NFC (https://www.unicode.org/reports/tr15/) that leaves every U+17D2 where it is.

    NFC alone would swap U+17DD and U+17D2 (their combining classes are 230 and 9) and so tear the subscript sign from its
    consonant.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    return _COENG.join([unicodedata.normalize("NFC", part) for part in text.split(_COENG)])


def _canonical_text(text: str, zwsp: Zwsp, fold_coeng_da: bool) -> str:
    if _DEPRECATED.search(text):
        text = _DEPRECATED.sub(lambda match: _PREFERRED[match[0]], text)
    if _HAS_INVISIBLE.search(text):
        text = _INVISIBLE_RUN.sub(_kept_zwsp if zwsp == "keep" else _stripped_zwsp, text)
    text = CLUSTER.sub((_FOLDED if fold_coeng_da else _NOT_FOLDED).of, text)
    if _COENG + "\u17d4" in text or "\u17d4" + _COENG in text:
        text = _WAXING.sub(lambda match: chr(0x19E0 + int(match[1])), text)
        text = _WANING.sub(lambda match: chr(0x19F0 + int(match[1])), text)
    return text


class _Clusters(dict[str, str]):
    """The canonical form of every cluster met so far."""

    def __init__(self, fold_coeng_da: bool) -> None:
        self._fold_coeng_da = fold_coeng_da

    def of(self, match: re.Match[str]) -> str:
        return self[match[0]]

    def __missing__(self, cluster: str) -> str:
        canonical = _canonical(cluster, self._fold_coeng_da)
        if len(cluster) <= _CACHED_LENGTH:
            if len(self) >= _CACHE_LIMIT:
                self.clear()
            self[cluster] = canonical
        return canonical


_FOLDED, _NOT_FOLDED = _Clusters(fold_coeng_da=True), _Clusters(fold_coeng_da=False)


def _canonical(cluster: str, fold_coeng_da: bool) -> str:
    base = cluster[0]
    coengs: list[str] = []
    shifters: list[str] = []
    vowels: list[str] = []
    modifiers: list[str] = []
    finals: list[str] = []
    robat = zwnj = last_coeng = ""
    for part in _CLUSTER_PARTS.findall(cluster, 1):
        if part[0] == _COENG:
            if part[-1] in (_COENG, _ATTHACAN):
                last_coeng = _COENG
            else:
                coengs.append(_TA if fold_coeng_da and part[-1] == _DA else part[-1])
            if _ATTHACAN in part:
                modifiers.append(_ATTHACAN)
        elif part == _ROBAT:
            robat = part
        elif part == _ZWNJ:
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
    pushed = not _ABOVE_VOWELS.isdisjoint(vowels) or _ATTHACAN in modifiers or (_AA in vowels and _NIKAHIT in modifiers)
    above = pushed or _SAMYOK_SANNYA in modifiers
    if shifters != [lowered] or not (pushed if lowered == _TRIISAP else above):
        zwnj = ""  # nothing to hold up: SAMYOK SANNYA does not push TRIISAP down
    if above and _U in vowels:
        vowels.remove(_U)
        shifters = shifters or [lowered]
    subscripts = [_COENG + consonant for consonant in coengs]
    return "".join((base, robat, *subscripts, *shifters, zwnj, *vowels, *modifiers, *finals, last_coeng))


def _joined(vowels: list[str]) -> list[str]:
    """Vowels in order, the halves of OE and OO as one; OE and AA look the same as OO and II, and are written so."""
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
    """What stays of a run of invisible characters, by what stands on both sides of it."""
    before = run.string[run.start() - 1] if run.start() else " "
    after = run.string[run.end()] if run.end() < len(run.string) else " "
    sides = _is_khmer(before) + _is_khmer(after)
    stays = run[0].replace(_INHERENT[0], "").replace(_INHERENT[1], "")
    if sides:
        # In a cluster a ZWNJ may hold a shifter up; whether it does is seen there.
        zwnj = _ZWNJ if _ZWNJ in run[0] and _is_of_cluster(before) and before != _COENG else ""
        stays = zwnj + (_NOT_DIRECTIONS.sub("", stays) if sides == 1 else "")
    elif _is_foreign(before) or _is_foreign(after):
        return stays
    stays = stays.replace(_ZWSP, "")
    if not keep_zwsp or _ZWSP not in run[0]:
        return stays
    inside = _is_mark(after) or before == _COENG
    redundant = before.isspace() or after.isspace() or before in _ENDS_OF_PHRASES or after in _ENDS_OF_PHRASES
    return stays if inside or redundant else stays + _ZWSP


def _is_khmer(character: str) -> bool:
    return "\u1780" <= character <= "\u17ff" or "\u19e0" <= character <= "\u19ff" or character == "\u25cc"


def _is_foreign(character: str) -> bool:
    """A letter or mark of a script that is not Khmer or Latin, where a zero-width space is not ours to judge."""
    return character > "\u024f" and unicodedata.category(character)[0] in "LM" and not _is_khmer(character)


def _is_mark(character: str) -> bool:
    return "\u17b6" <= character <= "\u17d3" or character == _ATTHACAN


def _is_of_cluster(character: str) -> bool:
    return "\u1780" <= character <= "\u17b3" or _is_mark(character) or character == "\u25cc"
