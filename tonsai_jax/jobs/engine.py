"""The engine of the corpus pipeline: runs the tasks of one stage on datatrove's executors and resumes them by content.

A task is named by a hash of everything that its result depends on, so a result that is there is right: after a kill only
the missing ones are computed, and a changed input, setting or program asks for other names.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from loguru import logger

from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.files import read_json, write_json
from tonsai_jax.jobs.progress import progress_line

logger.disable("datatrove")  # its log of every task; imported by the workers too, before they begin

Kind = Literal["local", "ray", "slurm"]
SLURM_POLL_SECONDS = 10.0

Task = Callable[[Any, Path], dict[str, Any]]
"""What a stage does: (payload, path without ending for its files) -> figures that can be written as JSON.

It must be picklable (a module's function, or a dataclass with `__call__`) and put its files in place whole.
"""


@dataclasses.dataclass(frozen=True)
class Executor:
    """Where tasks run.

    Attributes:
      kind: "local" (processes of this machine), "ray" or "slurm".
      workers: tasks at a time; 0 is one per core on this machine, and no limit on a cluster.
      options: further arguments of datatrove's executor of that kind, such as `partition`, `time`, `mem_per_cpu_gb`
        (Slurm), `cpus_per_task`; for Ray also `address` of the cluster (a cluster of one node is started without it).
    """

    kind: Kind = "local"
    workers: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(
                f"executor: kind {self.kind!r} is not known{did_you_mean(str(self.kind), list(get_args(Kind)))}; "
                f"there are: {', '.join(get_args(Kind))}"
            )
        if not isinstance(self.workers, int) or isinstance(self.workers, bool) or self.workers < 0:
            raise UserError(
                f"executor: workers {self.workers!r} must be a whole number, 0 for as many as there are cores"
            )
        if self.kind == "slurm":
            for key in ("time", "partition"):
                if key not in self.options:
                    raise UserError(f"executor: slurm needs {key!r}; give it under `executor:` in the sources file")


def content_key(*parts: Any) -> str:
    """A name of 24 hexadecimal digits for what can be written as JSON."""
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_as_json).encode("utf-8")
    return hashlib.sha256(encoded).hexdigest()[:24]


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **dataclasses.asdict(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be part of a key")


def code_version(*parts: str) -> str:
    """A hash of the code in these folders of the package, so that what another version made is not taken for this one's."""
    digest = hashlib.sha256()
    for part in parts:
        for file in sorted((Path(__file__).parents[1] / part).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:24]


def run_stage(
    folder: Path,
    task: Task,
    payloads: Sequence[tuple[str, Any]],
    executor: Executor,
    *,
    stop_at_errors: bool = True,
    progress: str | None = None,
    sizes: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Runs `task` for every (key, payload) whose result is not in `folder` yet; returns the results in order.

    A result is `{key}.json`, written when the task has ended. A task that ends with a `UserError` stops the stage with
    that error, or, without `stop_at_errors`, leaves {"error": its line} as its result, which is tried again next time.
    `progress` names the stage in a line on stderr, where that is a terminal; with the bytes of text of each task in `sizes` it
    tells the time left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(key, payload) for key, payload in payloads if not (folder / f"{key}.json").exists()]
    for key, _ in missing:
        (folder / f"{key}.error.json").unlink(missing_ok=True)
    if missing:
        shutil.rmtree(folder / "engine", ignore_errors=True)
        work = _Work(folder, task, tuple(missing), stop_at_errors)
        try:
            keys = [key for key, _ in missing]
            size_of = dict(zip((key for key, _ in payloads), sizes or (), strict=False))
            with progress_line(progress, keys, lambda key: (folder / f"{key}.json").exists(), size_of):
                _run(work, executor)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise _first_error(folder, missing) or UserError(
                f"{folder.name}: a task ended without a result ({error.__class__.__name__}: {reason}); run the same "
                "command again, it goes on from there"
            ) from error
    results = []
    for key, _ in payloads:
        result = folder / f"{key}.json"
        failed = folder / f"{key}.error.json"
        if not result.exists() and (stop_at_errors or not failed.exists()):
            raise _first_error(folder, missing) or UserError(
                f"{folder.name}: a task ended without a result; its log is under {folder / 'engine'}; run the same "
                "command again, it goes on from there"
            )
        results.append(read_json(result if result.exists() else failed))
    return results


def _first_error(folder: Path, tasks: Sequence[tuple[str, Any]]) -> UserError | None:
    for key, _ in tasks:
        failed = folder / f"{key}.error.json"
        if failed.exists():
            return UserError(read_json(failed)["error"])
    return None


@dataclasses.dataclass(frozen=True)
class _Work:
    """A step of a datatrove pipeline: the task whose place in `tasks` is the rank."""

    folder: Path
    task: Task
    tasks: tuple[tuple[str, Any], ...]
    stop_at_errors: bool

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        key, payload = self.tasks[rank]
        try:
            result = self.task(payload, self.folder / key)
        except UserError as error:
            write_json(self.folder / f"{key}.error.json", {"error": str(error)})
            if self.stop_at_errors:
                raise
            return
        write_json(self.folder / f"{key}.json", result)


def _run(work: _Work, executor: Executor) -> None:
    count = len(work.tasks)
    log = str((work.folder / "engine").absolute())
    if executor.kind == "local":
        from datatrove.executor.local import LocalPipelineExecutor

        workers = min(count, executor.workers or os.cpu_count() or 1)
        if workers == 1:  # in this process: another one takes longer to start than small work does
            for rank in range(count):
                work(None, rank, count)
            return
        LocalPipelineExecutor([work], tasks=count, workers=workers, logging_dir=log, skip_completed=False).run()
    elif executor.kind == "ray":
        _run_on_ray(work, executor, log)
    else:
        _run_on_slurm(slurm_executor(work, count, executor, log), work)


def _run_on_ray(work: _Work, executor: Executor, log: str) -> None:
    # Started by `uv run`, Ray would start its workers with `uv run` too, each in an environment that it makes first.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("executor ray: Ray is not installed; uv sync --extra ray") from error
    from datatrove.executor.ray import RayPipelineExecutor

    options = dict(executor.options)
    address = options.pop("address", None)
    if not ray.is_initialized():  # for all stages: it ends with this process
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    RayPipelineExecutor(
        [work],
        tasks=len(work.tasks),
        workers=executor.workers or -1,
        logging_dir=log,
        skip_completed=False,
        **options,
    ).run()


def slurm_executor(work: Any, tasks: int, executor: Executor, log: str) -> Any:
    """datatrove's executor that submits `tasks` tasks of `work` as one array job."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    options = {"job_name": "prepare_dataset", "qos": "", "requeue": False, **executor.options}
    try:
        return SlurmPipelineExecutor(
            [work],
            tasks=tasks,
            workers=executor.workers or -1,
            logging_dir=log,
            slurm_logs_folder=f"{log}/slurm",
            skip_completed=False,
            **options,
        )
    except TypeError as error:
        raise UserError(f"executor: slurm: {error}; see the arguments of datatrove's SlurmPipelineExecutor") from error


def _run_on_slurm(submission: Any, work: _Work) -> None:
    """Submits, then waits until every task has left its result, or the job has ended without."""
    try:
        submission.run()
    except FileNotFoundError as error:
        raise UserError(
            f"executor slurm: {error.filename or 'sbatch'} is not here; run this where jobs are submitted"
        ) from error
    while _pending(work):
        if not _is_queued(submission.job_id):
            time.sleep(SLURM_POLL_SECONDS)  # results may show late on a shared file system
            if _pending(work):
                return  # `run_stage` says which task has no result
        time.sleep(SLURM_POLL_SECONDS)


def _pending(work: _Work) -> bool:
    return not all(
        (work.folder / f"{key}.json").exists() or (work.folder / f"{key}.error.json").exists() for key, _ in work.tasks
    )


def _is_queued(job_id: str) -> bool:
    answer = subprocess.run(
        ["squeue", "--noheader", "--jobs", str(job_id)], capture_output=True, text=True, check=False
    )
    return answer.returncode == 0 and bool(answer.stdout.strip())
