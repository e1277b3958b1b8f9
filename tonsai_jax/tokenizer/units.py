"""The units that byte-pair encoding merges: characters, and Khmer orthographic syllables.

With bytes as units, a tenth of the vocabulary would be parts of characters: a Khmer letter has three bytes and the first two are
nearly always the same, so the end of one letter with the beginning of the next would be the most frequent pair of all.

Merges make these units, as they make all other tokens, and come before the others: a character from its bytes, left to right; a
coeng with its consonant; an orthographic syllable from its parts, left to right. No such merge joins parts of two syllables.
"""

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import tiktoken

from tonsai_jax.text.syllables import COENG, SYLLABLE, SYLLABLE_PART
from tonsai_jax.tokenizer.merging import END

BYTES = [bytes([byte]) for byte in range(256)]
CHARACTER_COVERAGE = 0.9999  # of all characters in the text; rarer ones are written in bytes
SYLLABLE_SHARE = 1e-4  # of all orthographic syllables in the text; rarer ones are written in characters
_UNIT = re.compile(f"{SYLLABLE.pattern}|.", re.DOTALL)


class CutWords:
    """Words cut into characters and orthographic syllables.

    Args:
      words: {word: how often it occurs}.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        numbers: dict[str, int] = {}
        stream, lengths = array("i", [END]), array("i", [1])
        for word in words:
            units = _UNIT.findall(word)
            stream.extend([numbers.setdefault(unit, len(numbers)) for unit in units])
            stream.append(END)
            lengths.append(len(units) + 1)
        self._units = list(numbers)
        self._stream = np.frombuffer(stream, np.int32)
        self._counts = np.repeat(np.fromiter((0, *words.values()), np.int32), np.frombuffer(lengths, np.int32))

    def frequent(self, room: int) -> list[bytes]:
        """At most `room` tokens for the most frequent orthographic syllables and characters beyond ASCII.

        The order is one of merges: each token is made of two tokens before it, or of bytes.
        """
        inside = self._stream != END
        totals = np.bincount(self._stream[inside], self._counts[inside], len(self._units)).astype(np.int64)
        characters: Counter[str] = Counter()
        syllables: Counter[str] = Counter()
        for unit, total in zip(self._units, totals.tolist(), strict=True):
            for character in unit:
                characters[character] += total
            if len(unit) > 1:  # merges make the beginnings of a syllable first, so it counts for those too
                for beginning in list(accumulate(SYLLABLE_PART.findall(unit)))[1:]:
                    syllables[beginning] += total
        wanted = _covering(characters, CHARACTER_COVERAGE) + _above(syllables, SYLLABLE_SHARE)
        tokens: dict[bytes, None] = {}
        for unit in sorted(wanted, key=lambda unit: (-max(characters[unit], syllables[unit]), unit)):
            new = [token for token in _makings(unit) if token not in tokens]
            if len(tokens) + len(new) > room:
                break
            tokens.update(dict.fromkeys(new))
        return sorted(tokens, key=_order)

    def symbols(self, tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The words as `learn_merges` takes them: symbols and counts, each int32 (n,).

        A symbol is the index of a token in `tokens`, which start with the bytes. The bytes of a character without a token
        become `END`, so that no token gets a part of a character.
        """
        encoding = tiktoken.Encoding(
            "units",
            pat_str="(?s:.+)",
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens={},
        )
        whole = [_is_text(token) for token in tokens]
        rows = [[id if whole[id] else END for id in encoding.encode_ordinary(unit)] for unit in self._units]
        rows.append([END])  # the last row: the stream refers to it by -1
        lengths = np.array([len(row) for row in rows], np.int32)
        starts = np.cumsum(lengths) - lengths
        flat = np.array([symbol for row in rows for symbol in row], np.int32)
        times = lengths[self._stream]
        begins = np.cumsum(times) - times
        positions = np.repeat(starts[self._stream] - begins, times) + np.arange(times.sum())
        return flat[positions], np.repeat(self._counts, times)


def _covering(counts: Counter[str], share: float) -> list[str]:
    """The most frequent non-ASCII characters; together with the ASCII ones they are `share` of all characters."""
    left = sum(counts.values()) * (1 - share)
    rare = set()
    for character, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        left -= count
        if left < 0:
            break
        rare.add(character)
    return [character for character in counts if character not in rare and not character.isascii()]


def _above(counts: Counter[str], share: float) -> list[str]:
    least = sum(counts.values()) * share
    return [syllable for syllable, count in counts.items() if count >= least]


def _makings(unit: str) -> list[bytes]:
    """The tokens that merges make on the way to a character or a syllable, and the unit itself."""
    parts = SYLLABLE_PART.findall(unit)
    tokens = [token for character in unit for token in accumulate(_bytes_of(character))]
    tokens += [part.encode() for part in parts[1:]]
    tokens += [beginning.encode() for beginning in accumulate(parts)]
    return [token for token in dict.fromkeys(tokens) if len(token) > 1]


def _order(token: bytes) -> tuple[int, int, bytes]:
    """Characters and their parts first; then coengs, so that no vowel merges with their consonants before; then syllables."""
    text = token.decode(errors="ignore")
    kind = 0 if len(text) < 2 else 1 if text.startswith(COENG) else 2
    return kind, len(token), token


def _bytes_of(character: str) -> list[bytes]:
    return [bytes([byte]) for byte in character.encode()]


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
