"""The Khmer orthographic syllable: the one definition that normalization, duplicate search and tokenizers share.

An orthographic syllable is a base (a consonant or an independent vowel) with everything attached to it: subscripts, vowel signs
and other marks. Khmer has no spaces between words, so the syllable is the smallest unit of text that a reader would not cut.
"""

import re

COENG, ATTHACAN, ZWNJ = "\u17d2", "\u17dd", "\u200c"
BASES = "\u1780-\u17a2\u17a5-\u17b3\u25cc"  # consonants, independent vowels, the dotted circle that carries a mark
SUBSCRIPTS = "\u1780-\u17a2\u17a5-\u17b3"
_MARKS = "\u17b6-\u17d1\u17d3\u17dd"

# NFC may have put ATTHACAN between a coeng and its consonant.
WELL_FORMED = re.compile(f"[{BASES}](?:{COENG}[{COENG}{ATTHACAN}]*[{SUBSCRIPTS}]|[{_MARKS}{ZWNJ}])*")
# A coeng without a consonant is a typing error. It stays with the syllable before it.
SYLLABLE = re.compile(f"{WELL_FORMED.pattern}{COENG}*")
# The end of a text that may go on as the same syllable. Its base can be missing, where a text begins inside a syllable.
OPEN_SYLLABLE = f"[{BASES}]?(?:{COENG}[{COENG}{ATTHACAN}]*[{SUBSCRIPTS}]|[{COENG}{_MARKS}{ZWNJ}])*"
# The parts of a syllable: the base, each coeng with its consonant, each mark. Of other text: each character.
SYLLABLE_PART = re.compile(f"{COENG}[{COENG}{ATTHACAN}]*[{SUBSCRIPTS}]?|.", re.DOTALL)
