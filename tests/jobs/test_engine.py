"""The engine: results named by content, resume, errors, and the same results on this machine, on Ray and through Slurm."""

import importlib.util
import os
import stat
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.jobs import engine
from tonsai_jax.jobs.engine import Executor, code_version, content_key, run_stage


def square(payload: Any, path: Path) -> dict[str, Any]:
    if payload == "bad":
        raise UserError("source 'x': this one cannot be read")
    if payload == "crash":
        raise ZeroDivisionError("not expected")
    write_json(path.with_suffix(".out"), payload * payload)
    return {"square": payload * payload, "process": os.getpid()}


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


def test_a_key_tells_apart_what_differs() -> None:
    assert content_key({"a": 1, "b": 2}, "x") == content_key({"b": 2, "a": 1}, "x")
    others = {content_key(*parts) for parts in ([1, 2], [[1, 2]], ["1", 2], [Executor()], [Executor(workers=2)])}
    assert len(others) == 5
    assert len(code_version("corpus")) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "slrum"}, "did you mean 'slurm'"),
        ({"workers": -1}, "workers -1"),
        ({"kind": "slurm", "options": {"time": "1:00:00"}}, "needs 'partition'"),
    ],
)
def test_impossible_executors_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Executor(**arguments)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: uv sync --extra ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_gives_the_same_results(tmp_path: Path) -> None:
    results = run_stage(tmp_path, square, numbered(3, 1, 2), Executor("ray", options={"mem_per_cpu_gb": 0.1}))
    assert squares(results) == [9, 1, 4]
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path, square, numbered(1, "bad"), Executor("ray", options={"mem_per_cpu_gb": 0.1}))


def test_the_script_for_slurm_asks_for_what_was_given(tmp_path: Path) -> None:
    executor = Executor("slurm", workers=20, options={"time": "02:00:00", "partition": "cpu", "mem_per_cpu_gb": 4})
    submission = engine.slurm_executor(square, 300, executor, str(tmp_path))
    script = submission.get_launch_file_contents(submission.get_sbatch_args(300), "the command")
    for line in ("--partition=cpu", "--time=02:00:00", "--array=0-299%20", "--mem-per-cpu=4G"):
        assert f"#SBATCH {line}\n" in script
    assert "--qos" not in script
    assert script.rstrip().endswith("the command")
    with pytest.raises(UserError, match="partitions"):
        engine.slurm_executor(
            square, 3, Executor("slurm", options=executor.options | {"partitions": "x"}), str(tmp_path)
        )


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
    monkeypatch.setattr(engine, "SLURM_POLL_SECONDS", 0.1)
    executor = Executor("slurm", options={"time": "1:00", "partition": "cpu"})
    assert squares(run_stage(tmp_path / "stage", square, numbered(3, 1, 2), executor)) == [9, 1, 4]
    with pytest.raises(UserError, match="this one cannot be read"):
        run_stage(tmp_path / "stage", square, numbered(3, "bad"), executor)


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="where jobs are submitted"):
        run_stage(tmp_path, square, numbered(1), Executor("slurm", options={"time": "1:00", "partition": "cpu"}))
