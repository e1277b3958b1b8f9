"""Packing: every conversation is whole and once in a row, rows are full, and marks say what is learned."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tonsai_jax.data.manifest import RowsManifest, SourceInfo
from tonsai_jax.data.marks import ANSWER, BEGIN, marks_of, marks_of_text
from tonsai_jax.data.packing import pack, write_packed
from tonsai_jax.data.rows import open_rows

PAD = 1


def conversations(lengths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Conversation n has the ids 10 + n, so that each token tells where it belongs; its second half is the answer."""
    return [
        (np.full(length, 10 + number), marks_of([place >= length // 2 for place in range(length)]))
        for number, length in enumerate(lengths)
    ]


def test_marks_say_where_a_conversation_begins_and_what_is_its_answer() -> None:
    assert marks_of([False, False, True, True]).tolist() == [BEGIN, 0, ANSWER, ANSWER]
    assert marks_of_text(np.array([5, 0, 6]), 0).tolist() == [ANSWER, ANSWER | BEGIN, ANSWER]
    assert marks_of_text(np.array([5, 0, 6]), None).tolist() == [ANSWER] * 3


def test_every_conversation_is_whole_and_in_one_row() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, 500)
    given = conversations(lengths)
    found = []
    for ids, marks in pack(given, 63, PAD):
        assert ids.shape == marks.shape == (64,)
        starts = [*np.flatnonzero(marks & BEGIN), 64]
        for start, end in pairwise(starts):
            if ids[start] == PAD:
                assert set(ids[start:].tolist()) == {PAD}
                assert marks[start:].tolist() == [BEGIN, *[0] * (end - start - 1)]
                continue
            number = int(ids[start]) - 10
            np.testing.assert_array_equal(ids[start:end], given[number][0])
            np.testing.assert_array_equal(marks[start:end], given[number][1])
            found.append(number)
    assert sorted(found) == list(range(500))


def test_a_conversation_that_just_fits_fills_a_row() -> None:
    [(ids, marks)] = pack(conversations(np.array([64])), 63, PAD)
    assert set(ids.tolist()) == {10}
    assert marks[0] == BEGIN


def test_rows_of_2048_tokens_are_at_least_98_percent_full() -> None:
    # Log-normal: the lengths of Alpaca-like answers and a few long ones; a tenth is cut at the length of a row.
    lengths = np.random.default_rng(1).lognormal(5.5, 1.0, 3000).astype(int).clip(8, 2049)
    rows = list(pack(conversations(lengths), 2048, PAD))
    assert lengths.sum() / (len(rows) * 2049) >= 0.98


def test_the_same_conversations_give_the_same_bytes(tmp_path: Path) -> None:
    given = conversations(np.random.default_rng(2).integers(2, 60, 100))
    written = [
        write_packed(tmp_path / name, "chat", "train", given, row_tokens=63, vocab_size=200, pad_id=PAD, text_bytes=5)
        for name in ("first", "second")
    ]
    assert [shard.sha256 for shard in written[0].files] == [shard.sha256 for shard in written[1].files]


@pytest.mark.parametrize("vocab_size", [200, 70_000])
def test_a_packed_row_is_read_as_it_was_packed(tmp_path: Path, vocab_size: int) -> None:
    given = conversations(np.random.default_rng(3).integers(2, 60, 100))
    split = write_packed(
        tmp_path,
        "chat",
        "train",
        given,
        row_tokens=63,
        vocab_size=vocab_size,
        pad_id=PAD,
        text_bytes=5,
        rows_per_shard=7,
    )
    assert split.targets == split.slots == split.rows * 63
    source = SourceInfo("chat", 1.0, "mul", {"train": split}, kind="conversations")
    dtype = np.dtype("<u2") if vocab_size == 200 else np.dtype("<u4")
    rows = open_rows(RowsManifest(tmp_path, 63, dtype, vocab_size, 0, "", {"chat": source}), "chat", "train")
    for number, (ids, marks) in enumerate(pack(given, 63, PAD)):
        read_ids, read_marks = rows.packed_window(number)
        np.testing.assert_array_equal(read_ids, ids)
        np.testing.assert_array_equal(read_marks, marks)
