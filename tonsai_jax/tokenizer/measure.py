"""Measures a tokenizer on text: how much text a token holds, and how it splits Khmer.

These figures can be compared between tokenizers of any kind and size; the loss and perplexity of models with different
tokenizers cannot. Each is measured on an even sample of at most `SAMPLE_BYTES` of the text of each label.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from tonsai_jax.text.syllables import SYLLABLE
from tonsai_jax.tokenizer.any_tokenizer import BYTES, KINDS, SPECIAL, AnyTokenizer, is_text
from tonsai_jax.tokenizer.even_sample import EvenSample

LONGEST = 10  # tokens listed for each kind

# A sentence in one language, and the same sentence in another.
Pair = tuple[str, str]


def measure(tokenizer: AnyTokenizer, by_label: Mapping[str, EvenSample[str]]) -> dict[str, Any]:
    """Measures a tokenizer on samples of text.

    Args:
      tokenizer: the tokenizer.
      by_label: {label: sample}; a label is a language or a file.

    Returns:
      {"fertility": {label: figures}, "vocabulary": figures}.

      The figures of a label. Of all its text: "examples" and "bytes" (UTF-8). Of the sample: "sample_bytes", "sample_tokens",
      "bytes_per_token", "characters_per_token" and "clusters_per_token" (Khmer orthographic syllables per token). As shares
      of the tokens of the sample: "ends_in_cluster" (tokens that end inside a syllable), "parts_of_characters" (tokens that are
      not whole characters) and "unknown" (tokens for text that cannot be represented). "clusters_per_token" and
      "ends_in_cluster" are None for text without Khmer.

      The figures of the vocabulary: "kinds" is {kind: number of ids}, with the kinds of `KINDS`; "unused" is the number of ids
      that are not in any sample, without bytes and special tokens; "longest" is {kind: [tokens]}.
    """
    used = np.zeros(len(tokenizer.pieces), bool)
    fertility = {label: _fertility(tokenizer, sample, used) for label, sample in by_label.items()}
    return {"fertility": fertility, "vocabulary": _vocabulary(tokenizer, used)}


def measure_parallel(tokenizer: AnyTokenizer, pairs: EvenSample[Pair], names: tuple[str, str]) -> dict[str, Any]:
    """Measures the tokens per sentence on parallel text.

    Args:
      tokenizer: the tokenizer.
      pairs: a sample of the sentences.
      names: what to call the two languages.

    Returns {"sentences": number of sentences measured, "tokens_per_sentence": {name: tokens}, "ratio": tokens of the first
    language divided by tokens of the second}.
    """
    first, second = (sum(len(ids) for ids in tokenizer.encode([pair[side] for pair in pairs.items])) for side in (0, 1))
    count = len(pairs.items)
    return {
        "sentences": count,
        "tokens_per_sentence": {names[0]: _ratio(first, count), names[1]: _ratio(second, count)},
        "ratio": _ratio(first, second),
    }


def _fertility(tokenizer: AnyTokenizer, sample: EvenSample[str], used: np.ndarray) -> dict[str, Any]:
    """The figures of one label. Sets `used`, bool (ids,), to True for the ids in the sample."""
    texts = sample.items
    rows = tokenizer.encode(texts)
    between = len(tokenizer.pieces)  # an id for a newline after each text, so that no syllable crosses its end
    ids = np.fromiter(chain.from_iterable([*row, between] for row in rows), np.int64)
    pieces = [*tokenizer.pieces, b"\n"]
    sizes = np.array([len(piece) for piece in pieces])
    # Counted in the text of the tokens, not in the given text: some tokenizers change a text before they split it.
    syllables, ends_in_syllable = _syllables(b"".join(map(pieces.__getitem__, ids)), np.cumsum(sizes[ids]))
    counts = np.bincount(ids, minlength=len(pieces))[:between]
    used |= counts > 0
    tokens = int(counts.sum())
    parts = np.array([not is_text(piece) for piece in tokenizer.pieces])
    unknown = 0 if tokenizer.unknown_id is None else int(counts[tokenizer.unknown_id])
    return {
        "examples": sample.examples,
        "bytes": sample.bytes,
        "sample_bytes": sample.sample_bytes,
        "sample_tokens": tokens,
        "bytes_per_token": _ratio(sample.sample_bytes, tokens),
        "characters_per_token": _ratio(sum(map(len, texts)), tokens),
        "clusters_per_token": _ratio(syllables, tokens) if syllables else None,
        "ends_in_cluster": _ratio(ends_in_syllable, tokens) if syllables else None,
        "parts_of_characters": _ratio(int(counts[parts].sum()), tokens),
        "unknown": _ratio(unknown, tokens),
    }


def _syllables(joined: bytes, ends: np.ndarray) -> tuple[int, int]:
    """The number of Khmer orthographic syllables in the text of the tokens, and of tokens that end inside one.

    Args:
      joined: the bytes of all tokens.
      ends: where each token ends in `joined`, int64 (tokens,).
    """
    text = joined.decode("utf-8", "surrogateescape")
    spans = np.array([match.span() for match in SYLLABLE.finditer(text)], np.int64).reshape(-1, 2)
    if not len(spans):
        return 0, 0
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    escaped = (points >= 0xDC80) & (points <= 0xDCFF)  # a byte that is not part of a whole character
    widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000) - 2 * escaped
    starts, stops = np.concatenate([[0], np.cumsum(widths)])[spans].T
    last = np.searchsorted(starts, ends) - 1  # the last syllable that starts before the token's end
    return len(spans), int(((last >= 0) & (ends < stops[last])).sum())


def _vocabulary(tokenizer: AnyTokenizer, used: np.ndarray) -> dict[str, Any]:
    by_kind: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for id, kind in enumerate(tokenizer.kinds):
        if kind:
            by_kind[kind].append(id)
    of_text = {kind: ids for kind, ids in by_kind.items() if kind not in (BYTES, SPECIAL)}
    longest = {}
    for kind, ids in of_text.items():
        tokens = sorted((tokenizer.pieces[id].decode() for id in ids), key=lambda token: (-len(token), token))
        longest[kind] = tokens[:LONGEST]
    return {
        "kinds": {kind: len(ids) for kind, ids in by_kind.items()},
        "unused": sum(not used[id] for ids in of_text.values() for id in ids),
        "longest": longest,
    }


def _ratio(count: int, of: int) -> float:
    return round(count / max(of, 1), 4)
