"""The report of one run, or of several next to each other: one HTML file that needs no network and no script."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import tonsai_jax
from tonsai_jax.report import curves, samples, scores, settings, sources, summary
from tonsai_jax.report.run import RunRecord, read_run
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import Table

_FONT = Path(tonsai_jax.__file__).parent / "chat_ui" / "fonts" / "NotoSansKhmer-Regular.woff2"


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
    compared = settings.compared([*runs, *([other] if other else [])])
    if other is not None and compared is None:
        runs[0].notes.append(
            f"--against {against}: one of the two configurations cannot be read, so they are not compared"
        )
    tasks, more_tasks = scores.task_charts(runs)
    texts = [run.config.get("sample") for run in runs], values["samples"], values["suite"]
    notes = [f"{run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    write_page(
        path,
        Path(__file__).with_name("report.html"),
        **values,
        axes=curves.learning(runs),
        optimization=curves.optimization(runs),
        speed=curves.speed(runs),
        others=curves.others(runs),
        tasks=tasks,
        more_tasks=more_tasks,
        compared=compared,
        notes=notes,
        font=Markup(base64.b64encode(_FONT.read_bytes()).decode()) if samples.has_khmer(str(texts)) else None,
    )
    return notes


def _one(run: RunRecord, price: float | None) -> dict[str, Any]:
    data = sources.data_section(run)
    return {
        "title": run.name,
        "lead": _lead(run),
        "cards": summary.cards(run, price),
        "final": None,
        "sources": curves.sources(run),
        "experts": curves.experts(run),
        "samples": samples.of_samples([run]),
        "suite": samples.of_suite([run]),
        "checks": curves.checks(run),
        "changed": settings.changed_keys(run),
        "every_key": settings.every_key(run),
        "data": data,
        "environment": summary.environment_table(run),
        "commands": summary.commands_of(run),
    }


def _several(runs: Sequence[RunRecord], price: float | None) -> dict[str, Any]:
    return {
        "title": f"{len(runs)} runs compared",
        "lead": ", ".join(run.name for run in runs),
        "cards": [],
        "final": summary.final_table(runs, price),
        "sources": [],
        "experts": [],
        "samples": samples.of_samples(runs),
        "suite": samples.of_suite(runs),
        "checks": [],
        "changed": None,
        "every_key": Table("", [], [], ""),
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
