"""Measures the report of a long run: makes a workdir with metrics as such a run writes them, and times `tonsai report` on it."""

import argparse
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tonsai_jax.config import default_config
from tonsai_jax.errors import run_command
from tonsai_jax.evaluation.task_scores import TaskScore, write_scores
from tonsai_jax.files import write_json
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.saved_config import to_json

EXAMPLE = """example:
  python scripts/bench/report.py --steps 100000 --log-every 10
  python scripts/bench/report.py --steps 100000 --log-every 1 --keep /tmp/long_run
"""
LANGUAGES = ("km", "en", "th", "vi")
EXPERTS = 8
TOKENS_PER_STEP = 131_072
KHMER = "ប្រទេសកម្ពុជា ស្ថិតនៅក្នុងតំបន់អាស៊ីអាគ្នេយ៍ ហើយមានព្រំប្រទល់ជាប់នឹងប្រទេសថៃ ឡាវ និងវៀតណាម។ "
ENGLISH = "Once upon a time there was a small village by a large river, and everybody who lived there fished. "


def make_workdir(workdir: Path, steps: int, log_every: int) -> None:
    """Writes what a mixture of experts on four languages leaves behind: metrics, samples, scores, data, environment."""
    random.seed(0)
    workdir.mkdir(parents=True, exist_ok=True)
    config = default_config()
    config.steps, config.global_batch_size, config.log_every = steps, 128, log_every
    config.model.num_experts = EXPERTS
    write_json(workdir / "config.json", to_json(config))
    with (workdir / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for row in _rows(steps, log_every):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for step in range(0, steps + 1, max(1, steps // 20)):
        _write_lines(workdir / "samples" / f"step-{step:06d}.jsonl", _samples(step))
        _write_lines(workdir / "prompt_suite" / f"step-{step:06d}.jsonl", _suite(step))
    write_scores(workdir, "scorecard", steps, _scores())
    split = {"rows": 1000, "tokens": 3_000_000_000, "documents": 2_500_000, "bytes": 14_000_000_000, "files": []}
    sources = {
        f"{name}_text": {
            "weight": 0.25,
            "language": name,
            "license": "CC0-1.0",
            "splits": {"train": split, "validation": split},
        }
        for name in LANGUAGES
    }
    write_json(workdir / "data.json", {"row_tokens": 8192, "vocab_size": 64_000, "sources": sources})
    environment = [
        {
            "started": f"2026-01-0{number + 1}T08:30:00+00:00",
            "start_step": number * steps // 3,
            "command": "python -m tonsai_jax.train --config configs/moe_1b.py",
            "python": "3.12.3",
            "versions": {"jax": "0.12.0", "flax": "0.12.1"},
            "platform": "Linux-6.8-x86_64",
            "devices": 8,
            "device_kind": "NVIDIA H100 80GB HBM3",
            "processes": 1,
            "host_memory_gib": 1024.0,
            "git": {"commit": "d1b0dff0123456789", "changed": number == 2},
        }
        for number in range(3)
    ]
    write_json(workdir / "environment.json", environment)  # type: ignore[arg-type]


def _rows(steps: int, log_every: int) -> Iterator[dict[str, Any]]:
    started = 1_767_225_600.0
    for step in range(0, steps + 1, log_every):
        done = step / steps
        if step:
            load = [1 / EXPERTS + random.gauss(0, 0.01) + 0.05 * math.exp(-8 * done) * (e == 0) for e in range(EXPERTS)]
            yield {
                "step": step,
                "time": round(started + step, 3),
                "train/loss": 2.4
                + 8 * math.exp(-12 * done**0.5)
                + random.gauss(0, 0.05)
                + 3 * (random.random() < 2e-4),
                "train/grad_norm": math.exp(random.gauss(-1, 0.3)) + 40 * (random.random() < 2e-4),
                "train/learning_rate": 6e-4 * min(1.0, 50 * done) * (0.55 + 0.45 * math.cos(math.pi * done)),
                "train/skipped_steps": 0,
                "train/router/load_balance": 1 + abs(random.gauss(0, 0.01)),
                "train/router/dropped": abs(random.gauss(0, 0.002)),
                "train/router/entropy": 1.2 + random.gauss(0, 0.02),
                "train/router/busiest": EXPERTS * max(load),
                **{f"train/router/expert_{number}": share for number, share in enumerate(load)},
                "progress/tokens": step * TOKENS_PER_STEP,
                "progress/flops": step * TOKENS_PER_STEP * 7.4e9,
                "progress/hours": step * 0.9 / 3600,
                **{f"data/epochs/{name}_text": 2 * done * (1 + n / 4) for n, name in enumerate(LANGUAGES)},
                "speed/tokens_per_second": 145_000 + random.gauss(0, 2000),
                "speed/tflops_per_second": 1073 + random.gauss(0, 15),
                "speed/mfu": 0.135 + random.gauss(0, 0.002),
                "memory/peak_gib": 61.5,
            }
        if step % max(log_every, steps // 100) == 0:
            row: dict[str, Any] = {"step": step, "time": round(started + step, 3)}
            for number, name in enumerate(LANGUAGES):
                score = 0.7 + 0.1 * number + 1.6 * math.exp(-9 * done**0.5)
                row |= {f"eval/bits_per_byte/{name}": score, f"eval/bits_per_byte/source/{name}_text": score}
                row |= {f"eval/prompts/script_share/{name}": 1 - 0.6 * math.exp(-6 * done)}
                row |= {f"eval/prompts/distinct_2/{name}": 0.8 - 0.5 * math.exp(-9 * done)}
            yield row | {"eval/bits_per_byte": 0.85 + 1.6 * math.exp(-9 * done**0.5)}


def _samples(step: int) -> list[dict[str, Any]]:
    return [
        {"prompt": KHMER[:13], "continuation": KHMER * 2 + str(step)},
        {"prompt": ENGLISH[:16], "continuation": ENGLISH * 2},
    ]


def _suite(step: int) -> list[dict[str, Any]]:
    kinds = ("continuation", "question", "translation", "summary", "instruction", "numerals", "dates", "names")
    return [
        {
            "id": f"{kind}_{language}_{number}",
            "kind": kind,
            "language": language,
            "prompt": (KHMER if language == "km" else ENGLISH)[: 40 + number],
            "continuation": (KHMER if language == "km" else ENGLISH) * 3 + str(step),
            "checks": {"script_share": 0.9, "distinct_2": 0.7},
        }
        for kind in kinds
        for language in ("km", "en")
        for number in range(3)
    ]


def _scores() -> list[TaskScore]:
    return [
        TaskScore("belebele_km", "accuracy", 0.291, 0.015, 0.262, 0.321, 900, chance=0.25),
        TaskScore("belebele_en", "accuracy", 0.262, 0.0147, 0.233, 0.291, 900, chance=0.25),
        TaskScore("sib200_km", "accuracy", 0.412, 0.034, 0.345, 0.479, 204, chance=1 / 7),
        TaskScore("hellaswag", "accuracy_characters", 0.334, 0.0047, 0.325, 0.343, 10_042, chance=0.25),
        TaskScore("flores_km_en", "chrf++", 14.2, 0.3, 13.6, 14.8, 1012),
    ]


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the run (default: %(default)s)")
    parser.add_argument(
        "--log-every", type=int, default=10, help="steps between rows of metrics (default: %(default)s)"
    )
    parser.add_argument("--times", type=int, default=3, help="reports made; the median is shown (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=None, metavar="DIR", help="make the workdir here and keep it")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = args.keep or Path(folder) / "run"
        make_workdir(workdir, args.steps, args.log_every)
        seconds, cpu_seconds = [], []
        for _ in range(args.times):
            began, used = time.perf_counter(), _seconds_of_children()
            command = [sys.executable, "-m", "tonsai_jax", "report", "--workdir", str(workdir), "--price", "2.5"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(_seconds_of_children() - used)
        figures = {
            "steps": args.steps,
            "metrics_mb": (workdir / "metrics.jsonl").stat().st_size / 1e6,
            "seconds": statistics.median(seconds),
            "cpu_seconds": statistics.median(cpu_seconds),
            "page_mb": (workdir / "report.html").stat().st_size / 1e6,
        }
    cells = [
        f"{figures['steps']:,}",
        *(f"{figures[name]:.2f}" for name in ("metrics_mb", "seconds", "cpu_seconds", "page_mb")),
    ]
    print(
        as_text(Table("", ["steps", "metrics.jsonl MB", "seconds", "CPU seconds", "report.html MB"], [cells], "rrrrr"))
    )
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    run_command(main)
