"""A profiler trace of a few training steps: what the devices and the host did, and when."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax


class StepProfile:
    """Traces some steps of a session into a folder that XProf and Perfetto open.

    Args:
      folder: where the trace goes; each trace is a folder of its own below it, named for the time.
      first_step: the first one traced.
      steps: how many; 0 traces nothing.
      paused: leaves the time of starting and writing out of the run's speed, and waits for the devices on entry.
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
        """Starts the trace where `step` is the first one to trace."""
        if step in self._steps[:1]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of a Python function: slow, and hides the rest
            with self._paused():
                jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def after(self, step: int) -> None:
        """Writes the trace where `step`, just dispatched, is the last one to trace."""
        if step in self._steps[-1:]:
            self._write()

    def close(self) -> None:
        """Writes a trace that the session's end cut short, and says where it lies or why there is none."""
        self._write()
        if self._written:
            self._say(
                f"profile: {self._folder}; see it with `pip install xprof && xprof --logdir {self._folder}`, "
                f"or open its .trace.json.gz at https://ui.perfetto.dev"
            )
        elif self._steps:
            self._say(
                f"profile: nothing was traced, the session ended before step {self._steps[0] + 1}; lower profile.start"
            )

    def _write(self) -> None:
        if self._running:
            with self._paused():
                jax.profiler.stop_trace()
            self._running, self._written = False, True
