"""The order of one source: every target once in an epoch, shuffled, and for ever the same."""

import itertools
from collections import Counter

import numpy as np
import pytest

from tonsai_jax.data.source_order import Position, SourceOrder


@pytest.mark.parametrize("seq_len", [1, 2, 4, 8])
@pytest.mark.parametrize("targets", [*range(1, 34), 8 * 256 - 1, 8 * 256, 8 * 256 + 1, 8 * 512 + 5, 8 * 601 + 3])
def test_every_target_is_read_once_in_every_epoch(targets: int, seq_len: int) -> None:
    order = SourceOrder("km", targets, 8, seed=0)
    size = order.windows(seq_len)
    epochs = []
    for epoch in range(3):
        found = [order.window(epoch * size + index, seq_len) for index in range(size)]
        assert all(valid > 0 for _, _, valid in found)
        read = Counter(row * 8 + part * seq_len + i for row, part, valid in found for i in range(valid))
        assert read == Counter(range(targets))
        epochs.append(found)
    if targets > 100:
        assert epochs[0] != epochs[1] != epochs[2]


def test_every_row_of_a_large_source_is_read_once() -> None:
    order = SourceOrder("km", 70_000 * 8, 8, seed=0)
    assert sorted(order.window(index, 8)[0] for index in range(70_000)) == list(range(70_000))


def test_windows_are_shuffled_and_not_only_rows() -> None:
    order = SourceOrder("km", 2000 * 8, 8, seed=0)
    found = [order.window(index, 2)[:2] for index in range(8000)]
    neighbors = sum(first[0] == second[0] for first, second in itertools.pairwise(found))
    assert neighbors < 80  # of 8000; a shuffle by row would leave 6000
    assert abs(np.corrcoef(range(8000), [row for row, _ in found])[0, 1]) < 0.05


def test_another_window_length_goes_on_at_the_next_block() -> None:
    order = SourceOrder("km", 16_004, 8, seed=0)  # 8 blocks of 256 rows, the last of 208 and a half
    assert order.move(Position(2, 1000), 2) == Position(2, 1000)
    assert order.move(Position(2, 0), 8) == Position(8, 0)
    assert order.move(Position(2, 1), 8) == Position(8, 256)
    assert order.move(Position(2, 1024), 8) == Position(8, 256)
    assert order.move(Position(2, 1025), 4) == Position(4, 1024)
    assert order.move(Position(2, 7169), 8) == Position(8, 2001)  # past the last block: the next epoch
    assert order.move(Position(8, 2001), 2) == Position(2, 8002)


def test_the_order_is_a_function_of_seed_name_and_epoch() -> None:
    def order(seed: int, name: str) -> list[tuple[int, int, int]]:
        source = SourceOrder(name, 16_004, 8, seed)
        return [source.window(index, 4) for index in range(200)]

    assert order(1, "km") == order(1, "km")
    assert order(1, "km") != order(2, "km")
    assert order(1, "km") != order(1, "en")


def test_the_order_stays_what_it_was() -> None:
    """A run begun with an older version must go on with its own batches: do not update these numbers."""
    small, large = SourceOrder("km", 16_004, 8, seed=0), SourceOrder("km", 8 * 10**6, 8, seed=0)
    assert [small.window(index, 4)[:2] for index in (0, 1, 512, 4001)] == [
        (1398, 0),
        (1130, 0),
        (345, 1),
        (1878, 0),
    ]
    assert [large.window(index, 4)[:2] for index in (0, 1, 8192, 2_000_000)] == [
        (596575, 1),
        (982866, 0),
        (913442, 0),
        (778017, 1),
    ]
