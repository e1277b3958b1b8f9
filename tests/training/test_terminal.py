"""The live view of a run: what it shows, that no line is too wide, and that nothing of it stays behind."""

import io
import re
import sys
import unicodedata
from pathlib import Path

import jax
import pytest
from rich.console import Console

from tonsai_jax.reporting.progress_bar import Progress, progress_bar
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.terminal import TerminalView, _cropped, _curve, open_view

ROW = {
    "train/loss": 2.5,
    "train/grad_norm": 0.5,
    "train/learning_rate": 1e-3,
    "speed/tokens_per_second": 12_345.0,
    "speed/tflops_per_second": 0.5,
    "speed/mfu": 0.412,
    "memory/peak_gib": 1.25,
    "progress/flops": 10e12,
    "train/skipped_steps": 0,
}
KHMER = "កាលពីព្រេងនាយ មានក្មេងស្រីម្នាក់ឈ្មោះបុប្ផា។"


def view_of(width: int = 80, height: int = 24) -> TerminalView:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, soft_wrap=True, color_system=None
    )
    view = TerminalView(console)
    view._step, view._end_step, view._end_flops = 0, 100, 40e12
    return view


def shown(view: TerminalView) -> list[str]:
    size = view._console.size
    console = Console(file=io.StringIO(), width=10 * size.width, color_system=None)
    console.print(view.frame())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def fill(view: TerminalView) -> None:
    for step, loss in ((10, 4.0), (20, 3.0), (30, 2.5)):
        view.row(step, ROW | {"train/loss": loss})
    view.row(20, {"eval/bits_per_byte": 1.1, "eval/bits_per_byte/km": 1.2, "eval/bits_per_byte/en": 1.0})
    scores = {"eval/bits_per_byte/km": 1.1, "eval/bits_per_byte/en": 1.05, "eval/bits_per_byte/source/wiki": 1.0}
    view.row(30, {"eval/bits_per_byte": 1.07, **scores})
    view.samples([(KHMER, "នាង\nsecond line"), ("Once", " upon a time " * 20)])


def test_the_view_shows_progress_figures_scores_and_samples() -> None:
    view = view_of()
    fill(view)
    progress, figures, scores, khmer, english = shown(view)
    assert re.fullmatch(r"step 30/100 ━+  30%  (1m 00|59)s left", progress)
    assert len(progress) == 80
    assert figures == "loss 2.5000 █▃▁  grad 0.50  lr 1.00e-03  12.3k tokens/s  MFU 41.2%  1.2 GiB"
    assert scores == "bits per byte at step 30:  km 1.1000 (-0.1000)  en 1.0500 (+0.0500)"
    assert khmer == f"{KHMER} → នាង"
    assert english.startswith("Once → upon a time")
    assert english.endswith("…")


def test_before_the_first_row_it_says_that_the_step_compiles() -> None:
    assert shown(view_of())[1] == "the first step compiles"


def test_pairs_show_margin_and_accuracy() -> None:
    view = view_of()
    view.row(5, ROW | {"train/margin": 0.25, "train/accuracy": 0.75})
    for step, accuracy in ((5, 0.5), (10, 0.75)):
        view.row(step, {"eval/accuracy": accuracy, "eval/margin": accuracy / 2, "eval/accuracy/source/chat": accuracy})
    assert "margin 0.250  accuracy 0.750" in shown(view)[1]
    assert shown(view)[-1] == "pairs at step 10:  accuracy 0.7500 (+0.2500)  margin 0.3750 (+0.1250)"


@pytest.mark.parametrize("width", [1, 5, 20, 37, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    view = view_of(width)
    fill(view)
    for line in shown(view):
        assert sum(unicodedata.category(char) not in ("Mn", "Cf") for char in line) <= width, line


@pytest.mark.parametrize(("height", "lines"), [(24, 5), (9, 3), (6, 1), (2, 1)])
def test_a_low_terminal_shows_only_the_first_lines(height: int, lines: int) -> None:
    view = view_of(height=height)
    fill(view)
    assert len(shown(view)) == lines


def test_a_text_is_cropped_between_its_clusters() -> None:
    assert _cropped("abc", 3) == "abc"
    assert _cropped("abcd", 3) == "ab…"
    assert _cropped("ខ្មែរ", 4) == "ខ្មែរ"
    assert _cropped("ខ្មែរ", 2) == "ខ…", "no sign that waits for its consonant"
    assert _cropped("កុំៗៗ", 2) == "កុំ…"
    assert _cropped("漢字漢字", 4) == "漢…"
    assert _cropped("abc", 1) == "…"


def test_a_curve_shows_what_is_not_finite() -> None:
    assert _curve([4.0, float("nan"), 0.0, float("inf")]) == "█×▁×"
    assert _curve([2.0, 2.0]) == "▁▁"
    assert _curve([float("nan")]) == "×"


def test_a_loss_that_is_not_finite_is_shown() -> None:
    view = view_of()
    view.row(1, ROW | {"train/loss": float("nan"), "train/grad_norm": float("inf"), "train/skipped_steps": 2})
    assert "loss nan ×" in shown(view)[1]
    assert "2 skipped" in shown(view)[1]


def test_lines_scroll_above_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        encoding = "UTF-8"

        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    view = open_view(True)
    assert view is not None

    def run() -> None:
        with view:
            view.start(0, 100, 40e12)
            print("a line of the run [not markup] " + "x" * 200)
            fill(view)
            with progress_bar("evaluating", unit=" windows", total=8) as bar:
                bar.update(4)
                assert "evaluating: 4 of 8 windows (50%)" in shown(view)[3]
                assert bar._bar is None, "a second thing that moves the cursor"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert sys.stdout is screen
    assert sys.stderr is screen
    assert not Progress.in_view
    written = screen.getvalue()
    assert "a line of the run [not markup] " + "x" * 200 + "\n" in written, "whole: the terminal wraps it"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is shown"
    assert written.index("\x1b[?25h") < written.index("a line of the run"), "and already while the view is there"


@pytest.mark.parametrize(
    ("wanted", "is_terminal", "environment", "processes"),
    [
        (False, True, {}, 1),
        (True, False, {}, 1),
        (True, True, {"TERM": "dumb"}, 1),
        (True, True, {"JPY_PARENT_PID": "7"}, 1),
        (True, True, {"COLAB_RELEASE_TAG": "x"}, 1),
        (True, True, {}, 2),
    ],
)
def test_elsewhere_there_are_only_lines(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, is_terminal: bool, environment: dict[str, str], processes: int
) -> None:
    class Screen(io.StringIO):
        encoding = "UTF-8"

        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    assert open_view(wanted) is None
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    for name in environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")
    is_terminal = True
    assert isinstance(open_view(True), TerminalView)


def test_the_view_gets_what_metrics_jsonl_gets(tmp_path: Path) -> None:
    view = view_of()
    out = MetricsWriter(tmp_path, start_step=0, active=True, wandb_project="", wandb_name="", config={}, view=view)
    out.write(10, ROW)
    out.write_samples(10, [("Once", " upon")])
    out.close()
    assert shown(view)[0].startswith("step 10/100")
    assert shown(view)[-1] == "Once → upon"
