"""The fastest encoder for a tokenizer, with exactly the ids of its `tokenizer.json`, and the bytes that each id stands for.

tokenizer.json defines a tokenizer: the `tokenizers` library and Hugging Face read it. But tiktoken, given the same merges and
pattern, encodes byte-level BPE five times faster, and SentencePiece, given the model that tokenizer.json was made from, encodes
Unigram faster (docs/tokenizer.md). `tokenizers` encodes all others.
"""

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
import tokenizers

from tonsai_jax.errors import UserError

Encode = Callable[[str], list[int]]
"""Gives the ids of a text, without special tokens; other Python threads can run meanwhile."""

# Byte-level tokenizers write each byte as one printable character: itself, or the next free one from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + n) for n, byte in enumerate(_OTHERS)}
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}
SPACE = "\u2581"  # written for a space in the pieces of SentencePiece
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
_LONG_SPACE = 1000
_TWO_SPACES = re.compile(r"\s(?=\s)")
SPACE_AFTER_WORD = re.compile(r"(?<=\S)(?= \S)")
WORD_END = re.compile(rf"{SPACE_AFTER_WORD.pattern}|(?<=\n)(?=\S)")
_SYLLABLE_START = re.compile("[^\u17b4-\u17d3\u17dd\u0300-\u036f\u200b-\u200d\ufe00-\ufe0f](?<!\u17d2.)")

# A tokenizer that can be used gives this back: Khmer with subscripts and a zero-width space, digits, an emoji of several code
# points, runs of space, NUL.
PROBE = "ខ្ញុំ\u200bស្រឡាញ់ភាសាខ្មែរ ១២៣៤  It's 2026!\r\n\n\t👩🏽‍🚀 é\u0000<|endoftext|> "


def encoder_for(folder: Path, inner: tokenizers.Tokenizer) -> Encode:
    """The encoder with the ids of `inner`, which was loaded from the tokenizer.json in `folder`.

    Raises `UserError` for an spm.model that is damaged or does not match tokenizer.json.
    """
    content = json.loads(inner.to_str())
    if _is_our_bpe(content):
        return _tiktoken(content, inner)
    if content["model"]["type"] == "Unigram" and (folder / "spm.model").exists():
        return _sentencepiece(folder / "spm.model", inner)
    return lambda text: inner.encode(text, add_special_tokens=False).ids


def inner_tokenizer(path: Path, content: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of this content; raises `UserError` if it is damaged. `path` is for the message."""
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the Rust library raises plain `Exception`
        raise UserError(
            f"{path}: cannot be read as a tokenizer ({error}); train one with `tonsai train-tokenizer`"
        ) from None


def is_byte_level(content: dict[str, Any]) -> bool:
    """Whether the tokens spell each byte as one letter, by the content of tokenizer.json; others write characters."""
    return "ByteLevel" in step_types(content.get("decoder")) | step_types(content.get("pre_tokenizer"))


def step_types(step: dict[str, Any] | None) -> set[str]:
    """The type of a normalizer, pre-tokenizer or decoder; for a sequence, also the types of its parts."""
    if step is None:
        return set()
    parts = step.get("decoders") or step.get("pretokenizers") or step.get("normalizers") or []
    return {step["type"]}.union(*map(step_types, parts))


def token_pieces(inner: tokenizers.Tokenizer, content: dict[str, Any]) -> list[bytes]:
    """By id, the bytes that it stands for; empty for special tokens, the unknown token and ids that have no token.

    Args:
      inner: the tokenizer.
      content: of its tokenizer.json.
    """
    byte_level = is_byte_level(content)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for token, id in vocabulary.items():
        pieces[id] = token_bytes(token) if byte_level else piece_bytes(token)
    for id, added in inner.get_added_tokens_decoder().items():
        if added.special:
            pieces[id] = b""
        elif byte_level:
            pieces[id] = added.content.encode()  # it is found in the text before bytes become letters
    unknown = unknown_id(content["model"], vocabulary)
    if unknown is not None:
        pieces[unknown] = b""
    return pieces


def unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    """The id for text that a tokenizer cannot represent; None if it has no such id."""
    id = model.get("unk_id")
    return id if id is not None else vocabulary.get(model.get("unk_token") or "")


def token_bytes(token: str) -> bytes:
    """The bytes of a token that is spelled with one letter for each."""
    try:
        return bytes(map(BYTE_OF_LETTER.__getitem__, token))
    except KeyError:  # an added token
        return token.encode()


def piece_bytes(piece: str) -> bytes:
    """The bytes of a piece of SentencePiece: <0x41> is one byte, and U+2581 is a space."""
    byte = BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()


def cut_where_words_end(text: str, length: int, word_end: re.Pattern[str] = WORD_END) -> Iterator[str]:
    """Splits a text into parts of at least `length` characters whose ids, put together, are those of the whole text.

    The cuts are where no token crosses. For ours that is before a single space between two other characters, and after a
    newline. If there is no such place in the next `length` characters, the cut is before the first character after them that
    starts an orthographic syllable, or at the end of the text. At such a cut the ids can differ.
    """
    start = 0
    while len(text) - start > 2 * length:
        place = word_end.search(text, start + length, start + 2 * length)
        if place is None:
            place = _SYLLABLE_START.search(text, start + 2 * length)
        end = place.start() if place else len(text)
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _is_our_bpe(content: dict[str, Any]) -> bool:
    steps = (content["pre_tokenizer"] or {}).get("pretokenizers", [])
    return (
        content["model"]["type"] == "BPE"
        and content["normalizer"] is None
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and steps[0]["behavior"] == "Isolated"
        and not steps[0]["invert"]
        and "Regex" in steps[0]["pattern"]
        and not steps[1]["add_prefix_space"]
        and not steps[1]["use_regex"]
        and all(token["special"] for token in content["added_tokens"])  # the others are found in the text first
        and _has_all_merges(content["model"], {token["content"] for token in content["added_tokens"]})
    )


def _has_all_merges(model: dict[str, Any], special: set[str]) -> bool:
    """Whether every pair of tokens that makes a third token is a merge, in the order of the ids, as tiktoken assumes."""
    vocabulary = {token: id for token, id in model["vocab"].items() if token not in special}
    ranks = [
        vocabulary.get("".join(merge if isinstance(merge, list) else merge.split(" "))) for merge in model["merges"]
    ]
    ways = sum(
        token[:cut] in vocabulary and token[cut:] in vocabulary for token in vocabulary for cut in range(1, len(token))
    )
    return ways == len(ranks) and all(a is not None and b is not None and a <= b for a, b in pairwise(ranks))


def _tiktoken(content: dict[str, Any], inner: tokenizers.Tokenizer) -> Encode:
    special = {token["content"] for token in content["added_tokens"]}
    # `_has_all_merges` checked that later merges make higher ids, so the ids are the ranks.
    ranks = {
        bytes(map(BYTE_OF_LETTER.__getitem__, token)): rank
        for token, rank in content["model"]["vocab"].items()
        if token not in special
    }
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    encoding = tiktoken.Encoding("tokenizer.json", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        if _has_long_space(text):  # tiktoken's regular expressions run out of stack on it
            return inner.encode(text, add_special_tokens=False).ids
        return encoding.encode_ordinary(text)

    return encode


def _has_long_space(text: str) -> bool:
    """True for `_LONG_SPACE` white-space characters in a row, perhaps for half as many; it looks at few of the characters."""
    step = _LONG_SPACE // 2
    return any(
        text[step * match.start() : step * match.start() + step].isspace()
        for match in _TWO_SPACES.finditer(text[::step])
    )


def _sentencepiece(model: Path, inner: tokenizers.Tokenizer) -> Encode:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{model}: damaged ({reason}); train the tokenizer again, or remove this file") from None
    size = inner.get_vocab_size()
    if processor.id_to_piece(list(range(processor.get_piece_size()))) != [inner.id_to_token(id) for id in range(size)]:
        raise UserError(
            f"{model}: does not have the pieces of tokenizer.json; train the tokenizer again, or remove this file"
        )
    newline = processor.encode("\n")

    def encode(text: str) -> list[int]:
        # Line by line, as tokenizer.json does: sums of scores stay exact and the time linear. Not as a list of lines, for
        # which SentencePiece starts a thread that, on busy cores, waits longer than it works.
        first, *others = text.split("\n")
        ids: list[int] = processor.encode(first)
        for line in others:
            ids += newline
            ids += processor.encode(line)
        return ids

    return encode
