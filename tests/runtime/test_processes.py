"""The machine under a run: which GPUs a process takes, and which cannot do what the config asks."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.runtime.processes import check_dtype, local_device_ids, start_processes

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
def test_a_process_without_its_place_in_the_run_is_told(
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


@pytest.mark.parametrize(("kind", "capability"), [("Tesla T4", "7.5"), ("Tesla V100-SXM2-16GB", "7.0")])
def test_bfloat16_on_a_gpu_that_has_none_is_refused(kind: str, capability: str) -> None:
    with pytest.raises(UserError, match=rf"{kind}.*{capability}.*model\.dtype=float32"):
        check_dtype("bfloat16", kind, capability)
    check_dtype("float32", kind, capability)


@pytest.mark.parametrize(
    ("kind", "capability"), [("NVIDIA A100", "8.0"), ("NVIDIA B200", "10.0"), ("AMD MI300", "gfx942"), ("cpu", None)]
)
def test_bfloat16_elsewhere_is_accepted(kind: str, capability: str | None) -> None:
    check_dtype("bfloat16", kind, capability)
