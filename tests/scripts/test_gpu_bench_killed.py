"""scripts/bench/gpu.py is stopped and killed: no process stays, no file stays, and what was measured is in the JSON.

The campaign: pytest -n0 -s -m slow tests/scripts/test_gpu_bench_killed.py
"""

import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.tiny_run import environment

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
sys.path.insert(0, str(BENCH))

from gpu_cases import Part  # noqa: E402  # after the path
from gpu_process import FOLDERS, Ending, StoppedError, run_worker, working_folder  # noqa: E402
from gpu_report import in_short  # noqa: E402

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
GONE_WITHIN = 5.0  # seconds until no process of a killed command may be left
KILLS = 24


@dataclass
class Toy:
    """`gpu.py --toy` in a folder of its own, with its JSON, its temporary files and a mark on all of its processes."""

    folder: Path
    groups: tuple[str, ...]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(BENCH / "gpu.py"), "--toy", "--json", "gpu.json", "--groups", *self.groups]
        settings = {"TMPDIR": str(self.folder / "tmp"), "GPU_BENCH_MARK": self.mark, "OMP_NUM_THREADS": "1"}
        with (self.folder / "printed").open("wb") as printed, (self.folder / "errors").open("wb") as errors:
            return subprocess.Popen(
                [*command, *options], env=environment(1) | settings, cwd=self.folder, stdout=printed, stderr=errors
            )

    def processes(self) -> list[str]:
        """The commands of all processes that were started by this one, directly or not, and that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("GPU_BENCH_MARK") == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:100])
            except psutil.Error:
                continue
        return found

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + GONE_WITHIN
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def temporary_files(self) -> list[str]:
        return [path.name for path in (self.folder / "tmp").iterdir()] + [
            path.name for path in self.folder.glob(".gpu.json*")
        ]

    def printed_results(self) -> list[str]:
        lines = (self.folder / "printed").read_text().splitlines()
        return [match[1] for line in lines if (match := re.match(r" *\d+ s  [^:]*: (.*)", line))]

    def written_results(self) -> list[str]:
        file = self.folder / "gpu.json"
        rows = json.loads(file.read_text())["rows"] if file.exists() else []
        return [in_short(row) for row in rows]

    def end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> float:
        """Sends the signal, and checks what this file promises; returns the seconds until all processes had gone."""
        began, start = (self.folder / "gpu.json").exists(), time.monotonic()
        process.send_signal(number)
        code = process.wait(timeout=30)
        self.wait_until_gone()
        seconds = time.monotonic() - start
        printed, written = self.printed_results(), self.written_results()
        assert written[: len(printed)] == printed
        if number == signal.SIGKILL:
            assert len(written) <= len(printed) + 1, "a result that is written is printed at once"
            assert self.start("--minutes", "0").wait(timeout=60) == 0  # the next start removes what was left
        elif began:
            assert (code, written) == (128 + number, printed)
            assert (self.folder / "errors").read_text().count("\n") == 1
        assert self.temporary_files() == []
        return seconds


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_command_that_is_ended_leaves_its_results_and_nothing_else(tmp_path: Path, number: signal.Signals) -> None:
    toy = Toy(tmp_path, ("kernels",))
    process = toy.start()
    while not toy.printed_results():
        assert process.poll() is None
        time.sleep(0.05)
    assert any("gpu_" in command for command in toy.processes()), "no worker was there to be ended"
    toy.end(process, number)


@pytest.mark.slow
def test_ended_at_random_moments(tmp_path: Path) -> None:
    undisturbed = Toy(tmp_path / "undisturbed", ("losses", "kernels"))
    assert undisturbed.start().wait() == 0
    count = len(undisturbed.written_results())
    print(f"\n{count} results where nothing ends it")
    for seed in range(KILLS):
        toy, number, rng = (
            Toy(tmp_path / str(seed), undisturbed.groups),
            SIGNALS[seed % len(SIGNALS)],
            random.Random(seed),
        )
        results = rng.choice((0, rng.randrange(1, count - 1)))  # half of the moments are before the first result
        seconds = rng.uniform(0, 2 if results else 12)
        process = toy.start()
        while len(toy.printed_results()) < results:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(seconds)
        if process.poll() is not None:
            print(f"seed {seed}: it had ended")
            continue
        running = len(toy.processes())
        kept = len(toy.written_results())
        gone = toy.end(process, number)
        moment = f"{number.name} {seconds:.2f} s after {results} results, {running} processes, {kept} results written"
        print(f"seed {seed}: {moment}: gone in {gone:.2f} s")


WORKER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # as a compiler
print('RESULT {"what": "x"}', flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize(("task", "why"), [("60", "stopped after 0.7 s"), ("0", "")], ids=["hangs", "ends"])
def test_what_a_worker_has_started_ends_with_it(
    tmp_path: Path, task: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy(tmp_path, ())
    monkeypatch.setenv("GPU_BENCH_MARK", toy.mark)
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    rows: list[dict] = []
    part = Part("group", "title", str(tmp_path / "worker.py"), task, {}, 60, "jax")
    start = time.monotonic()
    assert run_worker(part, tmp_path, 0.7, Ending(), rows.append)[0] == why
    assert time.monotonic() < start + 10
    assert rows == [{"what": "x"}]
    toy.wait_until_gone()


def test_what_a_worker_has_printed_at_its_end_is_taken(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        "import itertools\n"
        "with open('logged', 'w') as file:\n"
        "    for number in itertools.count():\n"
        "        print('RESULT', number, flush=True)\n"
        "        print(number, file=file, flush=True)\n"
    )
    rows: list[int] = []

    def take(row: Any) -> None:
        if not rows:
            time.sleep(0.6)  # until after the worker's time limit: the pipe is full when it ends
        rows.append(row)

    part = Part("group", "title", str(tmp_path / "worker.py"), "task", {}, 60, "jax")
    with contextlib.chdir(tmp_path):
        run_worker(part, tmp_path, 0.5, Ending(), take)
    logged = (tmp_path / "logged").read_text().splitlines()
    assert len(logged) > 100
    assert rows[: len(logged)] == [int(line) for line in logged]


def test_a_signal_ends_a_worker_at_once_and_keeps_what_it_has_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy(tmp_path, ())
    monkeypatch.setenv("GPU_BENCH_MARK", toy.mark)
    (tmp_path / "worker.py").write_text(
        "import os, signal, time\nprint('RESULT {}', flush=True)\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    rows: list[dict] = []
    ending = Ending()
    part = Part("group", "title", str(tmp_path / "worker.py"), "task", {}, 60, "jax")
    assert run_worker(part, tmp_path, 60, ending, rows.append)[0] == "stopped by SIGTERM"
    assert ending.timer
    ending.timer.cancel()
    assert (rows, toy.processes()) == ([{}], [])
    with pytest.raises(StoppedError):
        ending.check()


def test_the_folders_of_killed_processes_are_removed_and_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{FOLDERS}killed" / "jax_cache").mkdir(parents=True)
    (tmp_path / f"{FOLDERS}killed_at_once").mkdir()
    with working_folder() as first:
        (first / "weights").touch()
        with working_folder() as second:
            assert sorted(tmp_path.iterdir()) == sorted([first, second])
            assert (first / "weights").exists()
    assert list(tmp_path.iterdir()) == []
