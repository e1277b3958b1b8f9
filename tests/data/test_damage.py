"""Damaged rows during training: the batches keep their places, and the run stops before the first that is not skipped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.rows import write_rows
from tonsai_jax.data.damage import SKIPPED, DamagedRows
from tonsai_jax.data.loader import Batch, Loader
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage

STEPS, BATCH = 40, 4  # windows of 4 tokens, two in a row: 160 of the 500 windows


@pytest.fixture
def manifest(tmp_path: Path) -> RowsManifest:
    return write_rows(tmp_path, {"km": np.arange(2001)}, rows_per_shard=300)


def order_of(manifest: RowsManifest) -> DataOrder:
    return DataOrder(manifest, seed=0, stages=[Stage(STEPS, 4, BATCH)])


def row_read_first_at(manifest: RowsManifest, step: int) -> int:
    """A row of which no window is read before `step`."""
    order = order_of(manifest)
    rows = [order.window(order.segments[0], number).row for number in range(STEPS * BATCH)]
    return next(row for number, row in enumerate(rows) if number >= step * BATCH and row not in rows[:number])


def damage(manifest: RowsManifest, *rows: int) -> None:
    path = manifest.sources["km"].splits["train"].files[0].path
    content = bytearray(path.read_bytes())
    for row in rows:
        content[content.index(np.arange(row * 8, row * 8 + 9, dtype="<u2").tobytes())] ^= 1
    path.write_bytes(content)


def watch(
    manifest: RowsManifest, limit: int, *, start: int = 0, end: int = STEPS, **loader: Any
) -> tuple[Any, Any, list]:
    lines: list[str] = []
    damaged = DamagedRows(limit, lines.append)
    batches = Loader(order_of(manifest), damaged=damaged, **loader).batches(start)
    return damaged, damaged.watch(batches, start, end), lines


def train(damaged: DamagedRows, batches: Any) -> list[Batch]:
    """The batches that a run trains on, whose loop sees a request to stop one step late."""
    trained, asked = [], False
    for batch in batches:
        stopping, asked = asked, damaged.stops
        trained.append(batch)
        if stopping:
            break
    return trained


@pytest.mark.parametrize("step", [2, 3, 17, STEPS - 1])
def test_a_run_stops_just_before_the_damaged_row_and_the_message_names_it(manifest: RowsManifest, step: int) -> None:
    whole = list(Loader(order_of(manifest)).batches(0))
    row = row_read_first_at(manifest, step)
    first = next(number for number, batch in enumerate(whole) if (batch["tokens"] // 8 == row)[:, 1:-1].any())
    damage(manifest, row)
    damaged, batches, lines = watch(manifest, limit=0)
    trained = train(damaged, batches)
    assert len(trained) == first
    assert all(np.array_equal(ours["tokens"], good["tokens"]) for ours, good in zip(trained, whole, strict=False))
    assert lines == []
    with pytest.raises(UserError, match=rf"damaged token rows \(row {row}: .*; the run is saved at step {first} and "):
        damaged.raise_error(saved_step=first)
    with pytest.raises(UserError, match=f"row {row}"):  # a loop that does not stop gets no batch without its row
        next(batches)


@pytest.mark.parametrize("step", [0, 1])
def test_damage_in_the_first_two_steps_ends_the_run_at_once(manifest: RowsManifest, step: int) -> None:
    damage(manifest, row_read_first_at(manifest, step))
    _, batches, _ = watch(manifest, limit=0)
    with pytest.raises(UserError, match="damaged token rows"):
        next(batches)


def test_damage_after_the_last_step_of_today_is_no_error(manifest: RowsManifest) -> None:
    row = row_read_first_at(manifest, 20)
    damage(manifest, row)
    damaged, batches, _ = watch(manifest, limit=0, end=10)
    assert len(train(damaged, batches)) == 10
    assert not damaged.stops
    damaged.raise_error(saved_step=10)


def test_up_to_the_limit_nothing_is_learned_from_damaged_rows_and_the_other_windows_stay_the_same(
    manifest: RowsManifest,
) -> None:
    whole = list(Loader(order_of(manifest)).batches(0))
    rows = [row_read_first_at(manifest, step) for step in (0, 9)]
    damage(manifest, *rows)
    damaged, batches, lines = watch(manifest, limit=2)
    trained = train(damaged, batches)
    assert len(trained) == STEPS
    assert damaged.count == 2
    assert [line.endswith(f"skipped, number {n} of at most 2") for n, line in enumerate(lines, 1)] == [True, True]
    skipped = 0
    for ours, good in zip(trained, whole, strict=True):
        is_skipped = np.isin(good["tokens"][:, 1] // 8, rows)
        skipped += is_skipped.sum()
        assert (ours["valid"][is_skipped] == SKIPPED).all()
        assert np.array_equal(ours["tokens"][~is_skipped], good["tokens"][~is_skipped])
        assert np.array_equal(ours["valid"][~is_skipped], good["valid"][~is_skipped])
    assert skipped >= 2


def test_a_row_of_which_two_windows_are_read_counts_once(manifest: RowsManifest) -> None:
    order = order_of(manifest)
    rows = [order.window(order.segments[0], number).row for number in range(STEPS * BATCH)]
    damage(manifest, next(row for row in rows if rows.count(row) == 2))
    damaged, batches, lines = watch(manifest, limit=1)
    assert sum(np.count_nonzero(batch["valid"] == SKIPPED) for batch in train(damaged, batches)) == 2
    assert (damaged.count, len(lines)) == (1, 1)


def test_one_row_above_the_limit_ends_the_run(manifest: RowsManifest) -> None:
    rows = [row_read_first_at(manifest, step) for step in (5, 12, 20)]
    damage(manifest, *rows)
    damaged, batches, lines = watch(manifest, limit=2)
    assert 12 < len(train(damaged, batches)) < STEPS
    assert len(lines) == 2
    assert f"row {rows[2]}" in str(damaged.error)
    with pytest.raises(UserError, match=r"add --config\.data\.max_damaged_rows=3 or more"):
        damaged.raise_error(saved_step=19)


def test_skipped_windows_are_the_same_after_a_resume_and_on_two_processes(manifest: RowsManifest) -> None:
    damage(manifest, row_read_first_at(manifest, 7), row_read_first_at(manifest, 12))
    one = train(*watch(manifest, limit=9)[:2])
    resumed = train(*watch(manifest, limit=9, start=6)[:2])
    halves = [train(*watch(manifest, limit=9, process_index=i, process_count=2)[:2]) for i in range(2)]
    joined = [
        {key: np.concatenate([first[key], second[key]]) for key in first} for first, second in zip(*halves, strict=True)
    ]
    for key in ("tokens", "valid"):
        assert all(np.array_equal(a[key], b[key]) for a, b in zip(one, joined, strict=True))
        assert all(np.array_equal(a[key], b[key]) for a, b in zip(one[6:], resumed, strict=True))
    assert any((batch["valid"] == SKIPPED).any() for batch in one[6:])


def test_a_file_that_cannot_be_opened_is_never_skipped(manifest: RowsManifest) -> None:
    path = manifest.sources["km"].splits["train"].files[0].path
    path.write_bytes(path.read_bytes()[:5000])
    _, batches, _ = watch(manifest, limit=9)
    with pytest.raises(UserError, match=f"{path}: damaged token rows"):
        list(batches)
