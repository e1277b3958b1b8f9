"""A live view of a run at the bottom of a terminal: how far it is, loss, speed, scores by language, the last samples.

The lines that the run prints scroll above it. The view is only for a person at a terminal: a log file, several processes and
`terminal_view=False` get the lines alone.
"""

import math
import os
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tonsai_jax.reporting.metrics_file import language_scores
from tonsai_jax.reporting.numbers import format_count, format_seconds
from tonsai_jax.reporting.progress_bar import Progress
from tonsai_jax.reporting.samples import sample_text

_BLOCKS = "▁▂▃▄▅▆▇█"
_HISTORY = 24  # losses in the small curve
_SAMPLES = 3
_COENG = "\u17d2"  # puts the next consonant below: without that it is shown as a sign of its own
_LINES_ABOVE = 6  # of the terminal that the view always leaves to the run's own lines
_UPDATES_PER_SECOND = 2
# A notebook runs a command in a pseudo-terminal, but shows what it prints without the moves of the cursor.
_NOTEBOOKS = ("JPY_PARENT_PID", "COLAB_RELEASE_TAG")


class TerminalView:
    """Context manager that removes the view at its end, whatever ends it; `start` shows it.

    Rows and samples come from `MetricsWriter`. Other threads may call every method.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._step = self._end_step = 0
        self._end_flops = 0.0
        self._train: dict[str, float] = {}
        self._losses: deque[float] = deque(maxlen=_HISTORY)
        self._left: tuple[float, float] | None = None  # seconds left, and when that was known
        self._scores: list[tuple[int, dict[str, float]]] = []  # the last two evaluations
        self._samples: list[str] = []

    def __enter__(self) -> "TerminalView":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def start(self, start_step: int, end_step: int, end_flops: float) -> None:
        """Shows the view.

        Args:
          start_step, end_step: the steps that this process takes.
          end_flops: `progress/flops` after the last of them.
        """
        self._step, self._end_step, self._end_flops = start_step, end_step, end_flops
        self._live = Live(
            get_renderable=self.frame,
            console=self._console,
            refresh_per_second=_UPDATES_PER_SECOND,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # else it goes to a file, as the user wants
        )
        self._live.start()
        self._console.show_cursor(True)  # a process that is killed cannot bring it back
        Progress.in_view = True

    def stop(self) -> None:
        """Removes the view; what was printed above it stays."""
        Progress.in_view = False
        if self._live is not None:
            self._live.stop()
            self._live = None

    def row(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes a row of metrics.jsonl."""
        with self._lock:
            if "train/loss" in scalars:
                self._step, self._train = step, dict(scalars)
                self._losses.append(scalars["train/loss"])
                if speed := scalars.get("speed/tflops_per_second"):
                    seconds = max(0.0, self._end_flops - scalars["progress/flops"]) / (speed * 1e12)
                    self._left = seconds, time.monotonic()
            scores = language_scores(scalars) or {
                name: scalars[f"eval/{name}"] for name in ("accuracy", "margin") if f"eval/{name}" in scalars
            }
            if scores:
                self._scores = [*self._scores[-1:], (step, scores)]

    def samples(self, samples: Sequence[tuple[str, str]]) -> None:
        """Takes the last samples, as pairs of a prompt and its continuation."""
        with self._lock:
            self._samples = [
                sample_text(prompt, text.strip().partition("\n")[0]) for prompt, text in samples[:_SAMPLES]
            ]

    def frame(self) -> Group:
        """What the view shows now. No line is wider than the terminal."""
        width, height = self._console.size
        with self._lock:
            lines = [self._progress(width), *_flow(self._figures(), width)]
            if self._scores:
                lines += _flow(self._score_parts(), width)
            if job := Progress.innermost():
                lines.append(Text(_cropped(job, width), style="yellow"))
            lines += [Text(_cropped(sample, width), style="dim") for sample in self._samples]
        return Group(*lines[: max(1, height - _LINES_ABOVE)])

    def _progress(self, width: int) -> Text:
        share = min(1.0, self._step / max(1, self._end_step))
        before = f"step {self._step:,}/{self._end_step:,} "
        after = f" {share:4.0%}"
        if self._left is not None:
            seconds, known = self._left
            after += f"  {format_seconds(max(0.0, seconds - (time.monotonic() - known)))} left"
        room = width - len(before) - len(after)
        if room < 5:
            return Text(_cropped(before + after.strip(), width), style="bold")
        full = round(share * room)
        return Text.assemble((before, "bold"), ("━" * full, "green"), ("━" * (room - full), "dim"), after)

    def _figures(self) -> list[Text]:
        row = self._train
        if not row:
            return [Text("the first step compiles")]
        parts = [Text.assemble(f"loss {row['train/loss']:.4f} ", (_curve(self._losses), "cyan"))]
        for name in ("margin", "accuracy"):
            if f"train/{name}" in row:
                parts.append(Text(f"{name} {row[f'train/{name}']:.3f}"))
        parts += [Text(f"grad {row['train/grad_norm']:.2f}"), Text(f"lr {row['train/learning_rate']:.2e}")]
        if "speed/tokens_per_second" in row:
            parts.append(Text(f"{format_count(row['speed/tokens_per_second'])} tokens/s"))
        if "speed/mfu" in row:
            parts.append(Text(f"MFU {row['speed/mfu']:.1%}"))
        parts.append(Text(f"{row['memory/peak_gib']:.1f} GiB"))
        if skipped := row.get("train/skipped_steps"):
            parts.append(Text(f"{skipped:.0f} skipped", style="red"))
        return parts

    def _score_parts(self) -> list[Text]:
        step, scores = self._scores[-1]
        before = self._scores[0][1] if len(self._scores) > 1 else {}
        kind = "pairs" if "accuracy" in scores else "bits per byte"
        parts = [Text(f"{kind} at step {step:,}:")]
        for name, score in scores.items():
            part = Text.assemble(f"{name} ", (f"{score:.4f}", "bold"))
            if name in before:
                change = score - before[name]
                is_better = change > 0 if kind == "pairs" else change < 0
                part.append(f" ({change:+.4f})", style="green" if is_better else "red" if change else "dim")
            parts.append(part)
        return parts


def open_view(wanted: bool) -> TerminalView | None:
    """The view, or None where nobody would see it or it would only be in the way of the lines."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8"
    if not wanted or not is_terminal or jax.process_count() > 1 or any(name in os.environ for name in _NOTEBOOKS):
        return None
    return TerminalView()


def _curve(values: Sequence[float] | deque[float]) -> str:
    """'█▆▄▃▂▁': the values between their smallest and their largest; '×' for one that is not finite."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round((value - low) / (high - low) * top) if high > low else 0] if math.isfinite(value) else "×"
        for value in values
    )


def _flow(parts: Sequence[Text], width: int) -> list[Text]:
    """The parts on as few lines as they need, two spaces apart."""
    lines: list[Text] = []
    for part in parts:
        part.truncate(width, overflow="ellipsis")
        if lines and lines[-1].cell_len + 2 + part.cell_len <= width:
            lines[-1].append("  ").append_text(part)
        else:
            lines.append(part)
    return lines


def _cropped(text: str, width: int) -> str:
    """The beginning of a text that takes at most `width` columns on any terminal.

    Terminals differ in the width of vowel signs that stand beside their consonant (Unicode's Mc, such as U+17B6): here they
    count as one column, so that a line never wraps.
    """
    used = cut = 0
    for place, char in enumerate(text):
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        if used < width:  # up to here there is room for the ellipsis
            cut = place
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > width:
            return text[:cut].rstrip(_COENG) + "…"
    return text
