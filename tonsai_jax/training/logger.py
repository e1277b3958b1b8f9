"""What a run prints and writes about its steps: loss, speed, time left, memory.

Metrics are read one step late: when those of a step are asked for, the next step is already on its way to the devices, so
these never wait for the host.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import jax

from tonsai_jax.errors import UserError
from tonsai_jax.hosts.step_times import StepTimes
from tonsai_jax.reporting.numbers import count_of, format_count, format_seconds
from tonsai_jax.runtime.memory import memory_now, peak_memory_bytes
from tonsai_jax.stages import Stage, flops_between, stage_at, tokens_between
from tonsai_jax.training.loss_scale import overflowed
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.spike_watch import SpikeWatch

# What a host asks for by a mark in its rows of a batch; all hosts see the largest of the marks at the same step.
SAVE_MARK, STOP_MARK = 1, 2


@dataclass
class StepLogger:
    """Reads the metrics of every step and prints and writes a line every `log_every` steps.

    Args:
      stages: the run; tokens of a step are those of its whole batch, padding included.
      start_step, end_step: the steps that this process takes.
      flops_per_token: FLOPs of a training step per token at a sequence length.
      peak_flops: FLOP/s of all devices together, or None where they are unknown.
      max_skipped_steps: this many non-finite steps in a row are an error.
      epochs: how many times each source was read after a number of steps.
      step_times: of the steps, for the slowest one since the last line.
      damaged_rows: how many damaged rows this process has skipped.
      last_progress: the row that the run's progress goes on from (`MetricsWriter.last_progress`).
      watch: takes the metrics of every step; None where nobody watches.
      layer_norms_every, norm_names: steps between rows with the norms of each layer, and their names, see `layer_norms`.

    Attributes:
      stop_requested: whether a host asked to stop, in the metrics read so far. All hosts see it at the same step.
      save_requested_in: the last step in whose batch a host asked for a checkpoint, counted from 0; -1 where none did.
    """

    writer: MetricsWriter
    say: Callable[[str], None]
    stages: Sequence[Stage]
    _: KW_ONLY
    start_step: int
    end_step: int
    flops_per_token: Callable[[int], float]
    peak_flops: float | None
    log_every: int
    max_skipped_steps: int
    epochs: Callable[[int], Mapping[str, float]]
    damaged_rows: Callable[[], int]
    last_progress: Mapping[str, Any]
    watch: SpikeWatch | None = None
    step_times: StepTimes = field(default_factory=StepTimes)
    layer_norms_every: int = 0
    norm_names: Sequence[str] = ()

    stop_requested: bool = field(default=False, init=False)
    save_requested_in: int = field(default=-1, init=False)
    _began: float = field(default_factory=lambda: time.perf_counter(), init=False)
    _unread: tuple[int, dict[str, jax.Array]] | None = field(default=None, init=False)
    _skipped_in_a_row: int = field(default=0, init=False)
    _skipped_in_all: int = field(default=0, init=False)
    # Since the last line; the first step, which compiles, is not timed.
    _since: float | None = field(default=None, init=False)
    _tokens: int = field(default=0, init=False)
    _flops: float = field(default=0.0, init=False)

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step just dispatched and reads those of the step before it.

        Raises `UserError` after too many non-finite steps.
        """
        self.read()
        self._unread = (step, metrics)

    def read(self) -> None:
        """Waits for the step that was added last, and reads its metrics."""
        if self._unread is None:
            return
        step, metrics = self._unread
        self._unread = None
        fetched = jax.device_get(metrics)
        norms = fetched.pop("norms", None)
        values = {name: float(value) for name, value in fetched.items()}
        mark = values.pop("stop")
        self.stop_requested |= mark >= STOP_MARK
        if mark == SAVE_MARK:
            self.save_requested_in = step
        is_finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        if self.watch is not None and (is_finite or not overflowed(values)):
            self.watch.add(step, values)
        self._count_skipped(step, values, is_finite)
        if self._since is None:
            self._since = time.perf_counter()
        else:
            stage = stage_at(self.stages, step)
            self._tokens += stage.tokens_per_step
            self._flops += stage.tokens_per_step * self.flops_per_token(stage.seq_len)
        if (step + 1) % self.log_every == 0 or step in (self.start_step, self.end_step - 1):
            self._log(step, values)
        if norms is not None and (step + 1) % self.layer_norms_every == 0:
            self.writer.write(step + 1, dict(zip(self.norm_names, norms.ravel().tolist(), strict=True)))

    def go_back(self, step: int, watch: SpikeWatch, epochs: Callable[[int], Mapping[str, float]]) -> None:
        """Goes on from an earlier step, after `MetricsWriter.go_back`; the hours so far stay part of the run's progress."""
        hours = self._hours()
        self.last_progress = {**self.writer.last_progress, "progress/hours": hours}
        self.start_step, self.watch, self.epochs = step, watch, epochs
        self._unread, self._skipped_in_a_row, self.save_requested_in = None, 0, -1
        self._began, self._since, self._tokens, self._flops = time.perf_counter(), None, 0, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for the last step, and leaves the time spent inside the block out of the speed."""
        self.read()
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def flops_at(self, done: int) -> float:
        """Model FLOPs of the whole run after `done` steps."""
        since, before = self.last_progress.get("step", 0), self.last_progress.get("progress/flops", 0.0)
        return before + flops_between(self.stages, since, done, self.flops_per_token)

    def _progress(self, done: int) -> dict[str, float]:
        since, before = self.last_progress.get("step", 0), self.last_progress.get("progress/tokens", 0)
        return {
            "progress/tokens": before + tokens_between(self.stages, since, done),
            "progress/flops": self.flops_at(done),
            "progress/hours": self._hours(),
            **{f"data/epochs/{name}": epochs for name, epochs in self.epochs(done).items() if epochs},
        }

    def _hours(self) -> float:
        return self.last_progress.get("progress/hours", 0.0) + (time.perf_counter() - self._began) / 3600

    def _log(self, step: int, values: dict[str, float]) -> None:
        scalars = {f"train/{name}": value for name, value in values.items() if name != "skipped"}
        scalars["train/skipped_steps"] = self._skipped_in_all
        if self.watch is not None:
            scalars["train/spikes"] = self.watch.detector.spikes
        line = [
            f"step {step + 1:>6}/{self.end_step}",
            f"loss {values['loss']:.4f}",
            *(f"{name} {values[name]:.3f}" for name in ("margin", "accuracy", "distillation") if name in values),
            f"grad {values['grad_norm']:.2f}",
            f"lr {values['learning_rate']:.2e}",
        ]
        if self._tokens and self._since is not None:
            seconds = max(time.perf_counter() - self._since, 1e-9)
            scalars["speed/tokens_per_second"] = self._tokens / seconds
            scalars["speed/tflops_per_second"] = self._flops / seconds / 1e12
            line.append(f"{format_count(self._tokens / seconds)} tokens/s")
            if self.peak_flops:
                scalars["speed/mfu"] = self._flops / seconds / self.peak_flops
                line.append(f"MFU {scalars['speed/mfu']:.1%}")
            else:
                line.append(f"{self._flops / seconds / 1e12:.3f} TFLOP/s")
            flops_left = flops_between(self.stages, step + 1, self.end_step, self.flops_per_token)
            line.append(f"{format_seconds(flops_left * seconds / self._flops)} left")
            self._since, self._tokens, self._flops = time.perf_counter(), 0, 0.0
        if slowest := self.step_times.take_slowest():
            scalars["speed/slowest_step_seconds"], outlier = slowest
            if outlier:
                self.say(outlier)
        scalars |= memory_now()
        if damaged := self.damaged_rows():
            scalars["data/damaged_rows"] = damaged
        scalars["memory/peak_gib"] = peak_memory_bytes() / 2**30
        line.append(f"{scalars['memory/peak_gib']:.1f} GiB")
        if self._skipped_in_all:
            line.append(f"{self._skipped_in_all} skipped")
        self.say("  ".join(line))
        self.writer.write(step + 1, scalars | self._progress(step + 1))

    def _count_skipped(self, step: int, values: Mapping[str, float], is_finite: bool) -> None:
        self._skipped_in_all += bool(values["skipped"])
        self._skipped_in_a_row = 0 if is_finite or overflowed(values) else self._skipped_in_a_row + 1
        goes_back = self.watch is not None and self.watch.settings.action == "roll_back"
        if self._skipped_in_a_row >= self.max_skipped_steps and not goes_back:
            sane = "" if self.watch is None else f"; {self.watch.last_sane()}"
            raise UserError(
                f"step {step + 1}: loss or gradient was not finite for {count_of(self._skipped_in_a_row, 'step')} in a row, "
                f"so the run was stopped{sane}. Lower optimizer.learning_rate, or check the data of these steps"
            )
