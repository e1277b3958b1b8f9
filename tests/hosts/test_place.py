"""How a process finds its place in a run: what the user says, what a scheduler says, and what is wrong in it."""

import os

import pytest

from tonsai_jax.cli import parse_flags
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.place import Place, find_place, local_device_ids

ALL_VISIBLE: list[int] = []
CHOSEN_BY_JAX = None
# What `srun --ntasks-per-node=1` on two nodes sets, as far as it is read.
SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
NAMED = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.fixture(autouse=True)
def environment_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX reads `os.environ` itself."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_LOCAL", "JAX_COORD", "JAX_NUM_PROC", "JAX_PROCESS", "JAX_DISTR")):
            monkeypatch.delenv(name)


def place_in(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Place | None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return find_place(os.environ)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (NAMED, Place("node1:1234", 2, 1, None)),
        (NAMED | SLURM | {"SLURM_PROCID": "0"}, Place("node1:1234", 2, 1, None)),  # what the user says wins
        (NAMED | {"JAX_LOCAL_DEVICE_IDS": "2,3"}, Place("node1:1234", 2, 1, [2, 3])),
        (NAMED | {"JAX_DISTRIBUTED": "off"}, None),
        (SLURM, Place("node07:61440", 2, 1, None)),  # without JAX_DISTRIBUTED: a step of several tasks is one run
        (SLURM | {"JAX_DISTRIBUTED": "auto"}, Place("node07:61440", 2, 1, None)),
        (SLURM | {"JAX_DISTRIBUTED": "off"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, Place("node07:61440", 2, 1, [1])),
        (
            OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "16777216.0;tcp://10.0.0.7,10.1.0.7:4000"},
            Place("10.0.0.7:61440", 4, 3, [1]),
        ),
        ({"JAX_COORDINATOR_ADDRESS": "node1:1234"} | OPEN_MPI, Place("node1:1234", 4, 3, [1])),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1:1234"} | OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "1"},
            Place("node1:1234", 4, 3, None),
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "run-0-0.run:1234", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"},
            Place("run-0-0.run:1234", 2, 1, None),
        ),
    ],
)
def test_the_place_of_a_process(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Place | None
) -> None:
    assert place_in(monkeypatch, environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (NAMED | {"JAX_COORDINATOR_ADDRESS": "node1"}, r"JAX_COORDINATOR_ADDRESS='node1' must be HOST:PORT"),
        (NAMED | {"JAX_COORDINATOR_ADDRESS": "node1:99999"}, "must be HOST:PORT"),
        (NAMED | {"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES='' must be a whole number"),
        (NAMED | {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID='first' must be a whole number"),
        (NAMED | {"JAX_PROCESS_ID": "2"}, r"JAX_PROCESS_ID=2 must be below the number of processes, 2"),
        (NAMED | {"JAX_LOCAL_DEVICE_IDS": "all"}, "JAX_LOCAL_DEVICE_IDS='all' must be numbers of GPUs"),
        ({"JAX_DISTRIBUTED": "1"}, "JAX_DISTRIBUTED='1' is not known"),
        ({"JAX_DISTRIBUTED": "auto"}, "JAX_DISTRIBUTED=auto finds no Slurm step"),
        (OPEN_MPI, "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:12345"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        place_in(monkeypatch, environment)
    assert "\n" not in str(error.value)


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
        ({}, CHOSEN_BY_JAX),
    ],
)
def test_a_process_takes_the_gpus_that_are_its_own(environment: dict[str, str], expected: list[int] | None) -> None:
    assert local_device_ids(environment) == expected


def test_flags_name_the_place_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED:
        monkeypatch.setenv(name, "wrong")  # so that it is taken back after the test
    words = ["train", "--config=configs/small.py", "--workdir=runs/none", "--coordinator=node1:1234"]
    with pytest.raises(UserError, match="--process_id is missing; a process of several needs --coordinator, --num"):
        parse_flags([*words, "--num_processes=2"], "")
    parse_flags([*words, "--num_processes=2", "--process_id=1"], "")
    assert find_place(os.environ) == Place("node1:1234", 2, 1, None)
