"""The curves of one or several runs as a page, from their metrics.jsonl: loss, bits per byte, speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.reporting.metrics_file import language_scores, metrics_rows
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.plot import Line, legend, line_plot


def write_curves(path: Path, runs: Mapping[str, Path]) -> None:
    """Writes the page.

    Args:
      path: the HTML file to write.
      runs: the workdir of each run, by the name that the legend shows.

    Raises `UserError` where the file cannot be written.
    """
    rows = {name: metrics_rows(workdir / "metrics.jsonl") for name, workdir in runs.items()}
    losses = {name: _points(of_run, "train/loss") for name, of_run in rows.items()}
    speeds = {name: _points(of_run, "speed/tokens_per_second") for name, of_run in rows.items()}
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, of_run in rows.items():
        for row in of_run:
            for language, score in language_scores(row).items():
                label = f"{name}, {language}" if len(runs) > 1 else language
                scores.setdefault(label, []).append((row["step"], score))
    plots = [
        _plot("Training loss (nats per token)", losses, "loss"),
        _plot("Bits per byte of held-out text, by language", scores, "bits per byte"),
        _plot("Speed (tokens per second)", speeds, "tokens per second"),
    ]
    write_page(
        path,
        Path(__file__).with_name("curves.html"),
        title="Curves of " + ", ".join(runs),
        lead="Against training steps. Hold the pointer over a line to see its name.",
        plots=plots,
    )


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of every line that has a finite value."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _plot(title: str, curves: Mapping[str, list[tuple[float, float]]], y_label: str) -> tuple[str, Any, Any]:
    """(title, legend, plot) for the page."""
    lines = [Line(name, color, points) for color, (name, points) in enumerate(curves.items())]
    return title, legend(list(curves)), line_plot(lines, x_label="steps", y_label=y_label)
