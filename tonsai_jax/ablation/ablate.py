"""Runs an ablation: plans the runs, trains those that are missing, and writes the report after each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.plan import load_ablation, plan_runs
from tonsai_jax.ablation.report import write_report
from tonsai_jax.ablation.results import read_result
from tonsai_jax.ablation.running import run_all
from tonsai_jax.ablation.summary import summarize
from tonsai_jax.files import write_json


def ablate(file: Path, workdir: Path, *, num_seeds: int, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Trains the runs that are not complete, and writes `workdir/results.json` and `workdir/report.html` after each run.

    Args:
      file: the file that defines the ablation.
      workdir: folder for the runs and the report.
      num_seeds: how many seeds to train each variant with.
      flags: keys for all variants, each written "--config.key=value".

    Returns the figures of `summarize`. If training was stopped by a signal, they cover the runs so far.
    Raises `UserError` for a mistake in any variant, before the first run starts.
    """
    ablation, about = load_ablation(file)
    runs = plan_runs(file, ablation, workdir, num_seeds=num_seeds, flags=flags)

    def report(failures: Mapping[Path, str]) -> dict[str, Any]:
        results = {run.workdir: read_result(run) for run in runs}
        summary = summarize(file.stem, ablation, runs, results, failures)
        write_json(workdir / "results.json", summary)
        write_report(workdir / "report.html", about=about, summary=summary, runs=runs, results=results)
        return summary

    return report(run_all(runs, workdir, say=lambda line: print(line, flush=True), after_each=report))
