"""Checkpoints of several processes are read by one and by more of them, and from a folder that was moved."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.checkpoints.test_store import ADAMW, CONFIG, random_state
from tests.support.eight_devices import run_on_eight_devices, run_on_two_processes_of_four_devices
from tonsai_jax.checkpoints.folder import stored_checkpoint
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.training.mesh import make_mesh, one_device_mesh
from tonsai_jax.training.state import TrainState, abstract_state


def workdir() -> Path:
    return Path(os.environ["TONSAI_TEST_WORKDIR"])


def numbered_state(data: int, fsdp: int) -> TrainState:
    """The state of a small model whose arrays hold 0, 1, 2, ..., split over a mesh, which may be of several processes."""

    def place(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        numbers = np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: numbers[index])

    return jax.tree.map(place, abstract_state(CONFIG, ADAMW, make_mesh(data, fsdp)))


def save_of_all_devices() -> None:
    checkpoints = Checkpoints(workdir())
    checkpoints.save(numbered_state(2, 4), {"step": 1, "data": {}})
    checkpoints.close()


def check_restored(data: int, fsdp: int) -> None:
    wanted = abstract_state(CONFIG, ADAMW, make_mesh(data, fsdp) if data * fsdp > 1 else one_device_mesh())
    checkpoints = Checkpoints(workdir())
    assert checkpoints.resume_step(print) == 1
    restored = checkpoints.restore_state(1, wanted)
    checkpoints.close()
    for array in jax.tree.leaves((restored.params, restored.opt_state)):
        numbers = np.arange(array.size, dtype=array.dtype).reshape(array.shape)
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, numbers[shard.index])


def check_restored_on_all_devices() -> None:
    check_restored(4, 2)


@pytest.mark.full
def test_what_two_processes_saved_is_read_by_one_device_eight_devices_and_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TONSAI_TEST_WORKDIR", str(tmp_path / "run"))
    run_on_two_processes_of_four_devices(save_of_all_devices)
    files = {path.name for path in (tmp_path / "run" / "checkpoints" / "1" / "params").iterdir()}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= files
    assert stored_checkpoint(tmp_path / "run" / "checkpoints" / "1").damage() is None
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    monkeypatch.setenv("TONSAI_TEST_WORKDIR", str(tmp_path / "elsewhere"))
    check_restored(1, 1)
    run_on_eight_devices(check_restored_on_all_devices)
    run_on_two_processes_of_four_devices(check_restored_on_all_devices)


@pytest.mark.full
def test_what_one_device_saved_is_read_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONSAI_TEST_WORKDIR", str(tmp_path))
    state = jax.tree.map(
        lambda leaf: jax.numpy.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), random_state(one_device_mesh())
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"step": 1, "data": {}})
    checkpoints.close()
    run_on_two_processes_of_four_devices(check_restored_on_all_devices)
