"""The charts of a report: learning, optimization, speed, memory, experts, epochs."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from tonsai_jax.report.metrics import Series
from tonsai_jax.report.run import RunRecord
from tonsai_jax.report.summary import BITS_PER_BYTE, languages_of
from tonsai_jax.reporting.chart import heat_chart, line_chart, smoothed
from tonsai_jax.reporting.plot import Line, legend

HEAT_COLUMNS = 100
_POINTS_WITH_MEAN = 200  # from this many on, a curve is drawn thin, with its running mean over it
_MEAN_NOTE = "nats per token; a long curve has its running mean over it"
# What the report shows in a place of its own; every other number of a run is a small chart under "other metrics".
_SHOWN = (
    "time", "progress/", "train/loss", BITS_PER_BYTE, "eval/perplexity", "train/learning_rate", "train/grad_norm", "speed/",
    "memory/", "train/router/", "data/epochs/", "eval/prompts/",
)  # fmt: skip


class Chart(NamedTuple):
    """A chart with its title, its legend (empty for one line) and a remark."""

    title: str
    legend: Markup
    drawing: Markup
    note: str = ""


class Axis(NamedTuple):
    """A choice of the x axis and the charts against it."""

    key: str
    name: str
    charts: list[Chart]


def learning(runs: Sequence[RunRecord]) -> list[Axis]:
    """Loss and bits per byte against steps, and against tokens, hours and FLOPs where a run has counted them."""
    axes = [Axis("steps", "steps", _learning(runs, "", 1.0, "steps"))]
    for key, name, units in (
        ("tokens", "tokens", ((1.0, ""),)),
        ("hours", "hours", ((1.0, "hours of training"), (1 / 60, "minutes of training"))),
        ("flops", "FLOPs", ((1e21, "ZFLOPs"), (1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))),
    ):
        counts = [run.metrics[f"progress/{key}"].last for run in runs]
        largest = max((count for count in counts if count is not None), default=0.0)
        if largest > 0:
            size, unit = next((each for each in units if largest >= 2 * each[0]), units[-1])
            axes.append(Axis(key, name, _learning(runs, f"progress/{key}", size, unit or name)))
    return axes


def _learning(runs: Sequence[RunRecord], count: str, size: float, x_label: str) -> list[Chart]:
    several = len(runs) > 1

    def points(run: RunRecord, series: Series) -> list[tuple[float, float]]:
        if not count:
            return _points(series)
        if run.metrics[count].last is None:
            return []
        xs = run.metrics.at(count, series.steps) / size
        return list(zip(xs.tolist(), series.values.tolist(), strict=True))

    def lines(name: str) -> list[Line]:
        return [
            line
            for number, run in enumerate(runs)
            for line in _with_mean(run.name, number, points(run, run.metrics[name]))
        ]

    names = [run.name for run in runs]
    keys = legend(names) if several else Markup("")
    charts = [
        Chart(
            "Training loss",
            keys,
            line_chart(lines("train/loss"), x_label=x_label, y_label="nats per token"),
            _MEAN_NOTE,
        )
    ]
    languages = languages_of(runs)
    if several:
        for language in languages:
            drawing = line_chart(lines(f"{BITS_PER_BYTE}/{language}"), x_label=x_label, y_label="bits per byte")
            charts.append(Chart(f"Bits per byte, {language}", keys, drawing, "held-out text; lower is better"))
    elif languages:
        of_each = [
            Line(language, number, points(runs[0], runs[0].metrics[f"{BITS_PER_BYTE}/{language}"]))
            for number, language in enumerate(languages)
        ]
        drawing = line_chart(of_each, x_label=x_label, y_label="bits per byte")
        charts.append(Chart("Bits per byte by language", legend(languages), drawing, "held-out text; lower is better"))
    return charts


def optimization(runs: Sequence[RunRecord]) -> list[Chart]:
    """Learning rate and gradient norm against steps."""
    return _charts(
        runs,
        [
            ("train/learning_rate", "Learning rate", "", ""),
            ("train/grad_norm", "Gradient norm", "before clipping; logarithmic", "log"),
        ],
    )


def speed(runs: Sequence[RunRecord]) -> list[Chart]:
    """Throughput, MFU and memory against steps."""
    wanted = [("speed/tokens_per_second", "Tokens per second", "", "zero")]
    if any(run.metrics["speed/mfu"].last is not None for run in runs):
        wanted.append(("speed/mfu", "MFU", "share of the devices' peak FLOP/s", "zero"))
    else:
        wanted.append(
            ("speed/tflops_per_second", "TFLOP/s", "of the model; the peak of the devices is not known", "zero")
        )
    return _charts(runs, [*wanted, ("memory/peak_gib", "Peak memory", "GiB", "zero")])


def sources(run: RunRecord) -> list[Chart]:
    """Bits per byte by source where a language has several, and epochs of each source."""
    charts = []
    scored = {
        name.removeprefix("source/"): of
        for name, of in run.metrics.under(f"{BITS_PER_BYTE}/").items()
        if name.startswith("source/")
    }
    if len(scored) > len(languages_of([run])):
        charts.append(_of_one_run(scored, "Bits per byte by source", "bits per byte", "held-out text; lower is better"))
    epochs = run.metrics.under("data/epochs/")
    if epochs:
        charts.append(_of_one_run(epochs, "Epochs of each source", "epochs", "how often its training rows were read"))
    return charts


def experts(run: RunRecord) -> list[Chart]:
    """The load of each expert as a heat map, dropped tokens and the router's entropy; empty for a dense model."""
    loads = sorted(
        run.metrics.under("train/router/expert_").items(), key=lambda item: int(item[0]) if item[0].isdigit() else 0
    )
    if not loads:
        return []
    steps = loads[0][1].steps
    edges = np.unique(np.linspace(0, len(steps), min(HEAT_COLUMNS, len(steps)) + 1).astype(int))
    rows = []
    for _, series in loads:
        values = series.values[: len(steps)]
        rows.append(
            [
                len(loads) * float(values[a:b].mean()) if b <= len(values) else float("nan")
                for a, b in itertools.pairwise(edges)
            ]
        )
    columns = [float(steps[b - 1]) for b in edges[1:]]
    drawing = heat_chart([f"{name}" for name, _ in loads], columns, rows, x_label="steps", low=0.0, high=2.0)
    note = "a row for each expert; pale: no tokens; half: its even share; full: twice that or more"
    return [
        Chart("Load of the experts", Markup(""), drawing, note),
        *_charts(
            [run],
            [
                ("train/router/busiest", "Load of the busiest expert", "1 is an even load", ""),
                ("train/router/dropped", "Dropped tokens", "share of tokens over an expert's capacity", "zero"),
                ("train/router/entropy", "Entropy of the router", "nats", ""),
            ],
        ),
    ]


def checks(run: RunRecord) -> list[Chart]:
    """The checks of the prompt suite against steps, a chart for each check, a line for each language."""
    by_check: dict[str, dict[str, Series]] = {}
    for name, series in run.metrics.under("eval/prompts/").items():
        check, _, language = name.partition("/")
        by_check.setdefault(check, {})[language or "all"] = series
    return [_of_one_run(of_check, check.replace("_", " "), check, "") for check, of_check in by_check.items()]


def others(runs: Sequence[RunRecord]) -> list[Chart]:
    """Everything else that the runs have measured, against steps."""
    names = dict.fromkeys(name for run in runs for name, series in run.metrics.series.items() if len(series.steps))
    wanted = [(name, name, "", "") for name in names if not name.startswith(_SHOWN) and not _is_flat_zero(runs, name)]
    return _charts(runs, wanted)


def _is_flat_zero(runs: Sequence[RunRecord], name: str) -> bool:
    return all(not run.metrics[name].values.any() for run in runs)


def _charts(runs: Sequence[RunRecord], wanted: Sequence[tuple[str, str, str, str]]) -> list[Chart]:
    """(metric, title, note, scale) to charts with a line for each run; none for a metric that no run has.

    The scale is "log", "zero" for one that begins at 0, or empty.
    """
    keys = legend([run.name for run in runs]) if len(runs) > 1 else Markup("")
    charts = []
    for name, title, note, scale in wanted:
        lines = [
            line for number, run in enumerate(runs) for line in _with_mean(run.name, number, _points(run.metrics[name]))
        ]
        if any(line.points for line in lines):
            drawing = line_chart(lines, x_label="steps", y_label=title, log_y=scale == "log", from_zero=scale == "zero")
            charts.append(Chart(title, keys, drawing, note))
    return charts


def _of_one_run(of_each: dict[str, Series], title: str, y_label: str, note: str) -> Chart:
    lines = [Line(name, number, _points(series)) for number, (name, series) in enumerate(of_each.items())]
    return Chart(title, legend(list(of_each)), line_chart(lines, x_label="steps", y_label=y_label), note)


def _with_mean(name: str, color: int, points: list[tuple[float, float]]) -> list[Line]:
    """A curve, and where it has many points its running mean over it."""
    if len(points) < _POINTS_WITH_MEAN:
        return [Line(name, color, points)]
    xs, ys = np.array(points).T
    mean = list(zip(xs.tolist(), smoothed(ys).tolist(), strict=True))
    return [Line(name, color, points, light=True), Line(name, color, mean)]


def _points(series: Series) -> list[tuple[float, float]]:
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))
