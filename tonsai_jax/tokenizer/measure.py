"""What a tokenizer makes of text, in figures: how much of it a token holds, and how it treats Khmer.

They can be compared between tokenizers of all makes and sizes, as loss and perplexity of models with different tokenizers cannot.
Each is measured on an even sample of at most `SAMPLE_BYTES` of every label's text.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from tonsai_jax.text.khmer import CLUSTER
from tonsai_jax.tokenizer.any_tokenizer import BYTES, KINDS, SPECIAL, AnyTokenizer, is_text
from tonsai_jax.tokenizer.even_sample import EvenSample

LONGEST = 10  # tokens listed of each kind

# Of parallel text: a sentence in one language, the same in another.
Pair = tuple[str, str]


def measure(tokenizer: AnyTokenizer, by_label: Mapping[str, EvenSample[str]]) -> dict[str, Any]:
    """Measures a tokenizer on samples of text by label (a language or a file).

    Returns:
      {"fertility": {label: figures}, "vocabulary": figures}. Of a label's text: "examples" and "bytes" (UTF-8) of all of it,
      "sample_bytes" and "sample_tokens" of the sample, and on the sample "bytes_per_token", "characters_per_token",
      "clusters_per_token" (of Khmer's orthographic clusters), and as shares of its tokens "ends_in_cluster" (those that end
      inside a cluster; also that of clusters None where there are none), "parts_of_characters" (those that are not
      whole characters) and "unknown" (those that stand for text that cannot be written). Of the vocabulary: "kinds"
      ({kind: ids}, by `KINDS`), "unused" (ids of text, bytes not among them, that are nowhere in the samples) and
      "longest" ({kind: [tokens]}).
    """
    used = np.zeros(len(tokenizer.pieces), bool)
    fertility = {label: _fertility(tokenizer, sample, used) for label, sample in by_label.items()}
    return {"fertility": fertility, "vocabulary": _vocabulary(tokenizer, used)}


def measure_parallel(tokenizer: AnyTokenizer, pairs: EvenSample[Pair], names: tuple[str, str]) -> dict[str, Any]:
    """Tokens a sentence of parallel text, whose two languages are called `names`.

    Returns {"sentences": how many were measured, "tokens_per_sentence": {name: tokens}, "ratio": tokens of the first for each
    of the second}.
    """
    first, second = (sum(len(ids) for ids in tokenizer.encode([pair[side] for pair in pairs.items])) for side in (0, 1))
    count = len(pairs.items)
    return {
        "sentences": count,
        "tokens_per_sentence": {names[0]: _ratio(first, count), names[1]: _ratio(second, count)},
        "ratio": _ratio(first, second),
    }


def _fertility(tokenizer: AnyTokenizer, sample: EvenSample[str], used: np.ndarray) -> dict[str, Any]:
    """The figures of one label; notes in `used`, bool (ids,), which ids there were."""
    texts = sample.items
    rows = tokenizer.encode(texts)
    between = len(tokenizer.pieces)  # stands for a newline after each text, so that nothing joins over its end
    ids = np.fromiter(chain.from_iterable([*row, between] for row in rows), np.int64)
    pieces = [*tokenizer.pieces, b"\n"]
    sizes = np.array([len(piece) for piece in pieces])
    # What the tokens stand for, and not the texts: some tokenizers change a text before they cut it.
    clusters, ends_in_cluster = _clusters(b"".join(map(pieces.__getitem__, ids)), np.cumsum(sizes[ids]))
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
        "clusters_per_token": _ratio(clusters, tokens) if clusters else None,
        "ends_in_cluster": _ratio(ends_in_cluster, tokens) if clusters else None,
        "parts_of_characters": _ratio(int(counts[parts].sum()), tokens),
        "unknown": _ratio(unknown, tokens),
    }


def _clusters(joined: bytes, ends: np.ndarray) -> tuple[int, int]:
    """How many Khmer clusters there are, and how many tokens end inside one; `ends` are byte offsets, int64 (tokens,)."""
    text = joined.decode("utf-8", "surrogateescape")
    spans = np.array([match.span() for match in CLUSTER.finditer(text)], np.int64).reshape(-1, 2)
    if not len(spans):
        return 0, 0
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    escaped = (points >= 0xDC80) & (points <= 0xDCFF)  # a byte that is no part of a character
    widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000) - 2 * escaped
    starts, stops = np.concatenate([[0], np.cumsum(widths)])[spans].T
    last = np.searchsorted(starts, ends) - 1  # the last cluster that begins before the end
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
