"""Tasks on many machines: datatrove's executors for Ray and Slurm."""

import dataclasses
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from loguru import logger

from tonsai_jax.errors import UserError
from tonsai_jax.jobs.executor import Executor

logger.disable("datatrove")  # it logs every task; workers import this module too, before their first task

SLURM_POLL_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class RankedCalls:
    """A step of a datatrove pipeline: the worker with rank n makes the n-th call."""

    call: Callable[..., None]
    arguments: tuple[tuple[Any, ...], ...]

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        self.call(*self.arguments[rank])


def run_on_ray(calls: RankedCalls, executor: Executor, log: str) -> None:
    """Makes the calls on a Ray cluster and returns when all have ended. Raises what a call raises.

    Ray starts once and serves all later calls of this function; it ends with this process.
    """
    # When `uv run` has started this process, Ray would start its workers with `uv run` too, each in a new environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("executor ray: Ray is not installed; install it with: uv sync --inexact --extra ray") from error
    from datatrove.executor.ray import RayPipelineExecutor

    options = dict(executor.options)
    address = options.pop("address", None)
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    RayPipelineExecutor(
        [calls],
        tasks=len(calls.arguments),
        workers=executor.workers or -1,
        logging_dir=log,
        skip_completed=False,
        **options,
    ).run()


def run_on_slurm(calls: RankedCalls, executor: Executor, log: str, is_pending: Callable[[], bool]) -> None:
    """Makes the calls as one Slurm array job; returns when nothing is pending or when the job has left the queue.

    `is_pending` says whether a call has left no result yet: Slurm does not report this.
    """
    submission = slurm_executor(calls, len(calls.arguments), executor, log)
    try:
        submission.run()
    except FileNotFoundError as error:
        raise UserError(
            f"executor slurm: the command {error.filename or 'sbatch'} was not found; run this on a machine that can submit "
            "Slurm jobs"
        ) from error
    while is_pending():
        if not _is_queued(submission.job_id):
            time.sleep(SLURM_POLL_SECONDS)  # a shared file system may show results late
            return
        time.sleep(SLURM_POLL_SECONDS)


def slurm_executor(step: Any, tasks: int, executor: Executor, log: str) -> Any:
    """datatrove's executor that submits `tasks` tasks of a pipeline step as one array job."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    options = {"job_name": "prepare_dataset", "qos": "", "requeue": False, **executor.options}
    try:
        return SlurmPipelineExecutor(
            [step],
            tasks=tasks,
            workers=executor.workers or -1,
            logging_dir=log,
            slurm_logs_folder=f"{log}/slurm",
            skip_completed=False,
            **options,
        )
    except TypeError as error:
        raise UserError(
            f"executor: slurm: {error}; the keys under `executor:` are the arguments of datatrove's SlurmPipelineExecutor"
        ) from error


def _is_queued(job_id: str) -> bool:
    answer = subprocess.run(
        ["squeue", "--noheader", "--jobs", str(job_id)], capture_output=True, text=True, check=False
    )
    return answer.returncode == 0 and bool(answer.stdout.strip())
