"""A run small enough for a test, through the real command: rows of two languages, a config file, a process."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.interrupts import ENDING_SIGNALS
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import train_tokenizer

CONFIG = """
from tonsai_jax.config import default_config
from tonsai_jax.model.presets import preset

def get_config():
    config = default_config()
    config.data.dir = {rows!r}
    config.steps, config.seq_len, config.global_batch_size = 24, 32, 16
    config.model.update(preset("gpt2"))
    config.model.context_length = 64
    config.model.num_layers, config.model.num_heads = 2, 2
    config.model.d_model, config.model.d_ff = 64, 256
    config.model.dropout = 0.1
    config.model.dtype = "float32"
    config.loss.chunk_tokens = 64
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.warmup_steps = 4
    config.log_every = 1
    config.checkpoint.every = 8
    config.eval.every = 0
    config.eval.prompt_suite = False
    config.sample.prompts = ("Once upon a time",)
    config.sample.max_new_tokens = 4
    return config
"""


def make_rows(folder: Path, vocab_size: int = 400) -> Path:
    """Token rows of 100 stories in Khmer and in English, some held out."""
    sources = [
        Source(name=name, language=name, license="CC0-1.0", documents=list(stories(name, 100, seed=1)))
        for name in ("km", "en")
    ]
    prepare(sources, folder / "documents", progress=False)
    train_tokenizer(dataset_examples(folder / "documents"), vocab_size=vocab_size, output_dir=folder / "tokenizer")
    tokenize_dataset(
        folder / "documents",
        folder / "tokenizer",
        folder / "rows",
        val_ratio=0.1,
        seed=0,
        row_tokens=1024,
        progress=False,
    )
    return folder / "rows"


@dataclass
class TinyRun:
    """One workdir, and the command that trains in it.

    Attributes:
      overrides: added to every command of this run, as in "seed=3".
    """

    rows: Path
    workdir: Path
    overrides: tuple[str, ...] = ()

    def command(self, *overrides: str, steps_today: int | None = None) -> list[str]:
        self.workdir.parent.mkdir(parents=True, exist_ok=True)
        config = self.workdir.parent / "tiny_config.py"
        config.write_text(CONFIG.format(rows=str(self.rows)), encoding="utf-8")
        today = [] if steps_today is None else [f"--steps_today={steps_today}"]
        keys = [f"--config.{override}" for override in (*self.overrides, *overrides)]
        workdir = f"--workdir={self.workdir}"
        return [sys.executable, "-m", "tonsai_jax.train", f"--config={config}", workdir, *today, *keys]

    def train(self, *overrides: str, steps_today: int | None = None, devices: int = 1) -> str:
        """Runs the command to its end, which must be a good one; returns what it printed.

        On one device it runs in this process, which saves the seconds that loading JAX takes.
        """
        if devices == 1:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                train_in_this_process(self.command(*overrides, steps_today=steps_today))
            return printed.getvalue()
        done = self.run(*overrides, steps_today=steps_today, devices=devices)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(
        self, *overrides: str, steps_today: int | None = None, devices: int = 1, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*overrides, steps_today=steps_today),
            env=environment(devices) | settings,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self, *overrides: str, devices: int = 1, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*overrides),
            env=environment(devices) | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def interrupt(self, number: signal.Signals, at_step: int, *overrides: str) -> str:
        """Sends the signal when the line of `at_step` is out; returns all that was printed. Checks the exit code."""
        with self.start(*overrides) as process:
            try:
                lines = wait_for_step(process, at_step)
                process.send_signal(number)
                rest, _ = process.communicate(timeout=300)
            finally:
                process.kill()
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0), lines + rest
        return lines + rest

    def losses(self) -> dict[int, float]:
        """Loss by step, as written; bit for bit, since JSON keeps every digit."""
        rows = [json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in rows if "train/loss" in row]
        assert len(steps) == len(set(steps)), "a step was written twice"
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}

    def saved_steps(self) -> set[int]:
        return {int(folder.name) for folder in (self.workdir / "checkpoints").iterdir() if folder.name.isdigit()}


def train_in_this_process(command: list[str]) -> None:
    """Runs a command line of `TinyRun`; an error of the user is raised as `UserError`."""
    import tonsai_jax.train

    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    sys.modules.pop("config_config", None)  # the config file of the run before
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", command[command.index("tonsai_jax.train") :]),
            mock.patch.object(tonsai_jax.train, "keep_freed_memory"),  # it would change this process to its end
        ):
            tonsai_jax.train.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def environment(devices: int) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
    }


def wait_for_step(process: subprocess.Popen[str], step: int, seconds: float = 300) -> str:
    """Reads the output up to the line of `step`."""
    assert process.stdout is not None
    deadline, lines = time.monotonic() + seconds, ""
    for line in process.stdout:
        lines += line
        match = re.match(r"step +(\d+)/", line)
        if match and int(match[1]) >= step:
            return lines
        assert time.monotonic() < deadline, lines
    raise AssertionError(f"ended before step {step}:\n{lines}")
