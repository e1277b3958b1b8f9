"""Byte-level BPE for Khmer and other languages.

Two things are unusual. First, the pattern that splits text into words: GPT-2's pattern allows only letters in a word, but the
vowel signs and subscripts of Khmer are marks, so it splits every Khmer word into pieces of one or two characters. Here a word is
letters with their marks. Second, training merges pairs of characters and of Khmer's orthographic syllables, not of bytes
(`units.py`). docs/tokenizer.md has measurements of both.
"""

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context

import numpy as np
import regex
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.tokenizer.encoding import LETTER_OF_BYTE
from tonsai_jax.tokenizer.merging import learn_merges
from tonsai_jax.tokenizer.units import BYTES, CutWords

# English endings; a word with at most one sign or space before it; up to three digits; signs; newlines; spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The names that a person chooses from. llama.cpp has exactly the one with single digits (`qwen35`), so a GGUF file of such a
# tokenizer gives the same ids there (docs/gguf.md).
PATTERNS = {"grouped-digits": PATTERN, "single-digits": PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")}
# In bytes: 16 Khmer letters. Khmer has no spaces between words, so without a limit whole phrases become tokens.
MAX_TOKEN_LENGTH = 48
# A pair that occurs once teaches nothing, and its id only costs the model parameters.
MIN_FREQUENCY = 2

# A word never continues over a plain space or a newline before other text: there a run of words ends. It includes other
# white space.
_RUN = re.compile(r"(?: ?\S+|\s+\S*)(?:(?!\n*(?: ?\S|\Z))\s+\S*)*\n*")
_BATCH_CHARACTERS = 4_000_000  # whose words are counted at once; it takes some tenths of a second
_logger = logging.getLogger(__name__)


def train_bpe(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], progress: bool, pattern: str = PATTERN
) -> Tokenizer:
    """Trains a tokenizer; the same texts give the same tokenizer in any order.

    The ids are, in this order: special tokens, the 256 bytes, characters and orthographic syllables, then merged pairs, the most
    frequent first.

    Args:
      texts: the text to train on; read once.
      vocab_size: number of ids wanted; there are fewer if the text has too few pairs.
      special_tokens: tokens that stand for no text.
      progress: whether to show a progress bar on a terminal.
      pattern: the regular expression whose matches are the words; no token crosses the end of a word.
    """
    words = _count_words(texts, pattern)
    cut = CutWords(words)
    room = vocab_size - len(special_tokens) - len(BYTES)
    made = BYTES + cut.frequent(room // 2)  # by symbol
    _logger.info("%d distinct words; %d tokens for characters and syllables", len(words), len(made) - len(BYTES))
    del words
    symbols, counts = cut.symbols(made)
    del cut
    sizes = np.array([len(token) for token in made], np.int32)
    tokens = dict.fromkeys(made)  # a set in the order of the ids: two different pairs can make the same token
    merges = learn_merges(symbols, counts, sizes, max_size=MAX_TOKEN_LENGTH, min_count=MIN_FREQUENCY)
    with progress_bar("learning tokens", unit=" tokens", total=vocab_size, wanted=progress) as bar:
        bar.update(len(tokens) + len(special_tokens))
        while len(tokens) + len(special_tokens) < vocab_size and (merge := next(merges, None)):
            left, right, count = merge
            made.append(made[left] + made[right])
            bar.update(made[-1] not in tokens)
            tokens[made[-1]] = None
            _logger.debug("%r + %r: %d times", made[left].decode(), made[right].decode(), count)
    return _as_tokenizers([*special_tokens], list(tokens), pattern)


def _count_words(texts: Iterable[str], pattern: str) -> Counter[str]:
    """How often each word occurs. More than one batch is counted on all cores."""
    batches = _batches(texts)
    words = _count(next(batches, []), pattern)
    second = next(batches, None)
    if second is None:
        return words
    waiting: deque[Future[Counter[str]]] = deque()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for batch in chain([second], batches):
            waiting.append(pool.submit(_count, batch, pattern))
            if len(waiting) > 2 * (os.cpu_count() or 1):  # or text would be read faster than it is counted
                words.update(waiting.popleft().result())
        for counted in waiting:
            words.update(counted.result())
    return words


def _count(texts: list[str], pattern: str) -> Counter[str]:
    """How often each word occurs. Each distinct run of words is split only once, which is 1.5 times as fast."""
    find = regex.compile(pattern).findall
    runs: Counter[str] = Counter()
    for text in texts:
        runs.update(_RUN.findall(text))
    words: Counter[str] = Counter()
    for run, count in runs.items():
        for word in find(run):
            words[word] += count
    return words


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _as_tokenizers(special_tokens: list[str], tokens: list[bytes], pattern: str) -> Tokenizer:
    spelled = {token: "".join(map(LETTER_OF_BYTE.__getitem__, token)) for token in tokens}
    ids = {token: id for id, token in enumerate([*special_tokens, *spelled.values()])}
    # All merges of two tokens into a third, not only the one that was learned: then all encoders give the same ids.
    merges = [
        (spelled[token[:cut]], spelled[token[cut:]])
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in spelled and token[cut:] in spelled
    ]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer
