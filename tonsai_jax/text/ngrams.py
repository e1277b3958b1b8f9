"""A text as a sequence of hashed units, and n-grams of units: the basis of near-duplicates, repetition and word lists.

A unit is a word, in lower case and without punctuation around it. In scripts that put no spaces between words, it is a Khmer
orthographic syllable, or one code point of another such script. No mark is lost: in Khmer and in the scripts of India, another
vowel sign is another word.
"""

import hashlib
import re

import numpy as np

from tonsai_jax.text.syllables import BASES, WELL_FORMED

# Thai, Lao, Tibetan, Burmese, Chinese, Japanese.
_UNSPACED = "\u0e01-\u0e5b\u0e81-\u0fff\u1000-\u109f\u2e80-\u2fdf\u3005-\u3007\u3021-\u9fff\uf900-\ufaff"
# Code points instead of classes such as \s, because `re` is faster with them: it looks each character up in a table.
_SEPARATORS = (
    "\x00-/:-@\\[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u1680\u2000-\u206f\u20a0-\u20cf\u2190-\u2bff\u3000-\u3004"
    "\u3008-\u3020\ufe30-\ufe6f\uff00-\uff0f\u17d4-\u17db"
)
_UNIT = re.compile(f"{WELL_FORMED.pattern}|[{_UNSPACED}]|[^{_SEPARATORS}{_UNSPACED}{BASES}]+")
_ASCII_UNIT = re.compile("[a-z0-9]+")

_CACHE_LIMIT = 500_000  # distinct units with a cached hash; takes about 100 MB
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xD6E8FEB86659FD93)


def units(text: str) -> list[str]:
    """The units of a text, in order."""
    return (_ASCII_UNIT if text.isascii() else _UNIT).findall(text.lower())


def hashed(row: list[str]) -> np.ndarray:
    """A hash of each unit, uint64 (units,), the same in every process."""
    if len(_HASHES) > _CACHE_LIMIT:
        _HASHES.clear()
    return np.fromiter(map(_HASHES.__getitem__, row), np.uint64, len(row))


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """A hash of each run of `n` consecutive units, uint64 (units - n + 1,); empty for fewer than `n` units."""
    count = len(hashes) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    mixed = np.zeros(count, np.uint64)
    for place in range(n):
        mixed *= _MULTIPLIER
        mixed += hashes[place : place + count]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIXER
    mixed ^= mixed >> np.uint64(29)
    return mixed


def text_hash(encoded: bytes) -> int:
    """A 64-bit hash of a text. Among n texts, two share a hash with probability n^2 / 2^65: 1 in 3,700 for 100 million."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


class _Hashes(dict[str, int]):
    def __missing__(self, unit: str) -> int:
        value = self[unit] = text_hash(unit.encode("utf-8", "surrogatepass"))
        return value


_HASHES = _Hashes()
