"""The tokenizer that is extended: the tokenizer.json of a byte-pair tokenizer, ours or an open model's, and how it spells text.

Two kinds are known. Byte-level: GPT-2, Llama 3, Qwen, SmolLM2, ours; a token is spelled with one printable letter for each byte.
Byte fallback: Llama 2, Mixtral, Gemma; a token is spelled as text, with U+2581 for a space, and a character without a token
becomes tokens such as <0xE1>.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import category

import regex
import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.text.scripts import SCRIPT_RANGES
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer, is_text
from tonsai_jax.tokenizer.encoding import BYTE_OF_LETTER, LETTER_OF_BYTE, SPACE, is_byte_level
from tonsai_jax.tokenizer.folder_checksums import check_tokenizer_files

# What ByteLevel splits by where it has no Split before it: GPT-2's pattern.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PROBED_RUNS = 1000  # of letters, to see whether the pre-tokenizer cuts marks from letters
_BYTE_FALLBACK_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")


class BaseTokenizer:
    """A byte-pair tokenizer that can get more tokens.

    Attributes:
      folder: where it was read.
      content: of tokenizer.json.
      is_byte_level: its kind, see the top of this file.
      ids: {spelling: id} of all tokens, special ones included.
      pieces: by id, the bytes that it stands for; empty for special tokens and unused ids.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        """Raises `UserError` for a tokenizer that is not byte-pair encoding of one of the two kinds."""
        self.folder = folder
        self.content = content
        model = content.get("model") if isinstance(content, dict) else None
        kind = model.get("type") if isinstance(model, dict) else None
        if kind == "Unigram":
            raise UserError(
                f"{folder}: a Unigram tokenizer cannot be extended, because its scores are learned for all tokens together; "
                "train a new one with `tonsai train-tokenizer --model-type unigram`, which can replace it"
            )
        self.is_byte_level = kind == "BPE" and is_byte_level(content)
        if kind != "BPE" or not (self.is_byte_level or content["model"].get("byte_fallback")):
            raise UserError(
                f"{folder}: only byte-pair encoding over bytes, or with byte fallback, can be extended, not {kind or 'this'}; "
                "train a new tokenizer with `tonsai train-tokenizer`, which can replace it"
            )
        try:
            self.inner = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the Rust library raises plain `Exception`
            raise UserError(f"{folder / 'tokenizer.json'}: cannot be read as a tokenizer ({error})") from None
        self.ids: dict[str, int] = self.inner.get_vocab(with_added_tokens=True)
        self.pieces = AnyTokenizer(self.inner).pieces

    @classmethod
    def from_folder(cls, path: str | Path) -> "BaseTokenizer":
        """Opens a tokenizer's folder; raises `UserError` where that is not possible."""
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise UserError(f"{path}: no such tokenizer folder; give the folder of the model, or of its tokenizer")
        check_tokenizer_files(folder)
        return cls(folder, read_json(folder / "tokenizer.json"))

    def spell(self, piece: bytes) -> str:
        """The spelling of a token in tokenizer.json. With byte fallback, only whole characters have one."""
        if self.is_byte_level:
            return "".join(map(LETTER_OF_BYTE.__getitem__, piece))
        return piece.decode().replace(" ", SPACE)

    def can_spell(self, piece: bytes) -> bool:
        return self.is_byte_level or is_text(piece)

    def cuts(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """All ways to cut a token into two parts that can be tokens."""
        ways = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        return [way for way in ways if self.is_byte_level or (is_text(way[0]) and is_text(way[1]))]

    def words(self, texts: Iterable[str]) -> Counter[str]:
        """How often each word occurs, spelled as the model of tokenizer.json takes it. No token crosses the end of a word."""
        normalizer, pre_tokenizer = self.inner.normalizer, self.inner.pre_tokenizer
        found: Counter[str] = Counter()
        for text in texts:
            if normalizer is not None:
                text = normalizer.normalize_str(text)
            pieces = [text] if pre_tokenizer is None else [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
            if self.is_byte_level:
                found.update(pieces)
            else:
                for piece in pieces:
                    found.update(_BYTE_FALLBACK_WORD.findall(piece))
        return found

    def text_of(self, word: str) -> str:
        """The text of a word of `words`."""
        if self.is_byte_level:
            return bytes(map(BYTE_OF_LETTER.__getitem__, word)).decode(errors="replace")
        return word.replace(SPACE, " ")

    def tokenize(self, word: str) -> list[int]:
        """The ids of a word of `words`."""
        return [token.id for token in self.inner.model.tokenize(word)]

    def cuts_marks(self, script: str, texts: Iterable[str]) -> bool:
        """Whether the pre-tokenizer cuts letters of a script from their marks, as GPT-2's pattern does."""
        if self.inner.pre_tokenizer is None or not self.is_byte_level:
            return False
        runs = (run for text in texts for run in re.findall(letters_of(script), text))
        for _, run in zip(range(_PROBED_RUNS), runs, strict=False):
            starts = [start for _, (start, _) in self.inner.pre_tokenizer.pre_tokenize_str(run)]
            if any(start and category(run[start])[0] == "M" for start in starts):
                return True
        return False

    def with_whole_words(self, script: str) -> "BaseTokenizer":
        """The same tokenizer, but a run of letters and marks of a script, with a space before it, is one word.

        Text without letters of the script keeps its ids. First a step isolates the runs; then the tokenizer's own pattern cuts
        the rest as before, and leaves the runs whole.
        """
        content = copy.deepcopy(self.content)
        run = f" ?{letters_of(script)}"
        steps = content["pre_tokenizer"].get("pretokenizers", [content["pre_tokenizer"]])
        whole: list[dict[str, Any]] = [_split(run)]
        for step in steps:
            if step["type"] == "ByteLevel" and step.get("use_regex", True):
                whole += [_split(f"{run}|{GPT2_PATTERN}"), step | {"use_regex": False}]
            elif step["type"] == "Split" and "Regex" in step["pattern"] and step["behavior"] == "Isolated":
                whole.append(step | {"pattern": {"Regex": f"{run}|{step['pattern']['Regex']}"}})
            else:
                whole.append(step)
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": whole}
        return BaseTokenizer(self.folder, content)


def letters_of(script: str) -> str:
    """A regular expression for a run of letters and marks of a script, for Python and for tokenizer.json."""
    ranges = "".join(f"{chr(first)}-{chr(last)}" for first, last in SCRIPT_RANGES[script])
    return f"[{ranges}]+"


def characters_of(script: str) -> regex.Pattern[str]:
    """A run of characters of a script: its letters and marks, and the digits and signs that only it has."""
    try:
        return regex.compile(f"(?:{letters_of(script)}|\\p{{Script={script}}})+")
    except regex.error:  # a code for several scripts together, such as Jpan
        return regex.compile(letters_of(script))


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
