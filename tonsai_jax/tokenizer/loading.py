"""A tokenizer's folder, opened and checked: text to ids and back, exactly."""

import dataclasses
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file
from tonsai_jax.text.normalize import Normalization, normalize
from tonsai_jax.tokenizer.encoding import cut_where_words_end, encoder_for
from tonsai_jax.tokenizer.special_tokens import UNKNOWN

NORMALIZATION = "tonsai_normalization"  # key of tokenizer_config.json: what was done to the text that it was trained on
SPACE = "\u2581"  # what Unigram's pieces have for a space
_CORES = os.cpu_count() or 1
_PART_CHARACTERS = 1_000_000  # of a text that are encoded at once
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

# Khmer with subscripts and a zero-width space, digits, an emoji of several code points, runs of space, NUL.
_PROBE = "ខ្ញុំ\u200bស្រឡាញ់ភាសាខ្មែរ ១២៣៤  It's 2026!\r\n\n\t👩🏽‍🚀 é\u0000<|endoftext|> "


class Tokenizer:
    """A tokenizer, of byte-level BPE or Unigram: `decode(encode(text)) == text` for any text (but see `unigram.py`).

    Text is only ever text: a document that spells out "<|endoftext|>" gets the ids of those letters, never
    the end-of-text id. Special tokens are put in by id, by the code that means them.
    """

    def __init__(
        self,
        folder: Path,
        inner: tokenizers.Tokenizer,
        end_of_text_id: int,
        pad_id: int,
        normalization: Normalization | None,
    ) -> None:
        self.folder = folder
        self.normalization = normalization
        self.end_of_text_id = end_of_text_id
        self.pad_id = pad_id
        self._inner = inner
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # as text, that is: do not look for them
        self._encode = encoder_for(folder, inner)
        self._pool = ThreadPoolExecutor(_CORES)

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """Opens a tokenizer's folder; raises UserError when it is missing, damaged or not byte-level."""
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise UserError(f"{folder}: no such tokenizer folder; train one with scripts/train_tokenizer.py")
        config = read_json(folder / "tokenizer_config.json")
        inner = _read_tokenizer_json(folder / "tokenizer.json")
        end_of_text, pad = _named(config, "eos_token"), _named(config, "pad_token")
        special = {token.content: id for id, token in inner.get_added_tokens_decoder().items() if token.special}
        if end_of_text not in special:
            raise UserError(
                f"{folder}: eos_token in tokenizer_config.json is {end_of_text!r}, which is not among the "
                f"special tokens of tokenizer.json ({', '.join(special) or 'none'}); train it again"
            )
        end_of_text_id = special[end_of_text]
        pad_id = special.get(pad or "", end_of_text_id)
        tokenizer = cls(folder, inner, end_of_text_id, pad_id, _normalization(folder, config))
        if tokenizer.decode(tokenizer.encode(_PROBE)) != _PROBE:
            raise UserError(
                f"{folder / 'tokenizer.json'}: does not give back the text it encodes, so it is damaged or "
                "of a kind that cannot be used here; train one with scripts/train_tokenizer.py"
            )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included; ids run from 0 to vocab_size - 1."""
        return self._inner.get_vocab_size()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of tokenizer.json, in hex."""
        return sha256_file(self.folder / "tokenizer.json")

    def normalize_prompt(self, text: str) -> str:
        """The beginning of a document as the documents were written that the tokenizer knows; white space stays.

        Text is left as it is by a tokenizer of which nothing is known.
        """
        if self.normalization is None:
            return text
        return normalize(text, dataclasses.replace(self.normalization, whitespace=False))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without any special token."""
        return self._encode(text)

    def encode_in_parts(self, text: str) -> Iterator[list[int]]:
        """Ids of a text of any length, some millions at a time; together they are what `encode` gives.

        But for a text that has neither a space nor a newline for a million characters: it is cut between two clusters there.
        """
        yield from map(self._encode, cut_where_words_end(text, _PART_CHARACTERS))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, as `encode` gives them, on all cores."""
        size = -(-len(texts) // (4 * _CORES)) or 1  # some parts for each core, as texts are of all lengths
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return list(chain.from_iterable(self._pool.map(lambda part: list(map(self._encode, part)), parts)))

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens by name, U+FFFD for bytes that are not UTF-8 (a cut character)."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        """Number of UTF-8 bytes each id stands for: int32 (vocab_size,), 0 for special tokens."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, id in self._inner.get_vocab(with_added_tokens=True).items():
            if not self._is_unigram:
                sizes[id] = len(token)  # spelt with one printable character for each byte
            elif token != UNKNOWN:
                sizes[id] = 1 if _BYTE_PIECE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
        for id, added in self._inner.get_added_tokens_decoder().items():
            sizes[id] = 0 if added.special else len(added.content.encode())
        return sizes

    @property
    def _is_unigram(self) -> bool:
        return isinstance(self._inner.model, models.Unigram)


def _named(config: Any, key: str) -> str | None:
    token = config.get(key) if isinstance(config, dict) else None
    # transformers may write a token with its properties
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _normalization(folder: Path, config: dict[str, Any]) -> Normalization | None:
    settings = config.get(NORMALIZATION)
    try:
        return None if settings is None else Normalization(**settings)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: {NORMALIZATION} is not understood ({error}); train it again"
        ) from None


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    value = read_json(path)
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # what the Rust side raises has no narrower type
        raise UserError(f"{path}: not a tokenizer this program can read ({error})") from None
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if isinstance(inner.model, models.Unigram):
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        decoder: Any = value.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            raise UserError(
                f"{path}: only byte-level BPE and Unigram with byte fallback can be used; "
                "train one with scripts/train_tokenizer.py"
            )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    if set(vocabulary.values()) != set(range(len(vocabulary))):
        raise UserError(f"{path}: damaged, its ids are not 0 to {len(vocabulary) - 1}; train it again")
    missing = [byte for byte in alphabet if byte not in vocabulary]
    if missing:
        raise UserError(f"{path}: damaged, {len(missing)} of the 256 byte tokens are missing; train it again")
    return inner
