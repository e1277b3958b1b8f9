"""The order of a run: every mix has its shares, epochs are known before the run, and impossible stages are refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.rows import write_rows
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.order import DataOrder, Segment, source_counts
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage

KM, EN = 16_005, 5000  # tokens


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RowsManifest:
    ids = {"km": np.arange(KM), "en": np.arange(EN)}
    return write_rows(tmp_path_factory.mktemp("rows"), ids, weights={"km": 0.75, "en": 0.25})


def make_order(manifest: RowsManifest, *stages: Stage, **kwargs: Any) -> DataOrder:
    return DataOrder(manifest, **{"seed": 0, "stages": stages, **kwargs})


def whole(weights: dict[str, float]) -> dict[str, int]:
    return {name: round(weight / sum(weights.values()) * 2**24) for name, weight in weights.items()}


# The mix


@pytest.mark.parametrize("weights", [{"a": 0.6, "b": 0.4}, {"a": 5, "b": 3, "c": 1}, {"a": 1000, "b": 1}])
def test_every_prefix_has_its_share_of_every_source(weights: dict[str, float]) -> None:
    counts = [source_counts(number, whole(weights)) for number in range(20_001)]
    for number, count in enumerate(counts):
        assert sum(count.values()) == number
        for name, weight in weights.items():
            assert abs(count[name] - number * weight / sum(weights.values())) < 1
    for before, after in itertools.pairwise(counts):
        assert all(after[name] >= before[name] for name in weights)


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 0.6, "b": 0.4}, {"a": 7, "b": 5, "c": 2, "d": 2, "e": 1}])
def test_the_source_of_a_window_is_the_one_whose_count_grows(weights: dict[str, float]) -> None:
    segment = Segment(first_step=0, seq_len=4, global_batch_size=8, shares=whole(weights), positions={})
    for number in [*range(3000), 10**11]:
        before, after = (source_counts(n, segment.shares) for n in (number, number + 1))
        grown = [name for name in weights if after[name] > before[name]]
        assert [segment.source_of(number)] == [(name, before[name]) for name in grown]


def test_counts_are_exact_after_a_hundred_billion_windows() -> None:
    shares = {"a": 10_066_330, "b": 6_710_886}
    assert source_counts(10**11, shares) == {"a": 60_000_002_384, "b": 39_999_997_616}
    assert sum(source_counts(10**11 + 1, shares).values()) == 10**11 + 1


# Epochs


def test_epochs_are_known_before_the_run(manifest: RowsManifest) -> None:
    order = make_order(manifest, Stage(1000, 4, 8), Stage(1000, 4, 8, {"km": 1}))
    assert order.epochs() == {"km": 14_000 / 4001, "en": 2000 / 1250}
    assert order.epochs(0) == {"km": 0, "en": 0}
    assert order.epochs(500) == {"km": 3000 / 4001, "en": 1000 / 1250}
    assert order.epochs(1500) == {"km": 10_000 / 4001, "en": 2000 / 1250}
    assert order.epochs(2000) == order.epochs()
    order.check_max_epochs(0)
    order.check_max_epochs(3.5)
    with pytest.raises(UserError, match=r"'km' would be read 3\.499 times .* data\.max_epochs is 3"):
        order.check_max_epochs(3)


def test_a_whole_epoch_in_whole_steps_is_within_one_epoch(manifest: RowsManifest) -> None:
    steps = -(-1250 // 8)  # of "en" alone, whose last batch passes its end
    order = make_order(manifest, Stage(steps, 4, 8, {"en": 1}))
    assert 1 < order.epochs()["en"] < 1.01
    order.check_max_epochs(1)
    with pytest.raises(UserError, match=r"data\.max_epochs is 1"):
        make_order(manifest, Stage(steps + 1, 4, 8, {"en": 1})).check_max_epochs(1)


# The data state of a checkpoint


def test_the_state_stays_what_it_was(manifest: RowsManifest) -> None:
    """Checkpoints hold it: what older versions wrote must be read, so do not update these values."""
    order = make_order(manifest, Stage(10, 4, 8), Stage(10, 8, 4, {"km": 1}))
    assert order.state(12) == {
        "version": 1,
        "seed": 0,
        "step": 12,
        "rows": {"km": "04c618a757235058", "en": "16a27446e673b295"},
        "segment": {
            "first_step": 10,
            "seq_len": 8,
            "global_batch_size": 4,
            "shares": {"km": 16777216},
            "positions": {"km": {"seq_len": 8, "windows": 256}, "en": {"seq_len": 4, "windows": 20}},
        },
    }


def test_a_step_before_the_one_resumed_at_has_no_segment(manifest: RowsManifest) -> None:
    stages = Stage(10, 4, 8), Stage(10, 8, 4)
    order = make_order(manifest, *stages, state=make_order(manifest, *stages).state(12))
    assert [segment.first_step for segment in order.segments] == [10]
    assert order.segment_number(10) == 0
    with pytest.raises(IndexError, match="step 9 is before step 10"):
        order.segment_number(9)


@pytest.mark.parametrize(("back_to", "end"), [(3, 7), (3, 14), (8, 12), (12, 15), (10, 10)])
def test_a_jump_reads_what_comes_after_the_rows_left_out(manifest: RowsManifest, back_to: int, end: int) -> None:
    stages = Stage(10, 4, 8), Stage(200, 8, 4)
    order = make_order(manifest, *stages)
    state = order.state_after_jump(back_to, order.positions(end))
    jumped = make_order(manifest, *stages, state=json.loads(json.dumps(state)))

    def tokens(order: DataOrder, steps: range) -> set[tuple[str, int]]:
        """The tokens of each row that these steps read, 8 in a row."""
        found = set()
        for step in steps:
            length = order.segments[order.segment_number(step)].seq_len
            for window in order.batch(step):
                first = window.row * 8 + window.part * length
                found |= {(window.source, token) for token in range(first, first + length)}
        return found

    read = tokens(order, range(end))
    assert not read & tokens(jumped, range(back_to, 60))
    assert [len(jumped.batch(step)) for step in (back_to, 20)] == [len(order.batch(step)) for step in (back_to, 20)]
    if end < 10:
        assert jumped.batch(back_to) == order.batch(end)
    again = make_order(manifest, *stages, state=jumped.state(20))  # a later checkpoint has the jump in its own state
    assert again.batch(25) == jumped.batch(25)


def test_another_seed_or_other_rows_cannot_resume(manifest: RowsManifest, tmp_path: Path) -> None:
    state = make_order(manifest, Stage(10, 4, 8)).state(5)
    with pytest.raises(UserError, match="the data seed was 0 when the checkpoint was written and is 7 now"):
        make_order(manifest, Stage(10, 4, 8), seed=7, state=state)
    with pytest.raises(UserError, match="data state has version 2, but this program reads version 1"):
        make_order(manifest, Stage(10, 4, 8), state=state | {"version": 2})
    other = write_rows(tmp_path, {"km": 1 + np.arange(KM), "en": np.arange(EN)})
    with pytest.raises(UserError, match="the token rows of source 'km' are not those the checkpoint was trained on"):
        make_order(other, Stage(10, 4, 8), state=state)


def test_a_source_that_came_after_the_checkpoint_has_no_epochs_yet(manifest: RowsManifest, tmp_path: Path) -> None:
    stages = Stage(10, 4, 8, {"km": 1})
    state = make_order(manifest, stages).state(5)
    more = write_rows(tmp_path, {"km": np.arange(KM), "en": np.arange(EN), "th": np.arange(EN)})
    order = make_order(more, stages, state=state)
    assert order.epochs() == {"km": 80 / 4001, "en": 0, "th": 0}
    order.check_max_epochs(1)


# Mistakes


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(10, 3, 8), "seq_len 3 does not divide row_tokens 8"),
        (Stage(10, 16, 8), "seq_len 16 does not divide row_tokens 8"),
        (Stage(10, 4, 8, {"kn": 1}), "stage 1: weights name source 'kn'.*did you mean 'km'"),
        (Stage(10, 4, 8, {"wikipedia": 1}), "'wikipedia', which .* known are: km, en"),
        (Stage(10, 4, 8, {"km": 0, "en": 0}), "every weight is 0"),
    ],
)
def test_an_impossible_stage_is_refused(manifest: RowsManifest, stage: Stage, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_order(manifest, Stage(10, 4, 8), stage)


def test_a_source_without_rows_is_refused_unless_its_weight_is_zero(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(30), "en": np.arange(0)})
    with pytest.raises(UserError, match="source 'en' has no train rows"):
        make_order(manifest, Stage(10, 4, 8))
    assert make_order(manifest, Stage(10, 4, 8, {"km": 1, "en": 0})).epochs()["en"] == 0
