"""Inspects a tokenizer, ours or another: what text each of its ids stands for, and how it splits texts into ids."""

import json
from pathlib import Path
from typing import Self
from unicodedata import category

import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.text.scripts import SCRIPT_RANGES
from tonsai_jax.tokenizer.encoding import BYTE_PIECE, is_byte_level, step_types, token_pieces, unknown_id
from tonsai_jax.tokenizer.folder_checksums import check_tokenizer_files

KHMER, LATIN, OTHER, SIGNS, BYTES, SPECIAL = KINDS = (
    "Khmer",
    "Latin",
    "other scripts",
    "digits and signs",
    "bytes",
    "special",
)
"""The kinds of tokens. Tokens with letters are named by the script of the first one; "digits and signs" have no letter; "bytes"
are parts of characters; "special" tokens stand for no text."""


class AnyTokenizer:
    """A tokenizer that is a byte-level BPE, or whose pieces write the space as U+2581 like those of SentencePiece.

    Ours are of these two kinds, and so are most others.

    Attributes:
      ids: number of ids.
      pieces: by id, the bytes that the id stands for; empty for special tokens and for unused ids.
      kinds: by id, one of `KINDS`; empty for unused ids.
      unknown_id: the id for text that the tokenizer cannot represent; None if it has no such id.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Raises `ValueError` for a tokenizer of another kind."""
        described = tokenizer.to_str()
        content = json.loads(described)
        spelling = step_types(content["decoder"]) | step_types(content["pre_tokenizer"])
        byte_level = is_byte_level(content)
        if not spelling & {"ByteLevel", "Metaspace", "ByteFallback", "Replace"}:
            raise ValueError("its tokens are neither byte-level nor pieces that write the space as U+2581")
        self._inner = tokenizers.Tokenizer.from_str(described)  # a copy: the caller's tokenizer is not changed
        self._inner.no_truncation()
        self._inner.no_padding()
        self._inner.encode_special_tokens = True  # special tokens that are spelled out in a text are encoded as text

        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        self.unknown_id = unknown_id(content["model"], vocabulary)
        self.ids = len(vocabulary)
        self.pieces = token_pieces(self._inner, content)
        self.kinds = [""] * len(self.pieces)
        added = self._inner.get_added_tokens_decoder()
        for token, id in vocabulary.items():
            if id == self.unknown_id or (id in added and added[id].special):
                self.kinds[id] = SPECIAL
                continue
            is_byte = not byte_level and BYTE_PIECE.fullmatch(token)
            self.kinds[id] = BYTES if is_byte else _kind(self.pieces[id])

    @classmethod
    def from_path(cls, path: str | Path) -> Self:
        """Opens a tokenizer's folder, or its tokenizer.json; raises `UserError` if it is missing or cannot be used."""
        given = Path(path)
        if not given.exists():
            raise UserError(f"{path}: no such tokenizer folder; train one with `tonsai train-tokenizer`")
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise UserError(
                f"{path}: has no tokenizer.json; write one with save_pretrained of Hugging Face's AutoTokenizer"
            )
        check_tokenizer_files(file.parent)
        read_json(file)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the Rust library raises plain `Exception`
            raise UserError(f"{file}: cannot be used as a tokenizer ({error}); give another folder") from None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def token(self, id: int) -> str:
        """The token of an id, as tokenizer.json spells it."""
        return self._inner.id_to_token(id) or ""


def is_text(piece: bytes) -> bool:
    """Whether the bytes are whole UTF-8 characters."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


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
