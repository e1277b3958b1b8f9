"""Worker processes on this machine, started once for all stages.

The workers are forked from one fork server that has imported the modules they need: a further worker starts in
milliseconds. Fork is safe there, because the server has no threads of ours and no JAX.
"""

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import get_temp_dir
from typing import Any

from tonsai_jax.errors import UserError


class LocalPool:
    """Worker processes that run calls until `close` or `stop`.

    The workers also end when this process dies. Ctrl-C reaches this process alone, which then stops them.

    Args:
      workers: how many calls run at the same time.
      modules: names of the modules that the workers need, imported once.
    """

    def __init__(self, workers: int, modules: Sequence[str]):
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UserError(
                "a worker process started this program again; put its calls below `if __name__ == '__main__':`"
            )
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(modules))
        resource_tracker.ensure_running()  # before the mask is set: it unblocks SIGINT
        # The server and the workers inherit the mask, so Ctrl-C in a terminal does not make each of them print a traceback.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        workers_end, self._own_end = context.Pipe(duplex=False)
        self._workers = workers
        self._pool = ProcessPoolExecutor(workers, context, _end_with_parent, (workers_end, get_temp_dir()))

    def run(self, call: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Runs `call(*arguments[0])`, `call(*arguments[1])`, ... and returns when all have ended.

        Raises the first exception of a call, and `BrokenProcessPool` if a worker is killed.
        """
        futures: list[Future[None]] = [self._pool.submit(call, *each) for each in arguments]
        for future in concurrent.futures.as_completed(futures):
            future.result()

    def close(self) -> None:
        """Ends the workers after their calls."""
        self._pool.shutdown()
        self._own_end.close()

    def stop(self) -> None:
        """Ends the workers now, in the middle of their calls."""
        os.write(self._own_end.fileno(), b"." * self._workers)
        self._own_end.close()
        self._pool.shutdown(cancel_futures=True)


def _end_with_parent(pipe: Connection, sockets: str) -> None:
    """Ends this process when `stop` writes a byte for it into the pipe, or when the pipe closes: the parent process has died.

    A parent that was killed could not remove `sockets`, its folder in /tmp with the address of the fork server.
    """

    def watch() -> None:
        if not os.read(pipe.fileno(), 1):
            shutil.rmtree(sockets, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
