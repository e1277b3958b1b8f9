"""A run over poisoned rows: it warns, skips, or goes back and jumps over them, and never ends well when its loss is ruined."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.support.tiny_run import TinyRun
from tonsai_jax.checkpoints.folder import damaged_checkpoints
from tonsai_jax.checkpoints.roll_backs import RollBacks
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.data.loader import Windows
from tonsai_jax.data.order import DataOrder, Segment, Window
from tonsai_jax.errors import UserError
from tonsai_jax.inference.load import load_run
from tonsai_jax.opening import Opened
from tonsai_jax.stages import Stage

SHORT = (
    "checkpoint.every=6",
    "spikes.window=10",
    "spikes.calm_steps=4",
    "spikes.max_in_a_row=3",
    "spikes.recover_steps=8",
)
ROLL_BACK = (*SHORT, "spikes.action=roll_back")
BATCH = 16
STAGES = (Stage(steps=24, seq_len=32, global_batch_size=BATCH),)  # of `TinyRun`


@contextmanager
def poisoned(first: int, end: int, stages: Sequence[Stage] = STAGES) -> Iterator[None]:
    """The windows that a run reads in the steps `first` to `end` - 1 from its start hold random tokens."""
    bad: set[Window] = set()
    read, window_of = Windows.__getitem__, DataOrder.window

    def find(order: DataOrder) -> None:
        start = DataOrder(order.manifest, seed=order.seed, stages=stages)
        bad.update(window for step in range(first, end) for window in start.batch(step))

    def poison(windows: Windows, index: Any) -> Any:
        if not bad:
            find(windows._order)
        element = read(windows, index)
        if window_of(windows._order, windows._segment, index) in bad:
            tokens = np.random.default_rng(index).integers(1, 390, len(element["tokens"]))
            element = element | {"tokens": tokens.astype(element["tokens"].dtype)}
        return element

    with mock.patch.object(Windows, "__getitem__", poison):
        yield


@contextmanager
def jump(at: int, to: int) -> Iterator[None]:
    """From step `at` on, the batches are those of step `to` on."""
    window_of = DataOrder.window

    def window(order: DataOrder, segment: Segment, number: int) -> Window:
        return window_of(order, segment, number + (to - at) * BATCH * (number >= at * BATCH))

    with mock.patch.object(DataOrder, "window", window):
        yield


def assert_same_run(run: TinyRun, other: TinyRun) -> None:
    assert run.losses() == other.losses()
    ours, theirs = load_run(run.workdir).params, load_run(other.workdir).params
    np.testing.assert_array_equal(ours["token_embedding"], theirs["token_embedding"])


def records(run: TinyRun, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.workdir / name).read_text(encoding="utf-8").splitlines()]


def test_it_goes_back_and_is_the_run_that_would_have_jumped(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run" / "run", ROLL_BACK)
    with poisoned(14, 17):
        printed = run.train()
    assert printed.count("spike: loss") == 1, "one line for the spike, not one for each step"
    assert "step 17: no recovery from the spike of step 15: back to the last sane checkpoint, that of step 6" in printed
    assert "1 of 3 times" in printed
    assert "complete: 24 steps" in printed

    [record] = records(run, "roll_backs.jsonl")
    assert (record["from_step"], record["to_step"]) == (17, 6)
    bad = record["bad_steps"]
    assert [step["step"] for step in bad] == [15, 16, 17]
    assert all(len(step["rows"]) == BATCH for step in bad)
    assert all(float(step["loss"]) > 6 for step in bad)
    assert [spike["rows"] for spike in records(run, "spikes.jsonl")] == [step["rows"] for step in bad]

    jumped = TinyRun(rows, tmp_path / "jumped" / "run", SHORT)
    with jump(at=6, to=17):
        jumped.train()
    assert_same_run(run, jumped)


@pytest.mark.full
def test_killed_while_it_goes_back_it_ends_as_one_that_was_not(rows: Path, tmp_path: Path) -> None:
    whole = TinyRun(rows, tmp_path / "whole" / "run", ROLL_BACK)
    with poisoned(14, 17):
        whole.train()
    for number, (room, name) in enumerate([(Checkpoints, "delete_after"), (RollBacks, "add"), (Opened, "restore")]):
        run = TinyRun(rows, tmp_path / str(number) / "run", ROLL_BACK)
        with poisoned(14, 17):
            with mock.patch.object(room, name, side_effect=MemoryError), pytest.raises(MemoryError):
                run.train()  # ends before it has deleted, before it has recorded, before it has restored
            run.train()
        assert_same_run(run, whole)
        assert len(records(run, "roll_backs.jsonl")) == 1


@pytest.mark.full
def test_stopped_after_it_went_back_it_keeps_the_jump(rows: Path, tmp_path: Path) -> None:
    whole = TinyRun(rows, tmp_path / "whole" / "run", ROLL_BACK)
    parts = TinyRun(rows, tmp_path / "parts" / "run", ROLL_BACK)
    with poisoned(14, 17):
        whole.train()
        for steps in (17, 3, 24):
            parts.train(steps_today=steps)
    assert_same_run(parts, whole)


@pytest.mark.full
def test_it_goes_back_only_so_many_times(rows: Path, tmp_path: Path) -> None:
    finer = ("spikes.loss_rise=0.2", "spikes.deviations=1.5", "spikes.max_roll_backs=2")
    run = TinyRun(rows, tmp_path / "run", (*ROLL_BACK, *finer))
    with poisoned(14, 60), pytest.raises(UserError, match=r"already went back 2 times \(spikes.max_roll_backs=2\)"):
        run.train()
    assert [record["to_step"] for record in records(run, "roll_backs.jsonl")] == [6, 6]


@pytest.mark.full
def test_without_a_sane_checkpoint_it_cannot_go_back(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", (*ROLL_BACK, "checkpoint.every=12"))
    with poisoned(14, 17), pytest.raises(UserError, match="no whole checkpoint was followed by sane steps yet"):
        run.train()


@pytest.mark.full
def test_nothing_is_deleted_before_the_checkpoint_to_go_back_to_is_found_whole(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", (*ROLL_BACK, "steps=18"))
    find = Checkpoints.whole_sane_step

    def damage_first(checkpoints: Checkpoints, say: Callable[[str], None]) -> int | None:
        (run.workdir / "checkpoints" / "6" / "optimizer" / "_METADATA").write_text("{}")
        return find(checkpoints, say)

    with (
        poisoned(14, 17),
        mock.patch.object(Checkpoints, "whole_sane_step", damage_first),
        pytest.raises(UserError, match="no whole checkpoint was followed by sane steps yet"),
    ):
        run.train()
    assert run.saved_steps() == {12}, "the later one stays"
    assert len(damaged_checkpoints(run.workdir)) == 1


@pytest.mark.full
def test_a_ruined_run_does_not_end_well(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", (*SHORT,))
    run.train(steps_today=12)
    rate = "optimizer.learning_rate=3"
    with pytest.raises(
        UserError, match=r"step 24: the run has diverged: .* the last sane checkpoint is that of step 6"
    ):
        run.train(rate)
    assert not (run.workdir / "complete.json").exists()
    assert 6 in run.saved_steps(), "the last sane one stays, however many follow"
    with pytest.raises(UserError, match="the run has diverged"):
        run.train(rate)


@pytest.mark.full
def test_the_end_of_a_sane_run_is_sane(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", (*SHORT, "steps=12"))
    assert "spike" not in run.train()
    assert json.loads((run.workdir / "sane_steps.json").read_text()) == [6, 12]
    assert not (run.workdir / "spikes.jsonl").exists()


@pytest.mark.full
def test_a_skipped_step_changes_nothing_and_the_run_goes_on(rows: Path, tmp_path: Path) -> None:
    limits = ("spikes.grad_factor=2", "spikes.deviations=1")
    run = TinyRun(rows, tmp_path / "skip" / "run", (*SHORT, *limits, "spikes.action=skip", "spikes.max_in_a_row=5"))
    with poisoned(14, 17):
        run.train()
    rows_of = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    skipped = {row["step"]: row["train/skipped_steps"] for row in rows_of if "train/skipped_steps" in row}
    assert skipped[14] == 0
    assert skipped[17] >= 1
    assert run.losses()[24] < 5


@pytest.mark.full
def test_set_back_by_a_person_it_forgets_the_later_jumps(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", (*ROLL_BACK, "checkpoint.every=3", "checkpoint.keep_last=8"))
    with poisoned(14, 17):
        run.train(steps_today=21)
    [record] = records(run, "roll_backs.jsonl")
    for step in run.saved_steps():
        if step >= record["to_step"]:
            shutil.rmtree(run.workdir / "checkpoints" / str(step))
    run.train(steps_today=1)
    assert records(run, "roll_backs.jsonl") == []


@pytest.mark.full
def test_it_goes_back_once_to_a_sane_checkpoint_that_was_saved_in_a_spike(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(
        rows, tmp_path / "run", (*SHORT, "checkpoint.every=15", "spikes.loss_rise=0.7", "spikes.deviations=4")
    )
    with poisoned(11, 15):
        assert "step 14: no recovery from the spike of step 12" in run.train(steps_today=20)
    assert json.loads((run.workdir / "sane_steps.json").read_text()) == [15], "its spike was over"
    with poisoned(20, 23):
        printed = run.train("spikes.action=roll_back")
    assert "1 of 3 times" in printed
    assert [record["to_step"] for record in records(run, "roll_backs.jsonl")] == [15]
    assert "complete: 24 steps" in printed


@pytest.mark.full
def test_stopped_in_a_spike_without_recovery_it_goes_back_at_its_start(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", SHORT)
    with poisoned(14, 17):
        run.train(steps_today=17)
    assert 17 in run.saved_steps()
    printed = run.train("spikes.action=roll_back", steps_today=1)
    assert "step 17: no recovery from the spike of step 15: back to the last sane checkpoint, that of step 6" in printed
    assert [record["to_step"] for record in records(run, "roll_backs.jsonl")] == [6]


@pytest.mark.full
def test_it_goes_back_from_a_spike_that_goes_on_in_the_next_stage(rows: Path, tmp_path: Path) -> None:
    stages = "stages=({'steps': 16}, {'steps': 8, 'seq_len': 64})"
    run = TinyRun(rows, tmp_path / "run", (*ROLL_BACK, stages))
    with poisoned(14, 18, (Stage(16, 32, BATCH), Stage(8, 64, BATCH))):
        printed = run.train()
    assert "step 17: no recovery from the spike of step 15: back to the last sane checkpoint, that of step 6" in printed
    assert "complete: 24 steps" in printed
    assert len(records(run, "roll_backs.jsonl")) == 1
