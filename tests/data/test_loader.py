"""The loader's promises: the order is a function of the step, and nothing is read twice before its time."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.rows import write_rows
from tonsai_jax.data.loader import Batch, Mixture, Position, SourceOrder, _counts
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import Rows
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage

KM, EN = 16_005, 5000  # tokens; rows of 8: km has 2000 full rows (8 blocks) and a padded one, en 624 and one
FIRST_EN = 30_000  # an id tells its source and its place in it: km counts from 0, en from here


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RowsManifest:
    streams = {"km": np.arange(KM), "en": FIRST_EN + np.arange(EN)}
    return write_rows(tmp_path_factory.mktemp("rows"), streams, weights={"km": 0.75, "en": 0.25})


def mixture(manifest: RowsManifest, *stages: Stage, **kwargs: Any) -> Mixture:
    return Mixture(manifest, **{"seed": 0, "stages": stages, **kwargs})


def same(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in ("tokens", "valid"))


def windows(batches: Iterable[Batch]) -> list[list[int]]:
    """The real targets of every window, in the order read."""
    return [
        tokens[1 : 1 + valid].tolist()
        for batch in batches
        for tokens, valid in zip(batch["tokens"], batch["valid"].tolist(), strict=True)
    ]


def windows_by_source(batches: Iterable[Batch]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {"km": [], "en": []}
    for window in windows(batches):
        found["km" if window[0] < FIRST_EN else "en"].append(window)
    return found


def run(mix: Mixture, start: int = 0, stop: int | None = None) -> list[Batch]:
    return [mix.batch_at(step) for step in range(start, mix.total_steps if stop is None else stop)]


def resumed_state(mix: Mixture, step: int) -> dict[str, Any]:
    return json.loads(json.dumps(mix.state(step), sort_keys=True))


# The order of one source


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


# The mix


@pytest.mark.parametrize("weights", [{"a": 0.6, "b": 0.4}, {"a": 5, "b": 3, "c": 1}, {"a": 1000, "b": 1}])
def test_every_prefix_has_its_share_of_every_source(weights: dict[str, float]) -> None:
    n = np.arange(20_001)
    shares = {name: round(weight / sum(weights.values()) * 2**24) for name, weight in weights.items()}
    counts = _counts(n, shares)
    wanted = n * np.array(list(weights.values()))[:, None] / sum(weights.values())
    assert (counts.sum(0) == n).all()
    assert (np.diff(counts) >= 0).all()
    assert np.abs(counts - wanted).max() < 1


def test_counts_are_exact_after_a_hundred_billion_rows() -> None:
    counts = _counts(np.array([10**11, 10**11 + 1]), {"a": 10_066_330, "b": 6_710_886})
    assert counts[:, 0].tolist() == [60_000_002_384, 39_999_997_616]
    assert counts.sum(0).tolist() == [10**11, 10**11 + 1]


def test_batches_hold_the_sources_by_weight(manifest: RowsManifest) -> None:
    found = windows_by_source(run(mixture(manifest, Stage(50, 4, 8))))
    assert (len(found["km"]), len(found["en"])) == (300, 100)
    found = windows_by_source(run(mixture(manifest, Stage(50, 4, 8, {"km": 1, "en": 3}))))
    assert (len(found["km"]), len(found["en"])) == (100, 300)
    found = windows_by_source(run(mixture(manifest, Stage(50, 4, 8, {"km": 2, "en": 0}))))
    assert (len(found["km"]), len(found["en"])) == (400, 0)


def test_a_batch_has_the_promised_shapes(manifest: RowsManifest) -> None:
    batch = mixture(manifest, Stage(5, 4, 6)).batch_at(3)
    assert batch["tokens"].shape == (6, 5)
    assert batch["tokens"].dtype == np.uint16
    assert batch["valid"].shape == (6,)
    assert batch["valid"].dtype == np.int32


def test_batches_ahead_are_those_of_the_steps(manifest: RowsManifest) -> None:
    mix = mixture(manifest, Stage(30, 4, 4), Stage(5, 8, 2))
    for start in (0, 17, 34, 35):
        ahead = list(mix.batches(start))
        assert len(ahead) == 35 - start
        assert all(map(same, ahead, run(mix, start)))


# Stages


def test_changed_weights_go_on_at_the_next_window_of_every_source(manifest: RowsManifest) -> None:
    stages = [
        Stage(100, 4, 8),
        Stage(90, 4, 4, {"en": 1}),
        Stage(80, 4, 16, {"km": 1, "en": 9}),
        Stage(50, 4, 8),
    ]
    found = windows_by_source(run(mixture(manifest, *stages)))
    for name in found:
        alone = run(mixture(manifest, Stage(len(found[name]), 4, 1, {name: 1})))
        assert found[name] == windows(alone)


def test_a_longer_context_never_reads_a_token_again_within_an_epoch(manifest: RowsManifest) -> None:
    stages = [Stage(20, 2, 4), Stage(30, 4, 8), Stage(30, 2, 8, {"km": 1}), Stage(70, 8, 8)]
    mix = mixture(manifest, *stages)
    read = Counter(token for window in windows_by_source(run(mix))["km"] for token in window)
    assert 1 < mix.epochs()["en"] < 2
    assert mix.epochs()["km"] < 1
    assert set(read.values()) == {1}


def test_two_equal_stages_are_one(manifest: RowsManifest) -> None:
    one = mixture(manifest, Stage(25, 4, 3))
    two = mixture(manifest, Stage(11, 4, 3), Stage(14, 4, 3, {"en": 0.5, "km": 1.5}))
    assert all(map(same, run(one), run(two)))


def test_epochs_are_known_before_the_run(manifest: RowsManifest) -> None:
    mix = mixture(manifest, Stage(1000, 4, 8), Stage(1000, 4, 8, {"km": 1}))
    assert mix.epochs()["en"] == 2000 / 1250
    assert mix.epochs()["km"] == 14_000 / 4001
    mix.check_max_epochs(0)
    mix.check_max_epochs(3.5)
    with pytest.raises(UserError, match=r"'km' would be read 3\.50 times .* data\.max_epochs is 3"):
        mix.check_max_epochs(3)


# Stopping and going on


def test_a_resumed_run_has_the_batches_of_one_never_stopped(manifest: RowsManifest) -> None:
    stages = [Stage(40, 4, 8), Stage(30, 4, 8, {"en": 2, "km": 1}), Stage(30, 8, 2), Stage(10, 2, 4)]
    whole = mixture(manifest, *stages)
    rng = np.random.default_rng(0)
    for _ in range(30):
        first, second = sorted(rng.integers(0, 111, size=2).tolist())
        once = mixture(manifest, *stages, state=resumed_state(whole, first))
        assert all(map(same, run(once, first), run(whole, first)))
        twice = mixture(manifest, *stages, state=resumed_state(once, second))
        assert all(map(same, run(twice, second), run(whole, second)))
        assert twice.state(second) == whole.state(second)
        assert twice.epochs() == whole.epochs()


def test_a_run_can_be_made_longer_after_its_end(manifest: RowsManifest) -> None:
    state = resumed_state(mixture(manifest, Stage(20, 4, 8)), 20)
    longer = mixture(manifest, Stage(50, 4, 8), state=state)
    assert all(map(same, run(longer, 20), run(mixture(manifest, Stage(50, 4, 8)), 20)))


def test_resuming_reads_only_the_batch_it_resumes_at(manifest: RowsManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    state = mixture(manifest, Stage(200_000, 4, 8)).state(100_000)
    reads = []
    read = Rows.read

    def counted(self: Rows, index: int) -> Any:
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(Rows, "read", counted)
    mixture(manifest, Stage(200_000, 4, 8), state=state).batch_at(100_000)
    assert len(reads) == 8


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_hosts(manifest: RowsManifest, processes: int) -> None:
    stages = [Stage(20, 4, 8), Stage(20, 8, 4, {"en": 1})]
    alone = mixture(manifest, *stages)
    hosts = [mixture(manifest, *stages, process_index=index, process_count=processes) for index in range(processes)]
    for step in range(40):
        parts = [host.batch_at(step) for host in hosts]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in ("tokens", "valid")}
        assert same(joined, alone.batch_at(step))
    assert all(host.state(33) == alone.state(33) for host in hosts)


@pytest.mark.parametrize("edited", [Stage(60, 4, 8, {"en": 3, "km": 1}), Stage(60, 4, 2), Stage(60, 4, 16, {"en": 1})])
def test_an_edited_mix_goes_on_where_every_source_was(manifest: RowsManifest, edited: Stage) -> None:
    before = mixture(manifest, Stage(60, 4, 8))
    after = mixture(manifest, edited, state=resumed_state(before, 23))
    again = mixture(manifest, edited, state=resumed_state(after, 31))
    batches = run(before, 0, 23) + run(after, 23, 31) + run(again, 31)
    assert all(map(same, run(again, 31), run(after, 31)))
    found = windows_by_source(batches)
    for name in found:
        assert found[name] == windows(run(mixture(manifest, Stage(len(found[name]), 4, 1, {name: 1}))))


def test_an_edited_sequence_length_reads_no_token_again(manifest: RowsManifest) -> None:
    before = mixture(manifest, Stage(60, 2, 8))
    after = mixture(manifest, Stage(60, 8, 8), state=resumed_state(before, 23))
    read = Counter(token for window in windows(run(before, 0, 23) + run(after, 23)) for token in window)
    assert set(read.values()) == {1}


def test_a_source_that_came_later_starts_at_its_beginning(tmp_path: Path) -> None:
    streams = {"km": np.arange(KM), "en": FIRST_EN + np.arange(EN)}
    before = mixture(write_rows(tmp_path / "km", {"km": streams["km"]}), Stage(60, 4, 8))
    both = write_rows(tmp_path / "both", streams)
    after = mixture(both, Stage(60, 4, 8), state=resumed_state(before, 20))
    found = windows_by_source(run(before, 0, 20) + run(after, 20))
    assert len(found["en"]) == 160
    for name in found:
        assert found[name] == windows(run(mixture(both, Stage(len(found[name]), 4, 1, {name: 1}))))


# Small and odd corpora


@pytest.mark.parametrize("tokens", [2, 3, 7, 8, 9, 10, 17, 21])
def test_a_source_smaller_than_a_row_trains(tmp_path: Path, tokens: int) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(tokens)})
    mix = mixture(manifest, Stage(12, 4, 1))
    size = -(-(tokens - 1) // 4)
    epoch = windows(run(mix, 0, size))
    assert sorted(token for window in epoch for token in window) == list(range(1, tokens))
    batch = mixture(manifest, Stage(12, 4, 16)).batch_at(11)
    assert (batch["valid"] > 0).all()


# Mistakes


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(10, 3, 8), "seq_len 3 does not divide row_tokens 8"),
        (Stage(10, 16, 8), "seq_len 16 does not divide row_tokens 8"),
        (Stage(10, 4, 7), "stage 1: global_batch_size 7 is not divisible by the 2 processes"),
        (Stage(0, 4, 8), "stage 1: steps 0"),
        (Stage(10, 4, 8, {"kn": 1}), "stage 1: weights name source 'kn'.*did you mean 'km'"),
        (Stage(10, 4, 8, {"wikipedia": 1}), "'wikipedia', which .* known are: km, en"),
        (Stage(10, 4, 8, {"km": 1, "en": -0.5}), "the weight of source 'en' is -0.5"),
        (Stage(10, 4, 8, {"km": float("nan")}), "the weight of source 'km' is nan"),
        (Stage(10, 4, 8, {"km": 0, "en": 0}), "every weight is 0"),
    ],
)
def test_an_impossible_stage_is_refused(manifest: RowsManifest, stage: Stage, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mixture(manifest, Stage(10, 4, 8), stage, process_count=2)


def test_a_source_without_rows_is_refused_unless_its_weight_is_zero(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(30), "en": np.arange(0)})
    with pytest.raises(UserError, match="source 'en' has no train rows"):
        mixture(manifest, Stage(10, 4, 8))
    assert mixture(manifest, Stage(10, 4, 8, {"km": 1, "en": 0})).epochs()["en"] == 0


def test_another_seed_or_other_rows_cannot_go_on(manifest: RowsManifest, tmp_path: Path) -> None:
    state = mixture(manifest, Stage(10, 4, 8)).state(5)
    with pytest.raises(UserError, match="the data seed was 0 when the checkpoint was written and is 7 now"):
        mixture(manifest, Stage(10, 4, 8), seed=7, state=state)
    other = write_rows(tmp_path, {"km": 1 + np.arange(KM), "en": np.arange(EN)})
    with pytest.raises(UserError, match="the token rows of source 'km' are not those the checkpoint was trained on"):
        mixture(other, Stage(10, 4, 8), state=state)


def test_a_damaged_file_stops_the_batches_with_its_name(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(KM)})
    path = manifest.sources["km"].splits["train"].files[2].path
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{path}: damaged token rows"):
        list(mixture(manifest, Stage(500, 4, 8)).batches(0))
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: this file of token rows is missing"):
        list(mixture(manifest, Stage(500, 4, 8)).batches(0))
