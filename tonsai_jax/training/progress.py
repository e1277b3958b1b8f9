"""What a run says as it goes: loss, speed, time left, memory; read one step late so that the devices never wait."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax

from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import format_count, format_seconds
from tonsai_jax.runtime.memory import peak_memory_bytes
from tonsai_jax.stages import Stage
from tonsai_jax.training.metrics import MetricsWriter


class Progress:
    """Reads the metrics of each step, prints and writes a line every `log_every` steps, and tells when to stop.

    Args:
      stages: the run; tokens of a step are those of its whole batch, padding included.
      start_step, end_step: the steps that this process takes.
      flops_per_token: of a training step at a sequence length.
      peak_flops: of all devices together, or None where they are unknown.
      max_skipped_steps: so many non-finite steps on end are an error.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        say: Callable[[str], None],
        stages: Sequence[Stage],
        *,
        start_step: int,
        end_step: int,
        flops_per_token: Callable[[int], float],
        peak_flops: float | None,
        log_every: int,
        max_skipped_steps: int,
    ) -> None:
        self._writer = writer
        self._say = say
        self._stages = stages
        self._first_step, self._end_step = start_step, end_step
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._log_every = log_every
        self._max_skipped_steps = max_skipped_steps
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._skipped_on_end = 0
        self._skipped_in_all = 0
        self._stop = False
        # Since the last line; the first step, which compiles, is not timed.
        self._since: float | None = None
        self._tokens = 0
        self._flops = 0.0
        self._seconds_per_flop = 0.0

    def add(self, step: int, metrics: dict[str, jax.Array]) -> bool:
        """Takes the metrics of a step just dispatched and looks at those of the step before.

        Returns whether a host asked to stop; every host gets the same answer at the same step. Raises `UserError`
        after too many non-finite steps.
        """
        self.look()
        self._pending = (step, metrics)
        return self._stop

    def look(self) -> None:
        """Waits for the step added last and reads its metrics."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._stop |= values.pop("stop") > 0
        self._count_skipped(step, bool(values["skipped"]))
        if self._since is None:
            self._since = time.perf_counter()
        else:
            stage = self._stage_of(step)
            tokens = stage.seq_len * stage.global_batch_size
            self._tokens += tokens
            self._flops += tokens * self._flops_per_token(stage.seq_len)
        if (step + 1) % self._log_every == 0 or step in (self._first_step, self._end_step - 1):
            self._log(step, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the speed."""
        self.look()
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def _log(self, step: int, values: dict[str, float]) -> None:
        scalars = {f"train/{name}": value for name, value in values.items() if name != "skipped"}
        scalars["train/skipped_steps"] = self._skipped_in_all
        line = [
            f"step {step + 1:>6}/{self._end_step}",
            f"loss {values['loss']:.4f}",
            f"grad {values['grad_norm']:.2f}",
            f"lr {values['learning_rate']:.2e}",
        ]
        if self._tokens and self._since is not None:
            seconds = max(time.perf_counter() - self._since, 1e-9)
            self._seconds_per_flop = seconds / self._flops
            scalars["speed/tokens_per_second"] = self._tokens / seconds
            scalars["speed/tflops_per_second"] = self._flops / seconds / 1e12
            line.append(f"{format_count(self._tokens / seconds)} tokens/s")
            if self._peak_flops:
                scalars["speed/mfu"] = self._flops / seconds / self._peak_flops
                line.append(f"MFU {scalars['speed/mfu']:.1%}")
            else:
                line.append(f"{self._flops / seconds / 1e12:.3f} TFLOP/s")
            line.append(f"{format_seconds(self._seconds_left(step + 1))} left")
            self._since, self._tokens, self._flops = time.perf_counter(), 0, 0.0
        scalars["memory/peak_gib"] = peak_memory_bytes() / 2**30
        line.append(f"{scalars['memory/peak_gib']:.1f} GiB")
        if self._skipped_in_all:
            line.append(f"{self._skipped_in_all} skipped")
        self._say("  ".join(line))
        self._writer.write(step + 1, scalars)

    def _count_skipped(self, step: int, skipped: bool) -> None:
        self._skipped_on_end = self._skipped_on_end + 1 if skipped else 0
        self._skipped_in_all += skipped
        if self._skipped_on_end >= self._max_skipped_steps:
            raise UserError(
                f"step {step + 1}: loss or gradient was not finite for {self._skipped_on_end} steps on end, so the run "
                f"was stopped; the last checkpoint is good. Lower optimizer.learning_rate, or look at the data there"
            )

    def _stage_of(self, step: int) -> Stage:
        for stage in self._stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self._stages[-1]

    def _seconds_left(self, done: int) -> float:
        flops, first = 0.0, 0
        for stage in self._stages:
            steps = max(0, min(first + stage.steps, self._end_step) - max(first, done))
            flops += steps * stage.seq_len * stage.global_batch_size * self._flops_per_token(stage.seq_len)
            first += stage.steps
        return flops * self._seconds_per_flop
