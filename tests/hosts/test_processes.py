"""Which GPUs a process of a run takes, and what it must know to join the others."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.hosts.processes import local_device_ids, start_processes

ALL_VISIBLE: list[int] = []
CHOSEN_BY_JAX = None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, ALL_VISIBLE),  # a process per host
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, ALL_VISIBLE),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, ALL_VISIBLE),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, CHOSEN_BY_JAX),  # a process per GPU, each sees all
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, CHOSEN_BY_JAX),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "CUDA_VISIBLE_DEVICES": "3"}, ALL_VISIBLE),  # each sees its own
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, CHOSEN_BY_JAX),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, CHOSEN_BY_JAX),
        ({}, CHOSEN_BY_JAX),
    ],
)
def test_a_process_takes_the_gpus_that_are_its_own(environment: dict[str, str], expected: list[int] | None) -> None:
    assert local_device_ids(environment) == expected


@pytest.mark.parametrize(("name", "value"), [("JAX_NUM_PROCESSES", None), ("JAX_PROCESS_ID", "first")])
def test_a_process_that_does_not_know_its_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    settings = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", name: value}
    for key, setting in settings.items():
        if setting is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, setting)
    with pytest.raises(UserError, match=name):
        start_processes()
