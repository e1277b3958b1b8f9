"""Sequences with common beginnings in rows: each is found again on a path of its row, and what is shared stands there once."""

import random

import numpy as np
import pytest

from tonsai_jax.evaluation.likelihood.prefix_rows import SHORTEST_ROW, PrefixRows, prefix_rows


def path_to(rows: PrefixRows, index: int, slot: int) -> list[int]:
    """The ids that the token in a slot attends to, itself included."""
    row = rows.row_of[index]
    slots = np.arange(slot + 1)
    return rows.tokens_RxT[row, slots[rows.ends_RxT[row, slots] > slot]].tolist()


def test_every_sequence_is_a_path_of_its_row() -> None:
    rng = random.Random(0)
    stems = [tuple(rng.choices(range(9), k=rng.randint(1, 30))) for _ in range(12)]
    sequences = [rng.choice(stems) + tuple(rng.choices(range(9), k=rng.randint(0, 20))) for _ in range(200)]
    rows = prefix_rows(sequences, [1] * len(sequences))
    for index, sequence in enumerate(sequences):
        assert path_to(rows, index, int(rows.slots_of[index][-1])) == list(sequence)


def test_the_slots_of_the_last_tokens_are_given_in_order() -> None:
    sequences = [(1, 2, 3, 4), (1, 2, 5)]
    rows = prefix_rows(sequences, [2, 3])
    assert [rows.tokens_RxT[0, slots].tolist() for slots in rows.slots_of] == [[3, 4], [1, 2, 5]]


def test_what_sequences_share_stands_in_the_row_once() -> None:
    context = tuple(range(100, 130))
    rows = prefix_rows([(*context, choice) for choice in range(4)], [1] * 4)
    assert rows.tokens_RxT.shape == (1, SHORTEST_ROW)
    assert np.count_nonzero(rows.ends_RxT[0] > np.arange(1, SHORTEST_ROW + 1)) == len(context)
    assert rows.tokens_RxT[0, :34].tolist() == [*context, 0, 1, 2, 3]


def test_the_same_sequence_twice_is_computed_once() -> None:
    rows = prefix_rows([(5, 6), (5, 6)], [1, 2])
    assert rows.tokens_RxT[0, :3].tolist() == [5, 6, 0]
    assert [slots.tolist() for slots in rows.slots_of] == [[1], [0, 1]]


@pytest.mark.parametrize("row_length", [64, 128])
def test_a_sequence_that_no_longer_fits_starts_a_row(row_length: int) -> None:
    sequences = [(0,) * 40 + (number,) * 20 for number in range(1, 6)]
    rows = prefix_rows(sequences, [60] * 5, row_length)
    assert len(rows.tokens_RxT) == (5 if row_length == 64 else 2)
    assert [rows.tokens_RxT[rows.row_of[i], rows.slots_of[i]].tolist() for i in range(5)] == list(map(list, sequences))


def test_sequences_that_share_little_fill_each_others_rows() -> None:
    """In sorted order they would need three rows: 70, then 70 and 30, then 30."""
    rows = prefix_rows([(1,) * 70, (2,) * 70, (3,) * 30, (4,) * 30], [1] * 4, row_length=100)
    assert len(rows.tokens_RxT) == 2


def test_what_all_sequences_begin_with_stands_once_in_each_row() -> None:
    shots = tuple(range(1, 41))
    sequences = [(*shots, item, choice) for item in range(100, 130) for choice in range(200, 204)]
    rows = prefix_rows(sequences, [1] * len(sequences))
    assert (rows.tokens_RxT == shots[0]).sum() == len(rows.tokens_RxT)
