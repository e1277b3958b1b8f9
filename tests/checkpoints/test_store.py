"""Checkpoints: what is read back is what was saved, which ones stay, and that a half-written one is never taken for one."""

import functools
import math
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import config_with
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import SCORES_FILE, Checkpoints
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.training.mesh import make_mesh, one_device_mesh
from tonsai_jax.training.optimizer import make_optimizer
from tonsai_jax.training.state import TrainState, abstract_state

CONFIG = config_with(vocab_size=512, d_model=128, d_ff=512)  # large enough for its matrices to be split over devices
ADAMW = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
SMALL = TrainState(jnp.int32(0), {"kernel": jnp.arange(6.0)}, {"mu": jnp.ones(6), "count": jnp.int32(3)})


@functools.cache
def one_device() -> Mesh:
    return one_device_mesh()


def random_state(mesh: Mesh) -> TrainState:
    """A model's state, every number in it random, placed on `mesh`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put((100 * rng.standard_normal(leaf.shape)).astype(leaf.dtype), leaf.sharding),
        abstract_state(CONFIG, ADAMW, mesh),
    )


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def save(checkpoints: Checkpoints, *steps: int, state: TrainState = SMALL, is_temporary: bool = False) -> None:
    for step in steps:
        checkpoints.save(state, {"step": step, "data": {"km": step}}, is_temporary=is_temporary)
        checkpoints.wait()


def kept(workdir: Path) -> list[int]:
    """The steps whose folders lie on the disk."""
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())


# Saved and restored


def test_a_restored_state_is_the_saved_one_to_the_bit(tmp_path: Path) -> None:
    state = random_state(one_device())
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 7, state=state)
    assert checkpoints.latest_step() == 7
    assert checkpoints.resume_metadata(7) == {"step": 7, "data": {"km": 7}}
    restored = checkpoints.restore_state(7, abstract(state))
    checkpoints.close()
    assert int(restored.step) == 7
    jax.tree.map(np.testing.assert_array_equal, (restored.params, restored.opt_state), (state.params, state.opt_state))
    assert jax.tree.map(lambda leaf: leaf.dtype, restored) == jax.tree.map(lambda leaf: leaf.dtype, state)


def test_the_parameters_are_restored_alone(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 7)
    params = Checkpoints(tmp_path, read_only=True).restore_params(7, abstract(SMALL).params)
    jax.tree.map(np.testing.assert_array_equal, params, SMALL.params)


def test_a_save_holds_what_the_state_was_though_the_next_step_takes_over_its_memory(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = jax.tree.map(lambda leaf: jnp.full((512, 512), 1.0), SMALL)
    checkpoints.save(state, {"step": 1})
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0, state), donate_argnums=0)
    later = overwrite(state)
    params = checkpoints.restore_params(1, abstract(later).params)
    checkpoints.close()
    assert (np.asarray(params["kernel"]) == 1.0).all()


def check_a_state_moves_between_placements(workdir: Path) -> None:
    meshes = {"one": one_device(), "data": make_mesh(8, 1), "fsdp": make_mesh(2, 4)}
    for number, (saved_on, restored_on) in enumerate((("one", "fsdp"), ("fsdp", "data"), ("fsdp", "one"))):
        state = random_state(meshes[saved_on])
        wanted = abstract_state(CONFIG, ADAMW, meshes[restored_on])
        checkpoints = Checkpoints(workdir / str(number))
        save(checkpoints, 1, state=state)
        restored = checkpoints.restore_state(1, wanted)
        checkpoints.close()
        jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
        jax.tree.map(np.testing.assert_array_equal, restored.opt_state, state.opt_state)
        assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(lambda leaf: leaf.sharding, wanted)
        split = restored.params["token_embedding"].addressable_shards[0].data.shape
        assert split == (128 if restored_on == "fsdp" else 512, 128)


def check_a_state_moves_between_placements_in_a_temporary_folder() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        check_a_state_moves_between_placements(Path(folder))


@pytest.mark.full
def test_a_state_is_restored_onto_other_devices_than_it_was_saved_from() -> None:
    run_on_eight_devices(check_a_state_moves_between_placements_in_a_temporary_folder)


# Which ones stay


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (KeepPolicy(), {50}),
        (KeepPolicy(last=2), {40, 50}),
        (KeepPolicy(last=9), {10, 20, 30, 40, 50}),
        (KeepPolicy(last=1, every=20), {20, 40, 50}),
        (KeepPolicy(last=1, best=2, scores={10: 1.3, 20: 1.1, 30: 1.2, 40: 1.4}), {20, 30, 50}),
        (KeepPolicy(last=1, best=1, scores={10: 1.3, 99: 0.5}), {10, 50}),  # 99 is gone
        (KeepPolicy(last=1, every=40, best=1, scores={20: 1.0}), {20, 40, 50}),
        (KeepPolicy(last=1, best=0, scores={20: 1.0}), {50}),
        (KeepPolicy(last=1, sane={10, 20}), {20, 50}),
        (KeepPolicy(last=1, sane={20, 99}), {20, 50}),
        (KeepPolicy(last=1, judged_after=25), {30, 50}),
        (KeepPolicy(last=1, judged_after=20, sane={10}), {10, 40, 50}),  # 30 was judged, and is not sane
        (KeepPolicy(last=1, judged_after=99, sane={30}), {30, 40, 50}),
        (KeepPolicy(last=1, judged_after=30, temporary={30}), {40, 50}),
    ],
)
def test_which_of_the_checkpoints_10_to_50_stay(policy: KeepPolicy, kept: set[int]) -> None:
    assert policy.keeps([10, 20, 30, 40, 50]) == kept


def test_checkpoints_that_are_closer_than_a_judgement_takes_become_sane_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=1, judged_after=4))
    sane = []
    for step in range(1, 15):
        if step > 4 and step - 4 in kept(tmp_path):
            checkpoints.mark_sane(step - 4)
        save(checkpoints, step)
        checkpoints.wait()
        sane.append(checkpoints.sane_step())
    checkpoints.close()
    assert sane == [None] * 4 + [1] * 3 + [4] * 3 + [7] * 3 + [10]


def test_the_newest_the_multiples_and_the_best_stay_on_the_disk(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=1, every=4, best=1))
    for step, score in enumerate((1.5, 1.1, 1.2, 1.4, 1.3, 1.25), 1):
        save(checkpoints, step)
        checkpoints.record_score(step, score)
    checkpoints.close()
    assert kept(tmp_path) == [2, 4, 6]
    assert read_json(tmp_path / SCORES_FILE)["2"] == 1.1


def test_a_score_that_is_not_a_number_is_the_worst(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=1, best=1))
    for step, score in enumerate((1.5, math.nan, 1.4, math.nan, math.inf), 1):
        save(checkpoints, step)
        checkpoints.record_score(step, score)
    checkpoints.close()
    assert kept(tmp_path) == [3, 5]


def test_the_best_of_an_earlier_run_stays_the_best(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, KeepPolicy(last=1, best=1))
    for step, score in ((1, 1.0), (2, 1.5)):
        save(first, step)
        first.record_score(step, score)
    first.close()
    second = Checkpoints(tmp_path, KeepPolicy(last=1, best=1))
    for step in (3, 4):
        save(second, step)
        second.record_score(step, 1.2)
    second.close()
    assert kept(tmp_path) == [1, 4]


def test_the_best_is_that_of_the_checkpoints_that_are_still_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=3))
    save(checkpoints, 1, 2, 3, 4)
    with pytest.raises(
        UserError, match=r"no checkpoint here was evaluated, so none is the best; there are: 2, 3, 4\. Evaluate"
    ):
        checkpoints.best_step()
    for step, score in ((1, 0.5), (2, 1.4), (3, 1.2), (4, 1.2)):
        checkpoints.record_score(step, score)
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).best_step() == 3


def test_scores_of_another_metric_replace_the_earlier_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=2, best=1))
    for step in (1, 2):
        save(checkpoints, step)
        checkpoints.record_score(step, -1.0 * step)
    checkpoints.replace_scores({1: -0.5})
    save(checkpoints, 3, 4)
    checkpoints.close()
    assert kept(tmp_path) == [1, 3, 4]
    assert read_json(tmp_path / SCORES_FILE) == {"1": -0.5}


def test_scores_of_steps_that_are_taken_again_do_not_decide_what_stays(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, KeepPolicy(last=1, best=1))
    for step, score in ((1, 1.0), (2, 1.4), (3, 0.1)):
        save(first, step)
        first.record_score(step, score)
    first.close()
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    again = Checkpoints(tmp_path, KeepPolicy(last=1, best=1))
    again.drop_scores_after(1)
    assert read_json(tmp_path / SCORES_FILE) == {"1": 1.0}
    save(again, 3, 4)  # the new checkpoint at step 3 is another one and was not evaluated
    again.close()
    assert kept(tmp_path) == [1, 4]


# What is not whole, and what is not there


def unfinished(workdir: Path) -> Path:
    """The folder of a save that was killed: a temporary name beside a whole checkpoint at step 1."""
    save(Checkpoints(workdir), 1)
    folder = workdir / "checkpoints" / "2.orbax-checkpoint-tmp"
    folder.mkdir()
    (folder / "part").write_text("half")
    return folder


def test_an_unfinished_save_is_not_a_checkpoint_and_the_next_writer_removes_it(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() == 1
    save(checkpoints, 2)
    checkpoints.close()
    assert kept(tmp_path) == [2]
    assert not folder.exists()  # removed in the background, before the save


def test_a_reader_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    reader = Checkpoints(tmp_path, KeepPolicy(last=1), read_only=True)
    assert reader.latest_step() == 1
    reader.restore_params(1, abstract(SMALL).params)
    reader.close()
    assert (folder / "part").read_text() == "half"


def test_a_reader_of_a_folder_without_checkpoints_makes_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, read_only=True).latest_step() is None
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepPolicy(last=3))
    with pytest.raises(UserError, match="no checkpoint at step 5; there are: none"):
        checkpoints.resume_metadata(5)
    save(checkpoints, 1, 2, 3)
    for restore in (
        lambda: checkpoints.resume_metadata(5),
        lambda: checkpoints.restore_params(5, abstract(SMALL).params),
        lambda: checkpoints.restore_state(5, abstract(SMALL)),
    ):
        with pytest.raises(UserError, match="no checkpoint at step 5; there are: 1, 2, 3"):
            restore()
    checkpoints.close()


def test_a_damaged_checkpoint_is_told_by_its_folder_with_the_way_out(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1)
    for file in (tmp_path / "checkpoints" / "1" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"checkpoints/1: this checkpoint is damaged \(params/.*\); no whole one is left before"
    ):
        Checkpoints(tmp_path, read_only=True).restore_params(1, abstract(SMALL).params)


@pytest.mark.parametrize("content", ["null", "[]", '{"a": 1}', '{"1": null}'])
def test_a_damaged_file_of_scores_is_one_line(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SCORES_FILE).write_text(content)
    assert not Checkpoints(tmp_path, read_only=True).has_scores
    assert re.search(r"scores\.json: damaged, so no checkpoint counts as the best", caplog.text)
