"""The fastest encoder for a tokenizer, with the ids of `tokenizer.json` exactly.

tokenizer.json is what a tokenizer means: `tokenizers` reads it, and so does Hugging Face. But byte-level BPE is encoded five
times faster by tiktoken, given the same merges and pattern, and Unigram by SentencePiece, given the model that
tokenizer.json was made from (docs/tokenizer.md). What is neither goes through `tokenizers`.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json

Encode = Callable[[str], list[int]]
"""Ids of a text, without any special token; lets other threads run meanwhile."""

# Byte-level tokenizers spell each byte with one printable character: itself, or the next that is free from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + n) for n, byte in enumerate(_OTHERS)}
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}
_LONG_SPACE = 1000
_TWO_SPACES = re.compile(r"\s(?=\s)")
_WORD_END = re.compile(r"(?<=\S)(?= \S)|(?<=\n)(?=\S)")
_SYLLABLE_START = re.compile("[^\u17b4-\u17d3\u17dd\u0300-\u036f\u200b-\u200d\ufe00-\ufe0f](?<!\u17d2.)")


def encoder_for(folder: Path, inner: tokenizers.Tokenizer) -> Encode:
    """The encoder of the tokenizer in `folder`, of which `inner` is the tokenizer.json."""
    content = read_json(folder / "tokenizer.json")
    if _is_our_bpe(content):
        return _tiktoken(content, inner)
    if content["model"]["type"] == "Unigram" and (folder / "spm.model").exists():
        return _sentencepiece(folder / "spm.model", inner)
    return lambda text: inner.encode(text, add_special_tokens=False).ids


def cut_where_words_end(text: str, length: int) -> Iterator[str]:
    """Parts of at least `length` characters, cut where no token of ours goes across, so that their ids are those of the text.

    That is before one space between two other characters, and behind a newline. Where there is neither for `length`
    characters more, the cut is before a character that begins a cluster, or after all of them; there the ids may differ.
    """
    start = 0
    while len(text) - start > 2 * length:
        place = _WORD_END.search(text, start + length, start + 2 * length)
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
        and _has_all_merges(content["model"], {token["content"] for token in content["added_tokens"]})
    )


def _has_all_merges(model: dict[str, Any], special: set[str]) -> bool:
    """Whether any two tokens that make a third are merged, in the order of the ids: tiktoken knows no other merges."""
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
    # Ids grow with the merges, so they are the ranks too.
    ranks = {
        bytes(map(BYTE_OF_LETTER.__getitem__, token)): rank
        for token, rank in content["model"]["vocab"].items()
        if token not in special
    }
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    encoding = tiktoken.Encoding("tokenizer.json", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        if _has_long_space(text):  # on which the regular expressions of tiktoken run out of stack
            return inner.encode(text, add_special_tokens=False).ids
        return encoding.encode_ordinary(text)

    return encode


def _has_long_space(text: str) -> bool:
    """True where `_LONG_SPACE` white characters are in a row, perhaps where half as many are; looks at few of them."""
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
            f"{model}: has other pieces than tokenizer.json; train the tokenizer again, or remove this file"
        )
    newline = processor.encode("\n")

    def encode(text: str) -> list[int]:
        # Line by line, as tokenizer.json says: the sums of scores stay exact, and time linear. Given a list of lines,
        # SentencePiece would start a thread, which on busy cores waits longer than it works.
        first, *others = text.split("\n")
        ids: list[int] = processor.encode(first)
        for line in others:
            ids += newline
            ids += processor.encode(line)
        return ids

    return encode
