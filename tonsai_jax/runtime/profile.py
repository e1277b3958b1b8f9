"""A profiler trace of some training steps: what the devices and the host did, and when."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax


class StepProfile:
    """Traces some steps of a run into a folder that XProf and Perfetto can read.

    Args:
      folder: where the trace is written, in a folder named after the time.
      first_step: number of the first traced step.
      steps: how many steps to trace; 0 traces nothing.
      paused: a context that waits for the devices, and whose time does not count in the speed of the run.
      say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first_step: int,
        steps: int,
        paused: Callable[[], AbstractContextManager[None]],
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._steps = range(first_step, first_step + steps)
        self._paused = paused
        self._say = say
        self._running = self._written = False

    def before(self, step: int) -> None:
        """Starts the trace if `step` is the first one to trace; call it before the step."""
        if step in self._steps[:1] and not self._running:  # it runs where the run went back to this step
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # tracing every Python call is slow and hides the rest
            with self._paused():
                jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def after(self, step: int) -> None:
        """Writes the trace if `step` is the last one to trace; call it after the step was dispatched."""
        if step in self._steps[-1:]:
            self._write()

    def close(self) -> None:
        """Writes a trace that the end of the run cut short, and prints where the trace is or why there is none."""
        self._write()
        if self._written:
            self._say(
                f"profile: {self._folder}; view it with `pip install xprof && xprof --logdir {self._folder}`, "
                f"or open its .trace.json.gz at https://ui.perfetto.dev"
            )
        elif self._steps:
            self._say(
                f"profile: nothing was traced, this run ended before step {self._steps[0] + 1}; lower profile.start"
            )

    def _write(self) -> None:
        if self._running:
            with self._paused():
                jax.profiler.stop_trace()
            self._running, self._written = False, True
