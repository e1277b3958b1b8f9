"""Loads and checks a tokenizer's folder; encodes text to ids and decodes ids to exactly the same text."""

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
from tokenizers import models, normalizers, pre_tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file
from tonsai_jax.text.normalize import Normalization, normalize_prompt
from tonsai_jax.tokenizer.encoding import cut_where_words_end, encoder_for
from tonsai_jax.tokenizer.special_tokens import UNKNOWN

NORMALIZATION = "tonsai_normalization"  # key of tokenizer_config.json: the normalization of the training text
SPACE = "\u2581"  # written for a space in the pieces of Unigram
_CORES = os.cpu_count() or 1
_PART_CHARACTERS = 1_000_000  # of a long text, encoded at once
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

# Khmer with subscripts and a zero-width space, digits, an emoji of several code points, runs of space, NUL.
_PROBE = "ខ្ញុំ\u200bស្រឡាញ់ភាសាខ្មែរ ១២៣៤  It's 2026!\r\n\n\t👩🏽‍🚀 é\u0000<|endoftext|> "


class Tokenizer:
    """A byte-level BPE or Unigram tokenizer, with `decode(encode(text)) == text` for any text (one exception: `unigram.py`).

    Text never becomes a special token: a document that spells out "<|endoftext|>" gets the ids of those letters, not the
    end-of-text id. Code that needs a special token inserts its id.

    Attributes:
      folder: the tokenizer's folder.
      normalization: what the training text went through; None if it is not known.
      end_of_text_id: the id that separates documents.
      pad_id: the id for padding; the end-of-text id if the tokenizer has no padding token.
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
        inner.encode_special_tokens = True  # special tokens that are spelled out in a text are encoded as text
        self._encode = encoder_for(folder, inner)
        self._pool = ThreadPoolExecutor(_CORES)

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """Opens a tokenizer's folder; raises `UserError` if it is missing, damaged or of a kind that is not supported."""
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise UserError(f"{folder}: no such tokenizer folder; train one with `tonsai train-tokenizer`")
        config = read_json(folder / "tokenizer_config.json")
        inner = _read_tokenizer_json(folder / "tokenizer.json")
        end_of_text, pad = _named(config, "eos_token"), _named(config, "pad_token")
        special = {token.content: id for id, token in inner.get_added_tokens_decoder().items() if token.special}
        if end_of_text not in special:
            raise UserError(
                f"{folder}: eos_token in tokenizer_config.json is {end_of_text!r}, which is not one of the "
                f"special tokens in tokenizer.json ({', '.join(special) or 'none'}); train the tokenizer again"
            )
        end_of_text_id = special[end_of_text]
        pad_id = special.get(pad or "", end_of_text_id)
        normalization = _normalization(folder, config)
        if normalization is not None and isinstance(inner.normalizer, normalizers.Sequence):
            # An export's tokenizer.json normalizes. Here ids must give back the text, and callers have normalized it before.
            inner.normalizer = normalizers.Replace(" ", SPACE) if isinstance(inner.model, models.Unigram) else None
        tokenizer = cls(folder, inner, end_of_text_id, pad_id, normalization)
        if tokenizer.decode(tokenizer.encode(_PROBE)) != _PROBE:
            raise UserError(
                f"{folder / 'tokenizer.json'}: decoding does not give back the encoded text, so it is damaged or "
                "of a kind that cannot be used here; train one with `tonsai train-tokenizer`"
            )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; the ids are 0 to vocab_size - 1."""
        return self._inner.get_vocab_size()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends a generated text."""
        return (self.end_of_text_id,)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of tokenizer.json, in hex."""
        return sha256_file(self.folder / "tokenizer.json")

    def to_json(self) -> str:
        """The content of tokenizer.json, but without the normalization that an export adds to it."""
        return str(self._inner.to_str(pretty=True))

    def normalize_prompt(self, text: str) -> str:
        """Normalizes the beginning of a document like the training text, but keeps white space.

        The text is not changed if the normalization of the training text is not known.
        """
        if self.normalization is None:
            return text
        return normalize_prompt(text, self.normalization)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self._encode(text)

    def encode_in_parts(self, text: str) -> Iterator[list[int]]:
        """The ids of a text of any length, in parts of a million characters or more; put together, they are those of `encode`.

        They can differ only where a text has no space and no newline for a million characters: it is cut between two
        orthographic syllables there.
        """
        yield from map(self._encode, cut_where_words_end(text, _PART_CHARACTERS))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, computed on all cores."""
        size = -(-len(texts) // (4 * _CORES)) or 1  # several parts per core, because texts differ in length
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return list(chain.from_iterable(self._pool.map(lambda part: list(map(self._encode, part)), parts)))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; special tokens are written by name, and bytes that are not UTF-8 (a cut character) as U+FFFD."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        """The number of UTF-8 bytes that each id stands for: int32 (vocab_size,), 0 for special tokens."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, id in self._inner.get_vocab(with_added_tokens=True).items():
            if not self._is_unigram:
                sizes[id] = len(token)  # spelled with one printable character for each byte
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
    # transformers can write a token as a dict with its properties
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _normalization(folder: Path, config: dict[str, Any]) -> Normalization | None:
    settings = config.get(NORMALIZATION)
    try:
        return None if settings is None else Normalization(**settings)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: {NORMALIZATION} is not valid ({error}); train the tokenizer again"
        ) from None


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    value = read_json(path)
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain `Exception`
        raise UserError(
            f"{path}: cannot be read as a tokenizer ({error}); train one with `tonsai train-tokenizer`"
        ) from None
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if isinstance(inner.model, models.Unigram):
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        decoder: Any = value.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            raise UserError(
                f"{path}: only byte-level BPE and Unigram with byte fallback can be used; "
                "train one with `tonsai train-tokenizer`"
            )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    if set(vocabulary.values()) != set(range(len(vocabulary))):
        raise UserError(f"{path}: damaged, its ids are not 0 to {len(vocabulary) - 1}; train the tokenizer again")
    missing = [byte for byte in alphabet if byte not in vocabulary]
    if missing:
        raise UserError(
            f"{path}: damaged, {len(missing)} of the 256 byte tokens are missing; train the tokenizer again"
        )
    return inner
