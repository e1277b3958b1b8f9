"""Runs an ablation: plans the runs, trains those that are missing, and writes the report after each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.ablation.other_text import OtherText
from tonsai_jax.ablation.plan import load_ablation, plan_runs
from tonsai_jax.ablation.processes import Processes
from tonsai_jax.ablation.report import write_report
from tonsai_jax.ablation.results import read_result
from tonsai_jax.ablation.running import run_all
from tonsai_jax.ablation.same_text import with_same_text
from tonsai_jax.ablation.summary import summarize
from tonsai_jax.ablation.tokenized import check_documents, make_rows
from tonsai_jax.data.tokenize import check_val_ratio
from tonsai_jax.files import write_json


def ablate(
    file: Path,
    workdir: Path,
    *,
    num_seeds: int,
    flags: Sequence[str] = (),
    documents: Path | None = None,
    val_ratio: float = 0.01,
    text: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains the runs that are not complete, and writes `workdir/results.json` and `workdir/report.html` after each run.

    Args:
      file: the file that defines the ablation.
      workdir: folder for the runs and the report.
      num_seeds: how many seeds to train each variant with.
      flags: keys for all variants, each written "--config.key=value".
      documents: folder of prepared documents, for an ablation with tokenizers.
      val_ratio: share of these documents that is kept for validation.
      text: files of another domain, on which complete runs are scored: ("km=news.txt", "en=books.txt").

    Returns the figures of `summarize`. If training was stopped by a signal, they cover the runs so far.
    Raises `UserError` for a mistake in any variant, tokenizer or file, before the first run starts.
    """
    ablation, about = load_ablation(file)
    runs = plan_runs(file, ablation, workdir, num_seeds=num_seeds, flags=flags)
    check_documents(file, ablation.tokenizers, documents, runs)
    check_val_ratio(val_ratio)
    other_text = OtherText.of(text) if text else None

    def say(line: str) -> None:
        print(line, flush=True)

    def report(failures: Mapping[Path, str]) -> dict[str, Any]:
        results = {run.workdir: read_result(run, other_text) for run in runs}
        summary = summarize(file.stem, ablation, runs, results, failures)
        write_json(workdir / "results.json", summary)
        write_report(workdir / "report.html", about=about, summary=summary, runs=runs, results=results)
        return summary

    failures: dict[Path, str] = {}
    with Processes(workdir) as processes:
        if documents is not None:
            make_rows(
                ablation.tokenizers, documents, workdir, val_ratio=val_ratio, runs=runs, processes=processes, say=say
            )
        if not processes.stopped:
            runs = with_same_text(runs)
            failures = run_all(runs, processes, say=say, after_each=report, text=other_text)
    return report(failures)
