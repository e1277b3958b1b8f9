"""The workdir of a run, made in milliseconds: what a trainer of two languages would have written."""

import json
from pathlib import Path
from typing import Any

from tonsai_jax.config import default_config
from tonsai_jax.evaluation.task_scores import TaskScore, write_scores
from tonsai_jax.files import write_json
from tonsai_jax.saved_config import to_json

STEPS = 40


def make_run(workdir: Path, *, experts: int = 0, **keys: Any) -> Path:
    """A complete run of `STEPS` steps; `keys` are set in its config."""
    workdir.mkdir(parents=True)
    config = default_config()
    config.steps = STEPS
    config.model.num_experts = experts
    config.update(keys)
    write_json(workdir / "config.json", to_json(config))
    write_rows(workdir, metrics_rows(experts))
    for step in (0, 10, 20, 30, 40):
        samples = [
            {"prompt": "ប្រទេស", "continuation": f"កម្ពុជា {step}"},
            {"prompt": "Once", "continuation": "<b>upon</b>"},
        ]
        write_lines(workdir / "samples" / f"step-{step:06d}.jsonl", samples)
        suite = {"id": "q1", "kind": "question", "language": "km", "prompt": "តើ", "continuation": f"ចម្លើយ {step}"}
        write_lines(workdir / "prompt_suite" / f"step-{step:06d}.jsonl", [suite | {"checks": {"script_share": 1.0}}])
    scores = [
        TaskScore("hellaswag", "accuracy_characters", 0.3, 0.01, 0.28, 0.32, 500, chance=0.25),
        TaskScore("flores_km_en", "chrf++", 12.0, 0.4, 11.2, 12.8, 1012),
    ]
    write_scores(workdir, "tasks", STEPS, scores)
    split = {"rows": 4, "tokens": 5_000_001, "documents": 700, "bytes": 21_000_000, "files": []}
    sources = {
        name: {
            "weight": weight,
            "language": language,
            "license": "CC0-1.0",
            "splits": {"train": split, "validation": split},
        }
        for name, language, weight in (("stories_km", "km", 3.0), ("stories_en", "en", 1.0))
    }
    write_json(workdir / "data.json", {"row_tokens": 1024, "vocab_size": 8000, "sources": sources})
    starts: Any = [
        {
            "started": f"2026-01-0{day}T08:30:00+00:00",
            "start_step": start,
            "command": "train --config quickstart.py",
            "python": "3.12.3",
            "versions": {"jax": "0.12.0"},
            "platform": "Linux",
            "devices": devices,
            "device_kind": "NVIDIA H100",
            "processes": 1,
            "git": {"commit": "d1b0dff012345678", "changed": False},
        }
        for day, start, devices in ((1, 0, 8), (2, 20, 4))
    ]
    write_json(workdir / "environment.json", starts)
    write_json(workdir / "scores.json", {"20": 1.5, "40": 1.2})
    write_json(workdir / "complete.json", {"step": STEPS, "scores": {}, "samples": []})
    return workdir


def metrics_rows(experts: int = 0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(STEPS + 1):
        if step:
            rows.append(
                {
                    "step": step,
                    "time": 1e9 + step,
                    "train/loss": 5 - step / 10,
                    "train/grad_norm": 1.0 + step % 3,
                    "train/learning_rate": 1e-3,
                    "progress/tokens": 1000 * step,
                    "progress/flops": 1e12 * step,
                    "progress/hours": step / 10,
                    "data/epochs/stories_km": step / 20,
                    "speed/tokens_per_second": 1000.0,
                    "memory/peak_gib": 2.0,
                }
                | {f"train/router/expert_{number}": 1 / experts for number in range(experts)}
            )
        if step % 10 == 0:
            scores = {"eval/bits_per_byte/km": 2 - step / 50, "eval/bits_per_byte/en": 3 - step / 50}
            rows.append({"step": step, "time": 1e9 + step, "eval/prompts/script_share/km": step / 40} | scores)
    return rows


def write_rows(workdir: Path, rows: list[dict[str, Any]]) -> None:
    write_lines(workdir / "metrics.jsonl", rows)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
