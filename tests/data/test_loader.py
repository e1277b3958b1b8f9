"""The loader: batches are a function of the step, nothing is read twice in an epoch, and Grain does the rest."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
from grain.experimental import FirstFitPackIterDataset

from tests.support.rows import write_rows
from tonsai_jax.data.loader import Batch, Loader
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.data.rows import Rows
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage

KM, EN = 16_005, 5000  # tokens; rows of 8: km has 2000 full rows (8 blocks) and a padded one, en 624 and one
FIRST_EN = 30_000  # an id tells its source and its place in it: km counts from 0, en from here


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RowsManifest:
    streams = {"km": np.arange(KM), "en": FIRST_EN + np.arange(EN)}
    return write_rows(tmp_path_factory.mktemp("rows"), streams, weights={"km": 0.75, "en": 0.25})


def make_order(manifest: RowsManifest, *stages: Stage, **kwargs: Any) -> DataOrder:
    return DataOrder(manifest, **{"seed": 0, "stages": stages, **kwargs})


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


def run(order: DataOrder, start: int = 0, stop: int | None = None) -> list[Batch]:
    """The batches of the steps from `start` to before `stop`, read one by one."""
    dataset = Loader(order).dataset
    return [dataset[step] for step in range(start, order.total_steps if stop is None else stop)]


def resumed_state(order: DataOrder, step: int) -> dict[str, Any]:
    return json.loads(json.dumps(order.state(step), sort_keys=True))


# Batches


def test_batches_hold_the_sources_by_weight(manifest: RowsManifest) -> None:
    found = windows_by_source(run(make_order(manifest, Stage(50, 4, 8))))
    assert (len(found["km"]), len(found["en"])) == (300, 100)
    found = windows_by_source(run(make_order(manifest, Stage(50, 4, 8, {"km": 1, "en": 3}))))
    assert (len(found["km"]), len(found["en"])) == (100, 300)
    found = windows_by_source(run(make_order(manifest, Stage(50, 4, 8, {"km": 2, "en": 0}))))
    assert (len(found["km"]), len(found["en"])) == (400, 0)


def test_a_batch_has_the_promised_shapes(manifest: RowsManifest) -> None:
    batch = run(make_order(manifest, Stage(5, 4, 6)), 3, 4)[0]
    assert batch["tokens"].shape == (6, 5)
    assert batch["tokens"].dtype == np.uint16
    assert batch["valid"].shape == (6,)
    assert batch["valid"].dtype == np.int32


def test_batches_ahead_are_those_of_the_steps(manifest: RowsManifest) -> None:
    order = make_order(manifest, Stage(30, 4, 4), Stage(5, 8, 2))
    for start in (0, 17, 34, 35):
        ahead = list(Loader(order).batches(start))
        assert len(ahead) == 35 - start
        assert all(map(same, ahead, run(order, start)))


# Stages


def test_changed_weights_go_on_at_the_next_window_of_every_source(manifest: RowsManifest) -> None:
    stages = [
        Stage(100, 4, 8),
        Stage(90, 4, 4, {"en": 1}),
        Stage(80, 4, 16, {"km": 1, "en": 9}),
        Stage(50, 4, 8),
    ]
    found = windows_by_source(run(make_order(manifest, *stages)))
    for name in found:
        alone = run(make_order(manifest, Stage(len(found[name]), 4, 1, {name: 1})))
        assert found[name] == windows(alone)


def test_a_longer_context_never_reads_a_token_again_within_an_epoch(manifest: RowsManifest) -> None:
    stages = [Stage(20, 2, 4), Stage(30, 4, 8), Stage(30, 2, 8, {"km": 1}), Stage(70, 8, 8)]
    order = make_order(manifest, *stages)
    read = Counter(token for window in windows_by_source(run(order))["km"] for token in window)
    assert 1 < order.epochs()["en"] < 2
    assert order.epochs()["km"] < 1
    assert set(read.values()) == {1}


def test_two_equal_stages_are_one(manifest: RowsManifest) -> None:
    one = make_order(manifest, Stage(25, 4, 3))
    two = make_order(manifest, Stage(11, 4, 3), Stage(14, 4, 3, {"en": 0.5, "km": 1.5}))
    assert all(map(same, run(one), run(two)))


# Stopping and going on


def test_a_resumed_run_has_the_batches_of_one_never_stopped(manifest: RowsManifest) -> None:
    stages = [Stage(40, 4, 8), Stage(30, 4, 8, {"en": 2, "km": 1}), Stage(30, 8, 2), Stage(10, 2, 4)]
    whole = make_order(manifest, *stages)
    rng = np.random.default_rng(0)
    for _ in range(30):
        first, second = sorted(rng.integers(0, 111, size=2).tolist())
        once = make_order(manifest, *stages, state=resumed_state(whole, first))
        assert all(map(same, run(once, first), run(whole, first)))
        twice = make_order(manifest, *stages, state=resumed_state(once, second))
        assert all(map(same, run(twice, second), run(whole, second)))
        assert twice.state(second) == whole.state(second)
        assert twice.epochs() == whole.epochs()


def test_a_run_can_be_made_longer_after_its_end(manifest: RowsManifest) -> None:
    state = resumed_state(make_order(manifest, Stage(20, 4, 8)), 20)
    longer = make_order(manifest, Stage(50, 4, 8), state=state)
    assert all(map(same, run(longer, 20), run(make_order(manifest, Stage(50, 4, 8)), 20)))


def test_resuming_reads_only_the_batch_it_resumes_at(manifest: RowsManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_order(manifest, Stage(200_000, 4, 8)).state(100_000)
    reads = []
    read = Rows.read

    def counted(self: Rows, index: int) -> Any:
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(Rows, "read", counted)
    Loader(make_order(manifest, Stage(200_000, 4, 8), state=state)).dataset[100_000]
    assert len(reads) == 8


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_processes(manifest: RowsManifest, processes: int) -> None:
    stages = [Stage(20, 4, 8), Stage(20, 8, 4, {"en": 1})]
    order = make_order(manifest, *stages)
    alone = run(order)
    loaders = [Loader(order, process_index=index, process_count=processes) for index in range(processes)]
    for step, parts in enumerate(zip(*(loader.batches(0) for loader in loaders), strict=True)):
        joined = {key: np.concatenate([part[key] for part in parts]) for key in ("tokens", "valid")}
        assert same(joined, alone[step])


@pytest.mark.parametrize("edited", [Stage(60, 4, 8, {"en": 3, "km": 1}), Stage(60, 4, 2), Stage(60, 4, 16, {"en": 1})])
def test_an_edited_mix_goes_on_where_every_source_was(manifest: RowsManifest, edited: Stage) -> None:
    before = make_order(manifest, Stage(60, 4, 8))
    after = make_order(manifest, edited, state=resumed_state(before, 23))
    again = make_order(manifest, edited, state=resumed_state(after, 31))
    batches = run(before, 0, 23) + run(after, 23, 31) + run(again, 31)
    assert all(map(same, run(again, 31), run(after, 31)))
    found = windows_by_source(batches)
    for name in found:
        assert found[name] == windows(run(make_order(manifest, Stage(len(found[name]), 4, 1, {name: 1}))))


def test_an_edited_sequence_length_reads_no_token_again(manifest: RowsManifest) -> None:
    before = make_order(manifest, Stage(60, 2, 8))
    after = make_order(manifest, Stage(60, 8, 8), state=resumed_state(before, 23))
    read = Counter(token for window in windows(run(before, 0, 23) + run(after, 23)) for token in window)
    assert set(read.values()) == {1}


def test_a_source_that_came_later_starts_at_its_beginning(tmp_path: Path) -> None:
    streams = {"km": np.arange(KM), "en": FIRST_EN + np.arange(EN)}
    before = make_order(write_rows(tmp_path / "km", {"km": streams["km"]}), Stage(60, 4, 8))
    both = write_rows(tmp_path / "both", streams)
    after = make_order(both, Stage(60, 4, 8), state=resumed_state(before, 20))
    found = windows_by_source(run(before, 0, 20) + run(after, 20))
    assert len(found["en"]) == 160
    for name in found:
        assert found[name] == windows(run(make_order(both, Stage(len(found[name]), 4, 1, {name: 1}))))


# Golden batches


def ids_of(count: int, first: int) -> np.ndarray:
    return (np.arange(count) + first) % 60_000


@pytest.fixture(scope="module")
def golden_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RowsManifest]:
    folder = tmp_path_factory.mktemp("golden")
    small = {"km": ids_of(16_005, 0), "en": ids_of(5_000, 30_000), "code": ids_of(900, 50_000)}
    large = {"km": ids_of(600_003, 0), "en": ids_of(100_001, 7)}
    wide = {"km": 100_000 + np.arange(16_005), "en": np.arange(5000)}
    return {
        "small": write_rows(folder / "small", small, weights={"km": 0.6, "en": 0.3, "code": 0.1}),
        "large": write_rows(folder / "large", large, weights={"km": 0.7, "en": 0.3}, rows_per_shard=20_000),
        "wide": write_rows(folder / "wide", wide, vocab_size=200_000),
    }


def digest(batches: Iterable[Batch]) -> tuple[int, str]:
    """The number of batches, and a hash of their names, dtypes, shapes and values."""
    found, count = hashlib.blake2b(digest_size=8), 0
    for batch in batches:
        count += 1
        for key in ("tokens", "valid"):
            found.update(f"{key} {batch[key].dtype.str} {batch[key].shape}".encode())
            found.update(batch[key].tobytes())
    return count, found.hexdigest()


@pytest.mark.parametrize(
    ("rows", "stages", "expected"),
    [
        ("small", [Stage(400, 4, 8)], (400, "ef5c8db156277b6c")),
        (
            "small",
            [
                Stage(120, 2, 8),
                Stage(100, 4, 8, {"en": 2, "km": 1}),
                Stage(60, 4, 4, {"code": 1}),
                Stage(80, 8, 4),
                Stage(60, 2, 16),
            ],
            (420, "ba3ab918e13cc99b"),
        ),
        (
            "large",
            [Stage(100, 2, 16), Stage(100, 4, 16, {"km": 1, "en": 3}), Stage(100, 8, 8)],
            (300, "c0230ab91de1b1b5"),
        ),
        ("wide", [Stage(200, 4, 8), Stage(100, 8, 4, {"km": 1})], (300, "1a11edb69e93c1ef")),
    ],
)
def test_the_batches_stay_what_they_were(
    golden_rows: dict[str, RowsManifest], rows: str, stages: list[Stage], expected: tuple[int, str]
) -> None:
    """A run begun with an older version must resume with its own batches: do not update these values."""
    assert digest(Loader(make_order(golden_rows[rows], *stages, seed=7)).batches(0)) == expected


def test_an_edited_run_resumes_with_the_batches_it_always_had(golden_rows: dict[str, RowsManifest]) -> None:
    """The state was written by an older version: do not update these values."""
    state = {
        "version": 1,
        "seed": 7,
        "step": 150,
        "rows": {"km": "04c618a757235058", "en": "a14d58165a4947e9", "code": "130dd96336e47cfc"},
        "segment": {
            "first_step": 120,
            "seq_len": 4,
            "global_batch_size": 8,
            "shares": {"km": 10066330, "en": 5033165, "code": 1677722},
            "positions": {
                "km": {"seq_len": 4, "windows": 512},
                "en": {"seq_len": 4, "windows": 512},
                "code": {"seq_len": 4, "windows": 225},
            },
        },
    }
    stages = [Stage(200, 2, 8, {"en": 1, "code": 1}), Stage(100, 8, 4)]
    order = make_order(golden_rows["small"], *stages, seed=7, state=state)
    assert digest(Loader(order).batches(150)) == (150, "88b4fcae5c31a6d1")


# The Grain pipeline


def test_the_state_of_an_iterator_gives_its_next_batches_again(manifest: RowsManifest) -> None:
    order = make_order(manifest, Stage(300, 4, 4), Stage(100, 8, 2))
    for read in (0, 1, 31, 32, 33, 250, 388):
        batches = Loader(order).batches(12)
        for _ in range(read):
            next(batches)
        state = json.loads(json.dumps(batches.get_state()))
        wanted = list(batches)
        again = Loader(order).batches(12)
        again.set_state(state)
        assert len(wanted) == 388 - read
        assert all(map(same, list(again), wanted))


def test_no_batches_come_after_the_last_step(manifest: RowsManifest) -> None:
    assert list(Loader(make_order(manifest, Stage(10, 4, 4))).batches(15)) == []


class Reverse(grain.transforms.Map):
    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        return element | {"tokens": element["tokens"][::-1]}


class AddNoise(grain.transforms.RandomMap):
    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return element | {"noise": rng.random(3)}


def test_a_transform_is_applied_to_every_window(manifest: RowsManifest) -> None:
    order = make_order(manifest, Stage(20, 4, 4), Stage(20, 8, 2))
    for plain, reversed_ in zip(run(order), Loader(order, transforms=[Reverse()]).batches(0), strict=True):
        assert (reversed_["tokens"] == plain["tokens"][:, ::-1]).all()
        assert (reversed_["valid"] == plain["valid"]).all()


def test_a_random_transform_gives_the_same_batches_after_a_resume_and_on_more_processes(manifest: RowsManifest) -> None:
    stages = Stage(20, 4, 4), Stage(20, 8, 4)
    order = make_order(manifest, *stages)
    wanted = [batch["noise"] for batch in Loader(order, transforms=[AddNoise()]).batches(0)]
    assert len({array.tobytes() for array in wanted[:20]}) == 20
    resumed = make_order(manifest, *stages, state=order.state(13))
    loaders = [Loader(resumed, process_index=i, process_count=2, transforms=[AddNoise()]) for i in range(2)]
    for step, parts in enumerate(zip(*(loader.batches(13) for loader in loaders), strict=True), 13):
        assert (np.concatenate([part["noise"] for part in parts]) == wanted[step]).all()


def test_grain_packs_windows(tmp_path: Path) -> None:
    """Windows of up to 4 real targets, packed first-fit into sequences of 10: nothing is lost or cut."""
    manifest = write_rows(tmp_path, {"km": np.arange(100)})  # 25 windows, the last one with 3 targets
    order = make_order(manifest, Stage(25, 4, 2))
    targets = Loader(order).windows(0).map(lambda window: {"tokens": window["tokens"][1 : 1 + window["valid"]]})
    packed = list(
        FirstFitPackIterDataset(
            targets.to_iter_dataset(), length_struct={"tokens": 10}, num_packing_bins=8, shuffle_bins=False
        )
    )
    assert all(element["tokens"].shape == (10,) for element in packed)
    found = Counter(
        tuple(element["tokens"][element["tokens_segment_ids"] == number].tolist())
        for element in packed
        for number in range(1, element["tokens_segment_ids"].max() + 1)
    )
    assert found == Counter(tuple(window) for window in windows(run(order)))
    assert len(packed) < len(targets)


ENDLESS = """
import signal, sys
from tonsai_jax.data.loader import Loader
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.stages import Stage

signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
batches = Loader(DataOrder(read_manifest(sys.argv[1]), seed=0, stages=[Stage(10**9, 4, 8)])).batches(0)
next(batches)
print("began", flush=True)
while True:
    next(batches)
"""


def test_the_reading_thread_lets_the_process_end_in_silence(manifest: RowsManifest) -> None:
    command = [sys.executable, "-c", ENDLESS, str(manifest.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "began\n"
        process.terminate()
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, errors) == (3, "")


# Small and odd corpora


@pytest.mark.parametrize("tokens", [2, 3, 7, 8, 9, 10, 17, 21])
def test_a_source_smaller_than_a_row_trains(tmp_path: Path, tokens: int) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(tokens)})
    order = make_order(manifest, Stage(12, 4, 1))
    size = -(-(tokens - 1) // 4)
    epoch = windows(run(order, 0, size))
    assert sorted(token for window in epoch for token in window) == list(range(1, tokens))
    batch = run(make_order(manifest, Stage(12, 4, 16)), 11)[0]
    assert (batch["valid"] > 0).all()


# Mistakes


def test_a_batch_that_the_processes_cannot_share_is_refused(manifest: RowsManifest) -> None:
    order = make_order(manifest, Stage(10, 4, 8), Stage(10, 4, 7))
    Loader(order)
    with pytest.raises(UserError, match=r"global_batch_size 7 \(from step 10 on\) is not divisible by the 2 processes"):
        Loader(order, process_count=2)


def test_a_damaged_file_stops_the_batches_with_its_name(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(KM)})
    path = manifest.sources["km"].splits["train"].files[2].path
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{path}: damaged token rows"):
        list(Loader(make_order(manifest, Stage(500, 4, 8))).batches(0))
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: this file of token rows is missing"):
        list(Loader(make_order(manifest, Stage(500, 4, 8))).batches(0))
