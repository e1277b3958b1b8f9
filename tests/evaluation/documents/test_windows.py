"""Windows of documents, and the rows that they share: every target is scored once."""

import numpy as np
import pytest

from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.evaluation.documents.windows import (
    SHARED_WIDTH,
    Window,
    batch_of,
    pack_windows,
    scored_sums,
    windows_of,
)


def ids(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int32)


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 10, 17, 40])
def test_every_target_is_scored_once_by_the_window_with_the_most_context(length: int, stride: int) -> None:
    seq_len = 8
    scored: list[int] = []
    for window in windows_of(7, ids(length), seq_len, stride):
        assert window.document == 7
        assert 2 <= len(window.ids) <= seq_len + 1
        np.testing.assert_array_equal(window.ids, window.ids[0] + np.arange(len(window.ids)))
        targets = window.ids[-window.scored :]
        if scored:
            assert window.scored <= stride
            assert targets[0] - window.ids[0] == seq_len - stride + 1, "inputs before the first scored target"
        else:
            assert window.ids[0] == 0, "the document begins with the end-of-text id"
        scored += targets.tolist()
    assert scored == list(range(1, length))


def test_a_stride_of_the_whole_window_gives_the_windows_of_token_rows() -> None:
    windows = [window.ids.tolist() for window in windows_of(0, ids(12), 5, 5)]
    assert windows == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10], [10, 11]]


def test_rows_hold_every_window_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 1026, 2000)
    windows = [Window(number, ids(length), length - 1) for number, length in enumerate(lengths)]
    rows = list(pack_windows(windows, 1024))
    assert sorted(window.document for _, row in rows for window in row) == list(range(2000))
    for width, row in rows:
        assert sum(len(window.ids) for window in row) <= width + 1
        assert len(row) == 1 or width == SHARED_WIDTH
    assert len({width for width, _ in rows}) == 9, "few shapes to compile"
    assert lengths.sum() / sum(width for width, _ in rows) > 0.92


def test_a_row_is_never_longer_than_the_sequence_length() -> None:
    windows = [Window(number, ids(length), length - 1) for number, length in enumerate((2, 101, 40, 61))]
    assert [(width, [len(window.ids) for window in row]) for width, row in pack_windows(windows, 100)] == [
        (100, [101]),
        (100, [61, 40]),
        (100, [2]),
    ]
    windows = [Window(0, ids(600), 599)]
    assert next(pack_windows(windows, 601))[0] == 601  # and not 640


def test_a_batch_keeps_the_windows_of_a_row_apart() -> None:
    rows = [[Window(0, ids(4), 3), Window(1, ids(2), 1)], [Window(2, ids(3), 2)]]
    batch = batch_of(rows, 6, 3)
    assert batch["tokens"].tolist() == [[0, 1, 2, 3, 0, 1, 0], [0, 1, 2, 0, 0, 0, 0], [0] * 7]
    assert batch["marks"][0].tolist() == [ANSWER | BEGIN, ANSWER, ANSWER, ANSWER, ANSWER | BEGIN, ANSWER, ANSWER]
    assert "marks" not in batch_of([[Window(0, ids(300), 299)]], 320, 1)


def test_the_nats_of_a_window_are_those_of_its_scored_targets() -> None:
    rows = [[Window(4, ids(4), 2), Window(5, ids(2), 1)], [Window(6, ids(3), 2)]]
    logp_BxT = -np.array([[1, 2, 4, 99, 8, 99], [16, 32, 99, 99, 99, 99], [99] * 6], np.float32)
    assert list(scored_sums(logp_BxT, rows)) == [(4, 2, 6.0), (5, 1, 8.0), (6, 2, 48.0)]
