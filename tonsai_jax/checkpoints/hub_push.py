"""Pushes an export of the run to the Hugging Face Hub every few saves (`checkpoint.hub_repo`).

A thread of the first process looks for new checkpoints. The work itself is `tonsai export --push-to-hub` in a process of its own,
on the CPU and at the lowest priority: it reads the checkpoint from the disk and touches neither the devices nor the memory of the
training. A push that fails prints one line, and the next one is tried when it is due.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.restore_copy import local_steps
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json

LOOK_SECONDS = 5.0
END_SECONDS = 600.0  # the longest wait for the push of a complete run
RECORD_FILE = "hub.json"  # in the workdir: what was pushed last
EXPORT_FOLDER = "hub_export"  # in the workdir, while a push lasts
# The export ends when the trainer is killed, as nobody would look after it. It must not take part in the run of several hosts.
_CHILD = """
import os, sys, threading, time
def end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
threading.Thread(target=end_with, args=[int(sys.argv.pop(1))], daemon=True).start()
from tonsai_jax.__main__ import main
main()
"""


class HubPushes:
    """A context in which exports of the run in `workdir` are pushed as `config.checkpoint` says.

    Args:
      say: prints a line; it is called in another thread.
    """

    def __init__(self, config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> None:
        self._repo, self._private = config.checkpoint.hub_repo, config.checkpoint.hub_private
        self._interval = config.checkpoint.every * config.checkpoint.hub_every  # steps
        self._workdir, self._say = workdir, say
        self._tried = self._pushed_step()
        self._ending = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, name="hub", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if error is None:
            self._thread.join(1.0)
            if self._thread.is_alive():
                self._say(f"checkpoint.hub_repo={self._repo}: waiting for the push, for at most {END_SECONDS:.0f} s")
                self._thread.join(END_SECONDS)
        if (child := self._child) is not None and child.poll() is None:
            child.terminate()
            self._say(
                f"checkpoint.hub_repo={self._repo}: the push was not done in time and is given up; {self._by_hand()}"
            )
        self._clear()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ending.wait(LOOK_SECONDS)
            try:
                step = self._due()
                if step is not None:
                    self._tried = step
                    self._push(step)
            except Exception as error:
                self._say(
                    f"checkpoint.hub_repo={self._repo}: no push ({type(error).__name__}: {error}); training goes on"
                )

    def _due(self) -> int | None:
        """The step to push now: the newest checkpoint, if an interval ended since the last try, or the run is complete at it."""
        newest = max(local_steps(self._workdir), default=0)
        if not newest:
            return None
        if newest < self._tried:  # the run went back: what was pushed since is given up
            (self._workdir / RECORD_FILE).unlink(missing_ok=True)
            self._tried = newest - 1
        if self._ending.is_set():
            return newest if newest != self._pushed_step() and self._is_complete_at(newest) else None
        return newest if newest // self._interval > self._tried // self._interval else None

    def _push(self, step: int) -> None:
        folder = self._workdir / EXPORT_FOLDER
        needed = 2 * sum(file.stat().st_size for file in (self._workdir / f"checkpoints/{step}/params").rglob("*"))
        if psutil.virtual_memory().available < needed:
            free = psutil.virtual_memory().available / 2**30
            self._failed(step, f"the export needs {needed / 2**30:.1f} GiB of memory, and {free:.1f} GiB are free")
            return
        self._clear()
        command = [
            sys.executable,
            "-c",
            _CHILD,
            str(os.getpid()),
            "export",
            "--workdir",
            str(self._workdir),
            "--step",
            str(step),
        ]
        command += ["--output-dir", str(folder), "--push-to-hub", self._repo, "--commit-message", f"Step {step}"]
        command += ["--private"] * self._private
        settings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        settings |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with subprocess.Popen(
            command,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the trainer
        ) as self._child:
            psutil.Process(self._child.pid).nice(19)
            printed, errors = self._child.communicate()
        self._clear()
        if self._child.returncode == 0:
            write_json(self._workdir / RECORD_FILE, {"repo": self._repo, "step": step})
            self._say(f"checkpoint.hub_repo: step {step} {printed.strip().splitlines()[-1]}")
        elif self._child.returncode > 0:  # below 0 it was ended by us
            self._failed(step, (errors.strip().splitlines() or ["it printed nothing"])[-1].removeprefix("error: "))

    def _failed(self, step: int, why: str) -> None:
        self._say(
            f"checkpoint.hub_repo={self._repo}: step {step} was not pushed ({why.partition('; the export in')[0]}); "
            f"training goes on, and the next one is due in {self._interval} steps"
        )

    def _clear(self) -> None:
        for folder in (EXPORT_FOLDER, f".{EXPORT_FOLDER}.*"):
            for path in self._workdir.glob(folder):
                shutil.rmtree(path, ignore_errors=True)

    def _by_hand(self) -> str:
        return f"push it with `tonsai export --workdir {self._workdir} --output-dir DIR --push-to-hub {self._repo}`"

    def _pushed_step(self) -> int:
        try:
            record = read_json(self._workdir / RECORD_FILE)
            return int(record["step"]) if record["repo"] == self._repo else 0
        except (UserError, KeyError, TypeError, ValueError):
            return 0

    def _is_complete_at(self, step: int) -> bool:
        try:
            return bool(read_json(self._workdir / "complete.json")["step"] == step)
        except (UserError, KeyError, TypeError):
            return False
