"""Speed and correctness on one GPU, compared with PyTorch and Transformers: one command that writes Markdown and JSON.

It needs JAX, Flax and Optax, and PyTorch and Transformers for the comparison. It needs no other dependency of this project, and
runs from a plain checkout. Each part runs in its own process with a time limit, so that no part holds memory while the next one
runs, and a part that fails costs one line. The JSON file is written after each result: whatever ends this command, and whenever,
the file has what was measured until then, and no process stays behind on the GPU.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # a plain checkout is enough

from tonsai_jax.interrupts import end_at_signals  # noqa: E402  # after the path

if __name__ == "__main__":
    end_at_signals()  # the imports below take a second

from gpu_cases import CHECK, FLAGS, GROUPS, MAIN, VARIANTS, Part, case_part, parts  # noqa: E402
from gpu_process import Ending, StoppedError, run_worker, working_folder  # noqa: E402
from gpu_report import (  # noqa: E402
    LOSSES_AGREE_WITHIN,
    Row,
    in_short,
    loss_difference,
    markdown,
    merged,
    tokens_per_second,
)
from gpu_worker import NEEDS_GPU  # noqa: E402

from tonsai_jax.errors import UserError, run_command  # noqa: E402
from tonsai_jax.files import file_to_write, remove_left_behind, write_json  # noqa: E402
from tonsai_jax.model.config import ModelConfig  # noqa: E402
from tonsai_jax.runtime.hardware import peak_flops  # noqa: E402

EXAMPLE = """examples:
  python scripts/bench/gpu.py --groups losses main --json gpu_main.json
  python scripts/bench/gpu.py --groups kernels transformers --json gpu_kernels.json
  python scripts/bench/gpu.py --groups variants --json gpu_variants.json
  python scripts/bench/gpu.py --groups flags --profile trace --json gpu_flags.json
  JAX_PLATFORMS=cpu python scripts/bench/gpu.py --toy
"""
LEAST_SECONDS = 20  # a part does not start with less time left
PROFILE_SECONDS = 60


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
        help="what to measure (default: all, in this order, while time is left)",
    )
    add("--minutes", type=float, default=9.0, help="time limit for all parts together (default: 9)")
    add(
        "--profile",
        type=Path,
        metavar="DIR",
        help=f"write a trace of three steps of our fastest variant; {PROFILE_SECONDS} s are kept for it",
    )
    add("--toy", action="store_true", help="a size for a CPU: shows that it runs, measures nothing")
    add("--json", type=file_to_write, metavar="FILE", help="also write the figures to this file, after each result")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    report = Report(args.json)
    ending = Ending()
    try:
        with working_folder() as folder:
            measure(report, folder, ending, deadline, args)
    except StoppedError as stopped:
        where = f"; {args.json} has what was measured" if args.json else ""
        print(f"{stopped}{where}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    print("\n" + report.markdown(), flush=True)
    report.raise_what_failed()


def measure(report: "Report", folder: Path, ending: Ending, deadline: float, args: argparse.Namespace) -> None:
    """Runs the parts of the chosen groups. Raises `UserError` where there is no GPU, `StoppedError` after a signal."""
    if not args.toy:
        os.environ[NEEDS_GPU] = "1"  # for the workers
        report.run(CHECK, folder, ending, deadline - time.monotonic())
        report.raise_if_no_gpu()
    chosen = [part for part in parts(folder, toy=args.toy) if part.group in args.groups]
    for number, part in enumerate(chosen):
        left = deadline - time.monotonic() - (PROFILE_SECONDS if args.profile else 0)
        report.run(part, folder, ending, time_limit(part, chosen[number + 1 :], left))
    if args.profile:
        report.run(profile_part(report.rows, args.profile, toy=args.toy), folder, ending, deadline - time.monotonic())


def time_limit(part: Part, later: Sequence[Part], left: float) -> float:
    """The seconds that `part` may take of those that are left: all but the time limits of the `later` parts that still fit.

    So what one part leaves over is there for a slower one, and a part that hangs takes nothing from the others.
    """
    kept = 0.0
    for other in later:
        if part.seconds + kept + other.seconds <= left:
            kept += other.seconds
    return left - kept


def profile_part(rows: list[Row], folder: Path, *, toy: bool) -> Part:
    """The part that profiles our fastest case in `rows`, or our first case where none was timed."""
    ours = [row for row in merged(_steps(rows)) if row["library"] == "ours"]
    cases = [case for case in (*MAIN, *VARIANTS, *FLAGS) if case.library == "ours"]
    if ours:
        best = max(ours, key=tokens_per_second)
        name = (best["model_name"], best["variant"], best["micro_batch"])
        cases = [case for case in cases if (case.model, case.variant, case.micro_batch) == name] or cases
    return case_part("profile", cases[0], toy=toy, trace=folder)


class Report:
    """The results so far, printed and written as they come."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.not_measured: list[Row] = []  # title, why, whether it failed, and the last lines of its stderr
        self.about: Row = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(["python", *sys.argv]),
            "python": platform.python_version(),
        }
        if path:
            with suppress(ModuleNotFoundError):  # psutil, which tells whether the process that left a file still lives
                remove_left_behind(path.parent, path.name)
        self._write()

    def run(self, part: Part, folder: Path, ending: Ending, seconds: float) -> None:
        """Runs one part; its results become rows, and an error or a lack of time becomes a line of `not_measured`.

        Raises `StoppedError` after a signal.
        """
        ending.check()
        if importlib.util.find_spec(part.needs) is None:
            self._missing(part.title, f"{part.needs} is not installed", failed=False)
        elif seconds < LEAST_SECONDS:
            self._missing(part.title, "no time left", failed=False)
        else:
            start = time.monotonic()

            def take(row: Row) -> None:
                self._add(row, part)
                if text := in_short(row):
                    print(f"{time.monotonic() - start:5.0f} s  {part.title}: {text}", flush=True)

            why, last_lines = run_worker(part, folder, seconds, ending, take)
            if why:
                self._missing(part.title, why, failed=True, stderr=last_lines)
        ending.check()

    def raise_if_no_gpu(self) -> None:
        """Raises `UserError` where the part CHECK has not succeeded."""
        whys = [row["why"] for row in self.not_measured if row["title"] == CHECK.title]
        if whys:
            raise UserError(
                f"no GPU that JAX can use ({whys[0]}); install `jax[cuda13]` on a machine with an NVIDIA GPU, or try the command "
                "on a CPU: JAX_PLATFORMS=cpu python scripts/bench/gpu.py --toy"
            )

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

    def _add(self, row: Row, part: Part) -> None:
        if row["part"] == "versions":
            self.about |= {name: value for name, value in row.items() if name not in ("part", "failed")}
        else:
            self.rows.append(_completed(row, part))
        self._write()

    def _missing(self, title: str, why: str, *, failed: bool, stderr: Sequence[str] = ()) -> None:
        self.not_measured.append({"title": title, "why": why, "failed": failed, "stderr": stderr})
        self._write()
        print(f"  not measured  {title}: {why}", flush=True)

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


def _completed(row: Row, part: Part) -> Row:
    """A row with what its process may leave out: FLOPs by our formula, and the sequences of a step without accumulation."""
    if row["part"] != "steps":
        return row
    names = {field for field in ModelConfig.__dataclass_fields__}
    model = ModelConfig(**{name: value for name, value in part.arguments["model"].items() if name in names})
    return {"sequences": row["micro_batch"], "flops_per_token": model.flops_per_token(row["seq_len"])} | row


def _steps(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["part"] == "steps"]


if __name__ == "__main__":
    run_command(main)
