"""A tokenizer of whatever make, opened to be looked at: what each of its ids stands for, and how it cuts texts."""

import json
import re
from pathlib import Path
from typing import Any, Self
from unicodedata import category

import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.text.scripts import SCRIPT_RANGES
from tonsai_jax.tokenizer.encoding import BYTE_OF_LETTER
from tonsai_jax.tokenizer.loading import SPACE

KHMER, LATIN, OTHER, SIGNS, BYTES, SPECIAL = KINDS = (
    "Khmer",
    "Latin",
    "other scripts",
    "digits and signs",
    "bytes",
    "special",
)
"""Kinds of tokens: by the script of the first letter; without letters; parts of characters, or bytes; standing for no text."""

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class AnyTokenizer:
    """A byte-level BPE, or one whose pieces have U+2581 for a space, as SentencePiece's have: ours, and most others.

    Attributes:
      ids: how many there are.
      pieces: the bytes that each id stands for, by id; none for special tokens, and where there is no such id.
      kinds: which of `KINDS` each id is, by id; "" where there is no such id.
      unknown_id: the id of what it cannot write, or None.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Raises `ValueError` where it is of another kind."""
        described = tokenizer.to_str()
        content = json.loads(described)
        spelling = _types(content["decoder"]) | _types(content["pre_tokenizer"])
        if not spelling & {"ByteLevel", "Metaspace", "ByteFallback", "Replace"}:
            raise ValueError("neither byte-level nor made of pieces with U+2581 for the space")
        self._inner = tokenizers.Tokenizer.from_str(described)  # not to change what was given
        self._inner.no_truncation()
        self._inner.no_padding()
        self._inner.encode_special_tokens = True  # as text, that is: do not look for them

        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        model = content["model"]
        unknown_id = model.get("unk_id")
        self.unknown_id = unknown_id if unknown_id is not None else vocabulary.get(model.get("unk_token"))
        self.ids = len(vocabulary)
        self.pieces = [b""] * (max(vocabulary.values()) + 1)
        self.kinds = [""] * len(self.pieces)
        added = self._inner.get_added_tokens_decoder()
        for token, id in vocabulary.items():
            if id == self.unknown_id or (id in added and added[id].special):
                self.kinds[id] = SPECIAL
                continue
            if id in added:
                self.pieces[id] = token.encode()
            elif "ByteLevel" in spelling:
                self.pieces[id] = _of_letters(token)
            else:
                self.pieces[id] = _of_piece(token)
            is_byte = "ByteLevel" not in spelling and _BYTE_PIECE.fullmatch(token)
            self.kinds[id] = BYTES if is_byte else _kind(self.pieces[id])

    @classmethod
    def from_path(cls, path: str | Path) -> Self:
        """Opens a tokenizer's folder, or its tokenizer.json; raises `UserError` where there is none that can be read."""
        given = Path(path)
        if not given.exists():
            raise UserError(f"{path}: no such tokenizer folder; train one with scripts/train_tokenizer.py")
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise UserError(
                f"{path}: no tokenizer.json in it; Hugging Face's AutoTokenizer writes one with save_pretrained"
            )
        read_json(file)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # what the Rust side raises has no narrower type
            raise UserError(f"{file}: not a tokenizer this program can read ({error})") from None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without any special token."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def token(self, id: int) -> str:
        """The name of an id, as tokenizer.json spells it."""
        return self._inner.id_to_token(id) or ""


def is_text(piece: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _types(step: dict[str, Any] | None) -> set[str]:
    """The types of a decoder or pre-tokenizer, and of those that it is a sequence of."""
    if step is None:
        return set()
    parts = step.get("decoders") or step.get("pretokenizers") or []
    return {step["type"]}.union(*map(_types, parts))


def _of_letters(token: str) -> bytes:
    try:
        return bytes(map(BYTE_OF_LETTER.__getitem__, token))
    except KeyError:  # not spelt in letters of bytes
        return token.encode()


def _of_piece(token: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def _kind(piece: bytes) -> str:
    if not is_text(piece):
        return BYTES
    letter = next((character for character in piece.decode() if category(character)[0] in "LM"), None)
    if letter is None:
        return SIGNS
    for kind, script in ((KHMER, "Khmr"), (LATIN, "Latn")):
        if any(first <= ord(letter) <= last for first, last in SCRIPT_RANGES[script]):
            return kind
    return OTHER
