"""Gives the users of an exported model the normalization of its training text.

A Hugging Face tokenizer can hold replacements, so the frequent spellings are normalized by tokenizer.json itself. It cannot hold
the sorting of marks: `khmer_normalizer.py`, written next to it, does everything. docs/khmer.md says how far each of them goes.
"""

import dataclasses
import inspect
from collections.abc import Mapping

from tokenizers import Regex, normalizers

from tonsai_jax.text import khmer, normalize, syllables
from tonsai_jax.text.normalize import (
    ARABIC_DIGITS,
    CONTROL,
    DASHES,
    KHMER_DIGITS,
    LINE_END,
    QUOTES,
    WIDE_SPACE,
    Normalization,
)
from tonsai_jax.text.syllables import ATTHACAN, COENG, SUBSCRIPTS

NORMALIZER_FILE = "khmer_normalizer.py"

_RO, _DA, _TA = "\u179a", "\u178a", "\u178f"
# What tokenizer.json moves behind a coeng: shifters are the marks that writers most often put before one, and plain NFC would
# separate a coeng after ATTHACAN from its consonant. Vowels would be 16 more replacements, for one sentence in 500.
_MOVED = ("\u17c9", "\u17ca", ATTHACAN)
# A zero-width space stays next to a letter of a script other than Khmer and Latin.
_NO_FOREIGN_LETTER = "[\u0000-\u024f\u1780-\u17ff\u19e0-\u19ff]|[^\\p{L}\\p{M}]"


def tokenizer_normalizer(settings: Normalization) -> normalizers.Normalizer:
    """The part of `normalize` that consists of replacements, in the same order.

    White space at the ends and in runs stays, because a prompt may need it. Normalized text is not changed, and normalizing the
    result gives what normalizing the text gives, with two exceptions: marks that belong to no letter may change, and a
    zero-width space next to Latin letters or signs is removed in a text without Khmer too.
    """
    steps: list[normalizers.Normalizer] = []
    if settings.quotes:
        steps += _translated(QUOTES)
    if settings.dashes:
        steps += _translated(DASHES)
    if settings.digits == "khmer":
        steps += _translated(KHMER_DIGITS)
    if settings.controls:
        steps.append(_replaced(f"[{CONTROL}]", ""))
    if settings.whitespace:
        steps.append(_replaced(f"\r\n|[{LINE_END}]", "\n"))
        steps.append(_replaced(f"[{WIDE_SPACE}]", " "))
    if settings.khmer:
        steps += _khmer_steps(settings)
    if settings.nfc:
        steps.append(normalizers.NFC())
    if settings.digits == "arabic":
        steps += _translated(ARABIC_DIGITS)
    return normalizers.Sequence(steps)


def _khmer_steps(settings: Normalization) -> list[normalizers.Normalizer]:
    steps = []
    if settings.zwsp == "strip":
        steps.append(_replaced(f"(?<=^|{_NO_FOREIGN_LETTER})\u200b+(?=$|{_NO_FOREIGN_LETTER})", ""))
    if settings.fold_coeng_da:
        steps.append(normalizers.Replace(COENG + _DA, COENG + _TA))
    steps.append(_replaced("\u17c1\u17b8|\u17b8\u17c1", "\u17be"))
    steps.append(_replaced("\u17c1\u17b6|\u17b6\u17c1", "\u17c4"))
    # A replacement cannot swap two texts. So a mark that comes too early is written again where it belongs (an empty match after
    # the coeng that it should follow), and then the early one is removed.
    coeng, not_ro = COENG + f"[{SUBSCRIPTS}]", f"{COENG}(?!{_RO})[{SUBSCRIPTS}]"
    steps.append(_replaced(f"(?<={COENG}{_RO}{COENG}[{SUBSCRIPTS}])(?<!{_RO})", COENG + _RO))
    steps.append(_replaced(f"{COENG}{_RO}(?={not_ro}{COENG}{_RO})", ""))
    steps += [_replaced(f"(?<={mark}{coeng})", mark) for mark in _MOVED]
    steps.append(_replaced(f"([{''.join(_MOVED)}])(?={coeng}\\1)", ""))
    return steps


def _replaced(pattern: str, content: str) -> normalizers.Normalizer:
    """`pattern` for Oniguruma; what cannot be seen is written as in "\\u200B", so that people can read tokenizer.json."""
    readable = "".join(char if char.isprintable() else f"\\u{ord(char):04X}" for char in pattern)
    return normalizers.Replace(Regex(readable), content)


def _translated(table: Mapping[int, int | str]) -> list[normalizers.Normalizer]:
    """One replacement for each character that the table writes."""
    by_content: dict[str, str] = {}
    for point, content in table.items():
        content = content if isinstance(content, str) else chr(content)
        by_content[content] = by_content.get(content, "") + chr(point)
    return [_replaced(f"[{points}]", content) for content, points in by_content.items()]


_HEAD = '''"""Normalizes text as the training text of this model was normalized: the order of Khmer marks, spaces, Unicode NFC.

    from khmer_normalizer import normalize, normalize_prompt

    normalize_prompt(text)  # before the tokenizer, for a text that the model continues: white space stays
    normalize(text)         # for a whole document: white space is cleaned too

    python khmer_normalizer.py < lines.txt > normalized.txt

Needs only Python, 3.11 or newer. Made of three modules of tonsai_jax (Apache-2.0), with the settings of this model in DEFAULT.
"""
'''
_TAIL = """

if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    for line in sys.stdin:
        print(normalize(line.rstrip("\\n")))
"""
_NO_REPAIR = "  # mojibake: the training text was also repaired, with ftfy; True does that here, if ftfy is installed"


def normalizer_file(settings: Normalization) -> str:
    """Python code with `normalize` and `normalize_prompt` for `settings`, which needs no package.

    It is the source of our own modules, so it cannot give other results. Only wrongly decoded text is not repaired, because that
    needs a package.
    """
    sources = [inspect.getsource(module).splitlines() for module in (syllables, khmer, normalize)]
    imports = {line for source in sources for line in source if line.startswith(("import ", "from "))}
    lines = [*sorted(line for line in imports | {"import sys"} if "tonsai_jax" not in line), ""]
    lines += ["UserError = ValueError  # raised for a setting that does not exist"]
    for source in sources:
        lines += ["", *(line for line in source if line not in imports)]
    default = f"DEFAULT = {dataclasses.replace(settings, mojibake=False)!r}{_NO_REPAIR if settings.mojibake else ''}"
    lines[lines.index("DEFAULT = Normalization()")] = default
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
