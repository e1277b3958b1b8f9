"""Speed and correctness on one GPU, compared with PyTorch and Transformers: one command that writes Markdown and JSON.

It needs JAX, Flax and Optax, and PyTorch and Transformers for the comparison. It needs no other dependency of this project, and
runs from a plain checkout. Each part runs in its own process with a time limit, so that no part holds memory while the next one
runs, and a part that fails costs one line. The JSON file is written after each part.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # a plain checkout is enough

from gpu_cases import GROUPS, MAIN, VARIANTS, Part, case_part, parts  # noqa: E402  # after the path
from gpu_report import LOSSES_AGREE_WITHIN, Row, loss_difference, markdown, merged, tokens_per_second  # noqa: E402
from gpu_worker import RESULT, one_line  # noqa: E402

from tonsai_jax.errors import UserError, run_command  # noqa: E402
from tonsai_jax.files import write_json  # noqa: E402
from tonsai_jax.model.config import ModelConfig  # noqa: E402
from tonsai_jax.runtime.hardware import peak_flops  # noqa: E402
from tonsai_jax.runtime.xla import MEMORY_FRACTION  # noqa: E402

EXAMPLE = """examples:
  python scripts/bench/gpu.py --json gpu.json
  python scripts/bench/gpu.py --groups main variants --profile trace --json gpu_variants.json
  JAX_PLATFORMS=cpu python scripts/bench/gpu.py --toy
"""
LEAST_SECONDS = 20  # a part does not start with less time left


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--groups",
        nargs="+",
        choices=GROUPS,
        default=GROUPS,
        help="what to measure, in this order (default: all)",
    )
    add("--minutes", type=float, default=9.0, help="time limit for all parts together (default: 9)")
    add(
        "--profile",
        type=Path,
        metavar="DIR",
        help="write a trace of three steps of our fastest variant; 60 s are kept for it",
    )
    add("--toy", action="store_true", help="a size for a CPU: shows that it runs, measures nothing")
    add("--json", type=Path, metavar="FILE", help="also write the figures to this file, after each part")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    report = Report(args.json)
    with tempfile.TemporaryDirectory(prefix="gpu_bench_") as name:
        folder = Path(name)
        for part in parts(folder, toy=args.toy):
            if part.group in args.groups:
                report.run(part, folder, deadline - (60 if args.profile else 0))
        if args.profile:
            report.run(profile_part(report.rows, args.profile, toy=args.toy), folder, deadline)
    print("\n" + report.markdown(), flush=True)
    report.raise_what_failed()


def profile_part(rows: list[Row], folder: Path, *, toy: bool) -> Part:
    """The part that profiles our fastest case in `rows`, or our first case where none was timed."""
    ours = [row for row in merged(_steps(rows)) if row["library"] == "ours"]
    cases = [case for case in (*MAIN, *VARIANTS) if case.library == "ours"]
    if ours:
        best = max(ours, key=tokens_per_second)
        name = (best["model_name"], best["variant"], best["micro_batch"])
        cases = [case for case in cases if (case.model, case.variant, case.micro_batch) == name] or cases
    return case_part("profile", cases[0], toy=toy, trace=folder)


class Report:
    """The results so far, printed and written after each part."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.not_measured: list[Row] = []  # title, why, and whether it failed
        self.about: Row = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(["python", *sys.argv]),
            "python": platform.python_version(),
        }
        self._write()

    def run(self, part: Part, folder: Path, deadline: float) -> None:
        """Runs one part; its results become rows, and an error or a lack of time becomes a line of `not_measured`."""
        seconds = min(part.seconds, deadline - time.monotonic())
        if importlib.util.find_spec(part.needs) is None:
            self._missing(part.title, f"{part.needs} is not installed", failed=False)
        elif seconds < LEAST_SECONDS:
            self._missing(part.title, "no time left", failed=False)
        else:
            start = time.monotonic()
            rows, why = run_worker(part, folder, seconds)
            for row in rows:
                if row["part"] == "versions":
                    self.about |= {name: value for name, value in row.items() if name not in ("part", "failed")}
                else:
                    self.rows.append(_completed(row, part))
            print(f"{time.monotonic() - start:5.0f} s  {part.title}: {_in_short(rows)}", flush=True)
            if why:
                self._missing(part.title, why, failed=True)
        self._write()

    def markdown(self) -> str:
        return markdown(self.about, self.rows, self.not_measured, self._peak())

    def raise_what_failed(self) -> None:
        failed = [row["title"] for row in self.not_measured if row["failed"]]
        if failed:
            raise UserError(f"these parts failed, see the table for the reasons: {'; '.join(failed)}")
        difference = loss_difference(self.rows)
        if difference is not None and not difference <= LOSSES_AGREE_WITHIN:
            raise UserError(
                f"our losses and PyTorch's differ by {difference:.4f}; speeds mean nothing until they agree"
            )

    def _missing(self, title: str, why: str, *, failed: bool) -> None:
        print(f"  not measured  {title}: {why}", flush=True)
        self.not_measured.append({"title": title, "why": why, "failed": failed})

    def _peak(self) -> float | None:
        return peak_flops(self.about.get("device", ""))

    def _write(self) -> None:
        if self.path:
            cases = [
                {name: row[name] for name in ("model_name", "library", "variant", "micro_batch", "sequences")}
                | {"tokens_per_second": tokens_per_second(row)}
                for row in merged(_steps(self.rows))
            ]
            whole = {"about": self.about, "steps": cases, "rows": self.rows, "not_measured": self.not_measured}
            write_json(self.path, whole | {"peak_flops": self._peak(), "markdown": self.markdown()})


def run_worker(part: Part, folder: Path, seconds: float) -> tuple[list[Row], str]:
    """The results that the process of a part printed within `seconds`, and why it failed; "" where it did not."""
    command = [sys.executable, str(HERE / part.script), part.task, json.dumps(part.arguments)]
    with (folder / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(folder), start_new_session=True
        )
        try:
            printed, _ = process.communicate(timeout=seconds)
            why = "" if process.returncode == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            printed, _ = process.communicate()
            why = f"stopped after {seconds:.0f} s"
        except BaseException:  # Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            raise
        errors.seek(0)
        last_lines = [line for line in errors.read().splitlines() if line.strip()][-12:]
    if why.startswith("exit"):
        cause = [line for line in last_lines if "Error" in line or "RESOURCE_EXHAUSTED" in line]
        why += f": {one_line((cause or last_lines or ['no message'])[-1])}"
    rows = [json.loads(line.removeprefix(RESULT)) for line in printed.splitlines() if line.startswith(RESULT)]
    return rows, why


def environment(folder: Path) -> dict[str, str]:
    """One GPU, almost all of its memory for JAX, and caches of compiled programs that start empty."""
    theirs = {name: value for name, value in os.environ.items() if name not in MEMORY_FRACTION}
    return theirs | {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        MEMORY_FRACTION[1]: "0.92",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch_cache"),
    }


def _completed(row: Row, part: Part) -> Row:
    """A row with what its process may leave out: FLOPs by our formula, and the sequences of a step without accumulation."""
    if row["part"] != "steps":
        return row
    names = {field for field in ModelConfig.__dataclass_fields__}
    model = ModelConfig(**{name: value for name, value in part.arguments["model"].items() if name in names})
    return {"sequences": row["micro_batch"], "flops_per_token": model.flops_per_token(row["seq_len"])} | row


def _steps(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["part"] == "steps"]


def _in_short(rows: list[Row]) -> str:
    for row in rows:
        if row["part"] == "steps":
            return f"{row.get('sequences', row['micro_batch']) * row['seq_len'] / min(row['seconds']):,.0f} tokens/s"
    measured: list[Any] = [row for row in rows if row["part"] != "versions"]
    return f"{len(measured)} results"


if __name__ == "__main__":
    run_command(main)
