"""The engine: runs the tasks of one stage after another, and only those whose result does not exist yet.

A task is named by a key that stands for everything its result depends on (`cache.py`). So a run that was killed continues
where it stopped: the results that exist are taken, the others are computed.
"""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.jobs.local import LocalPool
from tonsai_jax.jobs.progress import remove_report, reports, stage_progress

logger = logging.getLogger(__name__)

Task = Callable[[Any, Path], dict[str, Any]]
"""What a stage does with each of its inputs: (payload, path without a suffix for its files) -> figures for JSON.

It must be picklable (a function of a module, or a dataclass with `__call__`), and it must write each of its files in one
step, by a rename. A long one reports with `TaskProgress` how far it is.
"""


class Engine:
    """Context manager that runs stages. Worker processes on this machine start once and serve all stages.

    Args:
      executor: where the tasks run.
      modules: names of the modules that local workers import before their first task.
    """

    def __init__(self, executor: Executor, modules: Sequence[str] = ()):
        self._executor = executor
        self._modules = modules
        self._pool: LocalPool | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:
            if kind is None:
                self._pool.close()
            else:
                self._pool.stop()

    def run(
        self,
        folder: Path,
        task: Task,
        payloads: Sequence[tuple[str, Any]],
        *,
        stop_at_errors: bool = True,
        progress: str | None = None,
        sizes: Sequence[int] = (),
    ) -> list[dict[str, Any]]:
        """Runs `task` for every (key, payload) that has no result in `folder` yet; returns all results in order.

        A result is the file `{key}.json`, written when the task has ended.

        Args:
          stop_at_errors: if True, the first task that raises `UserError` ends the stage. If False, the result of such a
            task is {"error": message}, and the task runs again the next time.
          progress: the name of the stage, to show its progress on stderr; None shows nothing.
          sizes: bytes of text of each task, about; with them the progress has the rate and the time left.

        Raises:
          UserError: a task raised one, or ended without a result (a bug, a worker that was killed).
        """
        folder.mkdir(parents=True, exist_ok=True)
        missing = [(key, payload) for key, payload in payloads if not (folder / f"{key}.json").exists()]
        for key, _ in missing:
            (folder / f"{key}.error.json").unlink(missing_ok=True)
            remove_report(folder, key)
        if missing:
            keys = [key for key, _ in missing]
            size_of = dict(zip((key for key, _ in payloads), sizes, strict=False))
            calls = [(task, folder, key, payload, stop_at_errors) for key, payload in missing]
            try:

                def is_done(key: str) -> bool:
                    return (folder / f"{key}.json").exists()

                with stage_progress(progress, keys, is_done, size_of, lambda: reports(folder)):
                    self._run(calls, folder)
            except BrokenProcessPool as error:
                raise UserError(
                    f"{folder.name}: a worker process ended early, perhaps because memory ran out; run the same command "
                    "again to continue; if memory is short, `tonsai prepare --workers 1` needs less. "
                    "(A script of your own needs `if __name__ == '__main__':` above its calls.)"
                ) from error
            except UserError as error:
                raise (
                    _first_error(folder, keys) or error
                ) from None  # on a full disk the result of the task is missing too
            except Exception as error:
                logger.debug("the stack trace of the task:", exc_info=error)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                raise _first_error(folder, keys) or _no_result(folder, reason) from error
        results = []
        for key, _ in payloads:
            result = folder / f"{key}.json"
            failed = folder / f"{key}.error.json"
            if not result.exists() and (stop_at_errors or not failed.exists()):
                keys = [key for key, _ in payloads]
                raise _first_error(folder, keys) or _no_result(folder, f"its log is under {_log(folder)}")
            results.append(read_json(result if result.exists() else failed))
        return results

    def _run(self, calls: Sequence[tuple[Any, ...]], folder: Path) -> None:
        executor = self._executor
        if executor.kind == "local":
            workers = executor.workers or os.cpu_count() or 1
            if min(len(calls), workers) == 1:  # a process would take longer to start than a small task takes
                for call in calls:
                    _run_task(*call)
                return
            self._pool = self._pool or LocalPool(workers, self._modules)
            self._pool.run(_run_task, calls)
            return
        from tonsai_jax.jobs import cluster

        log = _log(folder)
        shutil.rmtree(log, ignore_errors=True)
        log.mkdir(mode=0o700)  # Slurm's jobs run the pickled program that lies there, so nobody else may write to it
        ranked = cluster.RankedCalls(_run_task, tuple(calls))
        if executor.kind == "ray":
            cluster.run_on_ray(ranked, executor, str(log))
        else:
            keys = [key for _, _, key, _, _ in calls]
            cluster.run_on_slurm(ranked, executor, str(log), lambda: _is_pending(folder, keys))


def _run_task(task: Task, folder: Path, key: str, payload: Any, stop_at_errors: bool) -> None:
    """Runs one task and writes its result."""
    try:
        result = task(payload, folder / key)
    except UserError as error:
        write_json(folder / f"{key}.error.json", {"error": str(error)})
        if stop_at_errors:
            raise
        return
    finally:
        remove_report(folder, key)
    write_json(folder / f"{key}.json", result)


def _log(folder: Path) -> Path:
    return (folder / "engine").absolute()


def _is_pending(folder: Path, keys: Sequence[str]) -> bool:
    return not all((folder / f"{key}.json").exists() or (folder / f"{key}.error.json").exists() for key in keys)


def _first_error(folder: Path, keys: Sequence[str]) -> UserError | None:
    for key in keys:
        failed = folder / f"{key}.error.json"
        if failed.exists():
            return UserError(read_json(failed)["error"])
    return None


def _no_result(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder.name}: a task ended without a result ({reason}); run the same command again to continue")
