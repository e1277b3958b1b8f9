"""The engine: results named by content, resume, errors, and the same results on this machine, on Ray and through Slurm."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, write_json
from tonsai_jax.jobs import cluster
from tonsai_jax.jobs.cache import content_key
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor

SLEEP_SECONDS = 60


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text)


def square(payload: Any, path: Path) -> dict[str, Any]:
    if payload == "bad":
        raise UserError("source 'x': this one cannot be read")
    if payload == "Ctrl-C":
        os.kill(os.getpid(), signal.SIGINT)
        return {"square": 0}
    if payload == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if str(payload).startswith("sleep"):
        write_text(path.with_suffix(".pid"), str(os.getpid()))
        time.sleep(SLEEP_SECONDS)
    if payload == "crash":
        raise ZeroDivisionError("not expected")
    write_json(path.with_suffix(".out"), payload * payload)
    return {"square": payload * payload, "process": os.getpid()}


def run_stage(folder: Path, task: Any, payloads: Any, executor: Executor, **options: Any) -> list[dict[str, Any]]:
    with Engine(executor) as engine:
        return engine.run(folder, task, payloads, **options)


def numbered(*payloads: Any) -> list[tuple[str, Any]]:
    return [(content_key(payload), payload) for payload in payloads]


def squares(results: list[dict[str, Any]]) -> list[int]:
    return [result["square"] for result in results]


def test_results_come_in_order_and_are_not_computed_again(tmp_path: Path) -> None:
    first = run_stage(tmp_path / "stage", square, numbered(3, 1, 2), Executor(workers=2))
    assert squares(first) == [9, 1, 4]
    second = run_stage(tmp_path / "stage", square, numbered(2, 5, 3), Executor(workers=1))
    assert squares(second) == [4, 25, 9]
    assert second[0] == first[2]
    assert second[2] == first[0]
    assert second[1]["process"] == os.getpid(), "one worker needs no process of its own"


def test_an_error_of_the_user_stops_the_stage_and_what_is_done_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path, square, numbered(1, "bad", 2), Executor(workers=1))
    assert (tmp_path / f"{content_key(1)}.json").exists()
    assert squares(run_stage(tmp_path, square, numbered(1, 2), Executor(workers=1))) == [1, 4]


def test_errors_can_be_left_for_the_caller_and_are_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        results = run_stage(tmp_path, square, numbered("bad", 2), Executor(workers=1), stop_at_errors=False)
        assert results[0] == {"error": "source 'x': this one cannot be read"}
        assert results[1]["square"] == 4
        assert not (tmp_path / f"{content_key('bad')}.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_of_the_program_is_one_line_too(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="run the same command again"):
        run_stage(tmp_path, square, numbered(1, "crash"), Executor(workers=workers))


def test_one_pool_serves_all_stages(tmp_path: Path) -> None:
    with Engine(Executor(workers=2)) as engine:
        stages = [engine.run(tmp_path / name, square, numbered(*range(8))) for name in ("first", "second", "third")]
    processes = {result["process"] for results in stages for result in results}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_a_killed_worker_is_one_line_and_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a worker process ended early.*run the same command again"):
        run_stage(tmp_path, square, numbered("kill", *range(8)), Executor(workers=2))
    assert squares(run_stage(tmp_path, square, numbered(*range(8)), Executor(workers=2))) == [n * n for n in range(8)]


def test_an_error_ends_the_workers_in_the_middle_of_their_tasks(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path, square, numbered("sleep", "bad"), Executor(workers=2))
    assert time.monotonic() - start < SLEEP_SECONDS / 2


def test_ctrl_c_does_not_reach_the_workers(tmp_path: Path) -> None:
    assert squares(run_stage(tmp_path, square, numbered("Ctrl-C", 3), Executor(workers=2))) == [0, 9]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, sent: signal.Signals
) -> None:
    program = f"""
import signal, sys
from pathlib import Path
from tests.jobs import test_engine
from tonsai_jax.errors import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
numbered = test_engine.numbered("sleep", "sleep too")
run_command(lambda: test_engine.run_stage(Path({str(tmp_path)!r}), test_engine.square, numbered, test_engine.Executor(workers=2)))
"""
    temporary = tmp_path_factory.mktemp("t")  # short: the address of a socket has at most 107 bytes
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + 60
    while len(sleeping := [int(file.read_text()) for file in tmp_path.glob("*.pid")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to the workers too
    else:
        process.send_signal(sent)
    _, error = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[sent]
    assert "Traceback" not in error
    while any(psutil.pid_exists(worker) and psutil.Process(worker).status() != "zombie" for worker in sleeping):
        assert time.monotonic() < deadline, "a worker goes on alone"
        time.sleep(0.02)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "slrum"}, "did you mean 'slurm'"),
        ({"workers": -1}, "workers is -1"),
        ({"kind": "slurm", "options": {"time": "1:00:00"}}, "needs 'partition'"),
    ],
)
def test_impossible_executors_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Executor(**arguments)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: uv sync --extra ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_gives_the_same_results(tmp_path: Path) -> None:
    results = run_stage(tmp_path, square, numbered(3, 1, 2), Executor("ray", options={"mem_per_cpu_gb": 0.1}))
    assert squares(results) == [9, 1, 4]
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path, square, numbered(1, "bad"), Executor("ray", options={"mem_per_cpu_gb": 0.1}))


def test_the_script_for_slurm_asks_for_what_was_given(tmp_path: Path) -> None:
    executor = Executor("slurm", workers=20, options={"time": "02:00:00", "partition": "cpu", "mem_per_cpu_gb": 4})
    submission = cluster.slurm_executor(square, 300, executor, str(tmp_path))
    script = submission.get_launch_file_contents(submission.get_sbatch_args(300), "the command")
    for line in ("--partition=cpu", "--time=02:00:00", "--array=0-299%20", "--mem-per-cpu=4G"):
        assert f"#SBATCH {line}\n" in script
    assert "--qos" not in script
    assert script.rstrip().endswith("the command")
    with pytest.raises(UserError, match="partitions"):
        cluster.slurm_executor(
            square, 3, Executor("slurm", options=executor.options | {"partitions": "x"}), str(tmp_path)
        )


@pytest.mark.full
def test_slurm_jobs_are_submitted_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real path through datatrove, with commands in Slurm's place that run the array at once."""
    commands = {
        "sbatch": """
            case "$*" in *merge_stats*) ;; esac
            script=$(for last; do :; done; echo "$last")
            echo "Submitted batch job 7"
            grep -q merge_stats "$script" && exit 0
            for i in 0 1 2; do SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=one bash "$script" > /dev/null 2>&1 || true; done
            """,
        "srun": 'while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@"',
        "scontrol": "echo one",
        "squeue": "exit 0",
    }
    for name, script in commands.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/bash\n" + textwrap.dedent(script) + "\n", encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(cluster, "SLURM_POLL_SECONDS", 0.1)
    executor = Executor("slurm", options={"time": "1:00", "partition": "cpu"})
    assert squares(run_stage(tmp_path / "stage", square, numbered(3, 1, 2), executor)) == [9, 1, 4]
    assert (tmp_path / "stage" / "engine").stat().st_mode & 0o077 == 0, (
        "others could change the program that the jobs run"
    )
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path / "stage", square, numbered(3, "bad"), executor)


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="can submit Slurm jobs"):
        run_stage(tmp_path, square, numbered(1), Executor("slurm", options={"time": "1:00", "partition": "cpu"}))
