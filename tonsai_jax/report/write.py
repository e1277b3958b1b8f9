"""The report of one run, or of several next to each other: one HTML file that needs no network and no script."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import tonsai_jax
from tonsai_jax.report import curves, samples, scores, settings, sources, summary
from tonsai_jax.report.run import RunRecord, read_run
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import Table

_FONT = Path(tonsai_jax.__file__).parent / "chat_ui" / "fonts" / "NotoSansKhmer-Regular.woff2"
_NO_TABLE = Table("", [], [], "")


def write_report(
    path: Path, workdirs: Sequence[Path], *, price: float | None = None, against: Path | None = None
) -> list[str]:
    """Reads the folders and writes the page. Returns what could not be read, as sentences; the page has them too.

    Args:
      path: the HTML file to write.
      workdirs: the folders of the runs; several are compared.
      price: of an hour of a device, in any currency; None leaves the cost out.
      against: the folder of another run; of it only the configuration is compared.

    Raises `UserError` for a folder that is not that of a run, or a file that cannot be written.
    """
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = [str(workdir) for workdir in workdirs]
    runs = [read_run(workdir, name) for workdir, name in zip(workdirs, names, strict=True)]
    other = read_run(against, against.resolve().name) if against is not None else None
    values = _several(runs, price) if len(runs) > 1 else _one(runs[0], price)
    compared = _section(runs, "configuration", lambda: settings.compared([*runs, *([other] if other else [])]), None)
    if other is not None and compared is None:
        runs[0].notes.append(
            f"--against {against}: one of the two configurations cannot be read, so they are not compared"
        )
    tasks, more_tasks = _section(runs, "tasks", lambda: scores.task_charts(runs), ([], []))
    drawn = {
        "axes": _section(runs, "learning", lambda: curves.learning(runs), []),
        "optimization": _section(runs, "optimization", lambda: curves.optimization(runs), []),
        "speed": _section(runs, "speed and memory", lambda: curves.speed(runs), []),
        "others": _section(runs, "other metrics", lambda: curves.others(runs), []),
    }
    texts = [run.config.get("sample") for run in runs], values["samples"], values["suite"]
    notes = [f"{run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    notes = [note.encode(errors="replace").decode() for note in notes]  # half of a surrogate pair cannot be printed
    write_page(
        path,
        Path(__file__).with_name("report.html"),
        **values,
        **drawn,
        tasks=tasks,
        more_tasks=more_tasks,
        compared=compared,
        notes=notes,
        font=Markup(base64.b64encode(_FONT.read_bytes()).decode()) if samples.has_khmer(str(texts)) else None,
    )
    return notes


def _section(runs: Sequence[RunRecord], name: str, build: Callable[[], Any], empty: Any) -> Any:
    """What `build` makes; where it fails, a note of the first run and `empty`: a broken value costs a section, not the page."""
    try:
        return build()
    except Exception as error:
        runs[0].notes.append(f"{name}: left out ({type(error).__name__}: {error})")
        return empty


def _one(run: RunRecord, price: float | None) -> dict[str, Any]:
    def section(name: str, build: Callable[[], Any], empty: Any) -> Any:
        return _section([run], name, build, empty)

    return {
        "title": run.name,
        "lead": _lead(run),
        "cards": section("summary", lambda: summary.cards(run, price), []),
        "final": None,
        "sources": section("charts of the sources", lambda: curves.sources(run), []),
        "experts": section("experts", lambda: curves.experts(run), []),
        "samples": section("samples", lambda: samples.of_samples([run]), []),
        "suite": section("prompt suite", lambda: samples.of_suite([run]), {}),
        "checks": section("checks of the prompt suite", lambda: curves.checks(run), []),
        "changed": section("configuration", lambda: settings.changed_keys(run), None),
        "every_key": section("all keys", lambda: settings.every_key(run), _NO_TABLE),
        "data": section("data", lambda: sources.data_section(run), None),
        "environment": section("environment", lambda: summary.environment_table(run), None),
        "commands": section("commands", lambda: summary.commands_of(run), []),
    }


def _several(runs: Sequence[RunRecord], price: float | None) -> dict[str, Any]:
    return {
        "title": f"{len(runs)} runs compared",
        "lead": ", ".join(run.name for run in runs),
        "cards": [],
        "final": _section(runs, "final figures", lambda: summary.final_table(runs, price), None),
        "sources": [],
        "experts": [],
        "samples": _section(runs, "samples", lambda: samples.of_samples(runs), []),
        "suite": _section(runs, "prompt suite", lambda: samples.of_suite(runs), {}),
        "checks": [],
        "changed": None,
        "every_key": _NO_TABLE,
        "data": None,
        "environment": None,
        "commands": [],
    }


def _lead(run: RunRecord) -> str:
    model = run.config.get("model") or {}
    parts = []
    if model:
        size = f"{model['num_layers']} layers of width {model['d_model']}, {model['num_heads']} heads"
        if model.get("num_experts"):
            size += f", {model['num_experts']} experts"
        parts.append(f"A decoder with {size}")
    if run.config.get("init_from"):
        parts.append(f"continued from {run.config['init_from']}")
    return ("; ".join(parts) or "The report of a run") + "."
