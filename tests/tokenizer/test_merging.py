"""Learning merges: the same pairs in the same order as counting everything again after every merge."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tonsai_jax.tokenizer.merging import END, learn_merges


def learn(words: dict[tuple[int, ...], int], symbols: int, max_size: int = 99, min_count: int = 2):
    stream, counts = [END], [0]
    for word, count in words.items():
        stream += [*word, END]
        counts += [count] * (len(word) + 1)
    arrays = np.array(stream, np.int32), np.array(counts, np.int32), np.ones(symbols, np.int32)
    return list(learn_merges(*arrays, max_size=max_size, min_count=min_count))


def recount(words: dict[tuple[int, ...], int], symbols: int, max_size: int, min_count: int):
    """The same by definition: count all pairs, join the most frequent, begin again."""
    rows, sizes = [(list(word), count) for word, count in words.items()], [1] * symbols
    merges: list[Any] = []
    while True:
        totals: Counter[tuple[int, int]] = Counter()
        for word, count in rows:
            taken = -1  # the second of a pair of equal symbols cannot begin another
            for place, pair in enumerate(pairwise(word)):
                if pair[0] == pair[1] and taken == place:
                    continue
                totals[pair] += count
                taken = place + 1 if pair[0] == pair[1] else -1
        able = [
            (-total, pair)
            for pair, total in totals.items()
            if total >= min_count and sizes[pair[0]] + sizes[pair[1]] <= max_size
        ]
        if not able:
            return merges
        total, (left, right) = min(able)
        merges.append((left, right, -total))
        for word, _ in rows:
            place = 0
            while place < len(word) - 1:
                if word[place : place + 2] == [left, right]:
                    word[place : place + 2] = [len(sizes)]
                place += 1
        sizes.append(sizes[left] + sizes[right])


def test_the_most_frequent_pair_comes_first():
    hug, pug, hugs = (0, 1, 2), (3, 1, 2), (0, 1, 2, 4)
    assert learn({hug: 10, pug: 5, hugs: 5}, 5) == [(1, 2, 20), (0, 5, 15), (3, 5, 5), (6, 4, 5)]


def test_a_row_of_equal_symbols_is_joined_from_the_left():
    assert learn({(0, 0, 0, 0, 0): 3}, 1) == [(0, 0, 6), (1, 0, 3), (1, 2, 3)]


def test_a_pair_seen_once_or_too_long_is_left_alone():
    assert learn({(0, 1): 1, (1, 0): 2}, 2) == [(1, 0, 2)]
    assert learn({(0, 1, 2): 5}, 3, max_size=2) == [(0, 1, 5)]


def test_nothing_is_joined_across_words():
    assert learn({(0,): 5, (1,): 5}, 2) == []
    assert learn({}, 2) == []


@pytest.mark.parametrize("seed", range(60))
def test_any_words_give_what_counting_again_gives(seed):
    rng = random.Random(seed)
    symbols, max_size, min_count = rng.randint(1, 6), rng.choice([3, 5, 99]), rng.choice([2, 4])
    words: Counter[tuple[int, ...]] = Counter()
    for _ in range(rng.randint(1, 30)):
        words[tuple(rng.randrange(symbols) for _ in range(rng.randint(1, 14)))] += rng.randint(1, 5)
    assert learn(words, symbols, max_size, min_count) == recount(words, symbols, max_size, min_count)
