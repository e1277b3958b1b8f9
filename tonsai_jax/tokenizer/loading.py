"""Loads and checks a tokenizer's folder; encodes text to ids and decodes ids to exactly the same text."""

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file
from tonsai_jax.tokenizer.encoding import (
    PROBE,
    SPACE,
    SPACE_AFTER_WORD,
    WORD_END,
    cut_where_words_end,
    encoder_for,
    inner_tokenizer,
    token_pieces,
)
from tonsai_jax.tokenizer.folder_checksums import FILES, FILES_OF_OPEN_MODELS, check_tokenizer_files
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT, END_OF_TURN, SpecialIds, token_named

if TYPE_CHECKING:
    from tonsai_jax.text.normalize import Normalization

# Keys of tokenizer_config.json. In ours: the normalization of the text that it was trained on. In the tokenizer of an open model,
# next to token rows: that of the text in the rows.
NORMALIZATION, ROWS_NORMALIZATION = "tonsai_normalization", "tonsai_rows_normalization"
# Files with the tokens of a tokenizer; of these only the first is read, and transformers makes it of the others.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_CORES = os.cpu_count() or 1
_PART_CHARACTERS = 1_000_000  # of a long text, encoded at once


class Tokenizer:
    """A byte-level BPE, or a BPE or Unigram with byte fallback: ours, or one of an open model.

    It never loses a byte: `decode(encode(text)) == prefix + text`, where `prefix` is empty for ours, and for most others. A
    tokenizer that works on Unicode NFC gives back the NFC of the text. One exception: the pieces of SentencePiece write the
    space as U+2581, so that character becomes a space.

    Text never becomes a special token: a document that spells out "<|endoftext|>" gets the ids of those letters, not the
    end-of-text id. Code that needs a special token inserts its id.

    Attributes:
      folder: the tokenizer's folder.
      is_ours: whether `tonsai train-tokenizer` made it.
      end_of_text_id: the id that separates documents, and that comes before a prompt.
      end_ids: every id that ends a generated text.
      pad_id: the id for padding; the end-of-text id if the tokenizer has no padding token.
      special_ids: these ids, and those of the tokenizer's own files.
      prefix: what the tokenizer puts before every text: " " for Llama 2 and its relatives, else "".
      pieces: by id, the bytes that it stands for; empty for special tokens and for ids that are not used.
    """

    def __init__(
        self,
        folder: Path,
        inner: tokenizers.Tokenizer,
        special: SpecialIds,
        normalization: dict[str, Any] | None,
        *,
        is_ours: bool = True,
        prefix: str = "",
    ) -> None:
        self.folder = folder
        self.is_ours = is_ours
        self._normalization = normalization
        self.end_of_text_id, self.end_ids = special.end_of_text, special.ends
        self.special_ids = special
        self.pad_id = special.end_of_text if special.pad is None else special.pad
        self.prefix = prefix
        self._inner = inner
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # special tokens that are spelled out in a text are encoded as text
        self._encode = encoder_for(folder, inner)
        self.pieces = token_pieces(inner, json.loads(inner.to_str()))
        # What `decode` writes for each id: a special token by its name.
        self._written = [piece or (inner.id_to_token(id) or "").encode() for id, piece in enumerate(self.pieces)]
        self._pool = ThreadPoolExecutor(_CORES)

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """Opens a tokenizer's folder; raises `UserError` if it is missing, damaged or of a kind that is not supported."""
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise UserError(f"{folder}: no such tokenizer folder; train one with `tonsai train-tokenizer`")
        tokenizer = cls._opened(folder)
        check_tokenizer_files(folder)  # last: an error of what the files say is clearer
        return tokenizer

    @classmethod
    def _opened(cls, folder: Path) -> Self:
        content = read_tokenizer_json(folder / "tokenizer.json")
        # Some open models do without this file: their config.json has the special ids.
        others = [name for name in ("config.json", "generation_config.json") if (folder / name).exists()]
        file = folder / "tokenizer_config.json"
        config = read_json(file) if file.exists() or not others else {}
        config = config if isinstance(config, dict) else {}
        if NORMALIZATION in config and _added_ids(content).get(END_OF_TEXT) == 0:
            return cls._ours(folder, content, config)
        from tonsai_jax.tokenizer.open_model import open_model_tokenizer, refusing  # no run with our tokenizer needs it

        inner, special, prefix, unwritable = open_model_tokenizer(folder, content, config)
        tokenizer = cls(folder, inner, special, config.get(ROWS_NORMALIZATION), is_ours=False, prefix=prefix)
        tokenizer._encode = refusing(tokenizer._encode, unwritable, folder)
        return tokenizer

    @classmethod
    def _ours(cls, folder: Path, content: dict[str, Any], config: dict[str, Any]) -> Self:
        inner = _checked(folder / "tokenizer.json", content)
        end_of_text, pad = token_named(config, "eos_token"), token_named(config, "pad_token")
        special = {token.content: id for id, token in inner.get_added_tokens_decoder().items() if token.special}
        if end_of_text not in special:
            raise UserError(
                f"{folder}: eos_token in tokenizer_config.json is {end_of_text!r}, which is not one of the "
                f"special tokens in tokenizer.json ({', '.join(special) or 'none'}); train the tokenizer again"
            )
        if isinstance(inner.normalizer, normalizers.Sequence):
            # An export's tokenizer.json normalizes. Here ids must give back the text, and callers have normalized it before.
            inner.normalizer = normalizers.Replace(" ", SPACE) if isinstance(inner.model, models.Unigram) else None
        end = special[end_of_text]
        ends = [end]
        if END_OF_TURN in special and (folder / "chat_template.jinja").exists():
            ends.append(special[END_OF_TURN])
        ids = SpecialIds(end, eos=end, bos=end, pad=special.get(pad or ""), ends=tuple(ends))
        tokenizer = cls(folder, inner, ids, config[NORMALIZATION])
        if tokenizer.decode(tokenizer.encode(PROBE)) != PROBE:
            raise UserError(
                f"{folder / 'tokenizer.json'}: decoding does not give back the encoded text, so it is damaged; "
                "train the tokenizer again"
            )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """The largest id + 1; ours use every id below it, the tokenizers of open models can have gaps."""
        return len(self.pieces)

    @cached_property
    def required_rows(self) -> int:
        """The rows that a model needs for these ids: the largest id that text or a special id in use has, + 1.

        It is less than `vocab_size` where special tokens that nothing uses come last: Gemma 3's smaller models have no row for
        the token that stands for an image.
        """
        ids = self.special_ids
        in_use = [id for id in (ids.bos, ids.pad, *ids.ends) if id is not None]
        return max(*in_use, *(id for id, piece in enumerate(self.pieces) if piece)) + 1

    @property
    def files(self) -> list[Path]:
        """The files of the folder that belong to the tokenizer; a folder with only these is the same tokenizer."""
        names = FILES if self.is_ours else FILES_OF_OPEN_MODELS
        return [path for name in sorted(names) if (path := self.folder / name).is_file()]

    @cached_property
    def normalization(self) -> "Normalization | None":
        """What the training text went through; None if it is not known. Raises `UserError` for settings that are not valid."""
        if self._normalization is None:
            return None
        from tonsai_jax.text.normalize import Normalization  # imported here: training on token rows does without it

        try:
            return Normalization(**self._normalization)
        except (TypeError, UserError) as error:
            raise UserError(
                f"{self.folder / 'tokenizer_config.json'}: {NORMALIZATION if self.is_ours else ROWS_NORMALIZATION} is not valid "
                f"({error}); train the tokenizer again"
            ) from None

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token by its name; none of them stands for text."""
        named = {self._inner.id_to_token(id): id for id, piece in enumerate(self.pieces) if not piece}
        return {name: id for name, id in named.items() if name is not None}

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template, a program in Jinja; None if the tokenizer has none."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        for name in ("tokenizer_config.json", "chat_template.json"):
            file = self.folder / name
            found = read_json(file) if file.is_file() else {}
            template = found.get("chat_template") if isinstance(found, dict) else None
            if isinstance(template, list):  # several, by name
                template = next((each["template"] for each in template if each.get("name") == "default"), None)
            if isinstance(template, str):
                return template
        return None

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
        from tonsai_jax.text.normalize import normalize_prompt  # as above

        return normalize_prompt(text, self.normalization)

    def encode(self, text: str, *, with_prefix: bool = True) -> list[int]:
        """The ids of `prefix + text`, without special tokens; none for an empty text.

        Args:
          with_prefix: False for a text that continues another one, which has the prefix.
        """
        return self._encode(self.prefix + text if text and with_prefix else text)

    def encode_in_parts(self, text: str) -> Iterator[list[int]]:
        """The ids of a text of any length, in parts of a million characters or more; put together, they are those of `encode`.

        They can differ only where a text has no space and no newline for a million characters: it is cut between two
        orthographic syllables there.
        """
        if self._word_end is None:
            yield self.encode(text)
            return
        first, *others = cut_where_words_end(text, _PART_CHARACTERS, self._word_end)
        yield self.encode(first)
        yield from map(self._encode, others)

    @cached_property
    def _word_end(self) -> re.Pattern[str] | None:
        """Where no token crosses; None if there is no such place, since some tokens are of several words."""
        if self.is_ours:
            return WORD_END
        # After a newline would be wrong: GPT-2 makes one token of two newlines, but only at the end of a text.
        spans = re.compile(r"\S ")
        return None if any(spans.search(piece.decode(errors="replace")) for piece in self.pieces) else SPACE_AFTER_WORD

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, computed on all cores."""
        size = -(-len(texts) // (4 * _CORES)) or 1  # several parts per core, because texts differ in length
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return list(chain.from_iterable(self._pool.map(lambda part: list(map(self.encode, part)), parts)))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; special tokens are written by name, and bytes that are not UTF-8 (a cut character) as U+FFFD."""
        return b"".join(map(self._written.__getitem__, ids)).decode(errors="replace")

    def token_bytes(self) -> np.ndarray:
        """The number of UTF-8 bytes that each id stands for: int32 (vocab_size,), 0 for special tokens."""
        return np.fromiter(map(len, self.pieces), np.int32, len(self.pieces))


def _added_ids(content: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in content.get("added_tokens") or ()}


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """The content of tokenizer.json; raises `UserError` if it is missing, and says how to make one."""
    others = [name for name in TOKENIZER_FILES if path.with_name(name).exists()]
    if others and not path.exists():
        raise UserError(
            f"{path.parent}: has {others[0]} but no tokenizer.json, which is needed; write one with transformers: "
            f"AutoTokenizer.from_pretrained({str(path.parent)!r}).save_pretrained({str(path.parent)!r})"
        )
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(
            f'{path}: cannot be read as a tokenizer (it has no "model"); train one with `tonsai train-tokenizer`'
        )
    return content


def _checked(path: Path, content: dict[str, Any]) -> tokenizers.Tokenizer:
    """Our tokenizer; raises `UserError` if it is damaged."""
    inner = inner_tokenizer(path, content)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    if isinstance(inner.model, models.Unigram):
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        decoder: Any = content.get("decoder")
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
