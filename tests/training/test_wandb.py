"""Weights & Biases gets what metrics.jsonl gets, under the same names and steps, and cannot end a run."""

import json
import logging
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.training.metrics import MetricsWriter


class Wandb(types.ModuleType):
    """Stands in for the module, and for the run that its `init` returns."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.axes: dict[str, dict[str, Any]] = {}
        self.finished = self.fails = False

    def init(self, **settings: Any) -> "Wandb":
        if self.fails:
            raise RuntimeError("No API key configured.\n  Use `wandb login` to log in.")
        self.started = settings
        return self

    def define_metric(self, name: str, **settings: Any) -> None:
        self.axes[name] = settings

    def log(self, row: dict[str, Any]) -> None:
        """As the real one it has an argument `step`, but drops rows where that goes back: it must not be used."""
        if self.fails:
            raise RuntimeError("the connection is lost")
        self.rows.append(row)

    def finish(self) -> None:
        if self.fails:
            raise RuntimeError("the connection\nis lost")
        self.finished = True

    @staticmethod
    def Table(columns: list[str], data: list[list[str]]) -> dict[str, Any]:  # noqa: N802  # as wandb calls it
        return {"columns": columns, "data": data}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def writer(workdir: Path, start_step: int = 0) -> MetricsWriter:
    return MetricsWriter(
        workdir, start_step=start_step, active=True, wandb_project="khmer", wandb_name="", config={"seed": 3}
    )


def test_it_gets_the_rows_of_metrics_jsonl_also_those_that_a_resumed_run_does_again(
    tmp_path: Path, wandb: Wandb
) -> None:
    workdir = tmp_path / "mine"
    out = writer(workdir)
    for step in (5, 10, 15):
        out.write(step, {"train/loss": 1.0 / step, "progress/tokens": 100 * step})
        out.write(step, {"eval/bits_per_byte/km": 2.0})
    out.close()
    first = wandb.rows
    wandb.rows = []
    out = writer(workdir, start_step=10)
    out.write(15, {"train/loss": 1.0 / 15, "progress/tokens": 1500})
    out.close()
    written = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in written:
        del row["time"]
    assert first[:4] + wandb.rows == written
    assert (wandb.started["id"], wandb.started["resume"], wandb.started["project"]) == ("mine", "allow", "khmer")
    assert wandb.started["config"] == {"seed": 3}
    assert wandb.axes["*"] == {"step_metric": "step"}
    assert wandb.finished


def test_samples_are_a_table(tmp_path: Path, wandb: Wandb) -> None:
    out = writer(tmp_path)
    out.write_samples(500, [("ប្រទេស", "កម្ពុជា"), ("Once", " upon a time")])
    out.close()
    table = {"columns": ["prompt", "continuation"], "data": [["ប្រទេស", "កម្ពុជា"], ["Once", " upon a time"]]}
    assert wandb.rows == [{"step": 500, "samples": table}]


def test_where_it_does_not_start_the_run_is_refused_with_the_ways_out(tmp_path: Path, wandb: Wandb) -> None:
    wandb.fails = True
    wanted = (
        "wandb.project='khmer': Weights & Biases does not start (No API key configured. Use `wandb login` to log in.); run "
        "`wandb login`, or set WANDB_MODE=offline and upload later with `wandb sync`, or leave wandb.project empty"
    )
    with pytest.raises(UserError, match=f"^{re.escape(wanted)}$"):
        writer(tmp_path)


def test_where_it_fails_later_the_run_goes_on_without_it(
    tmp_path: Path, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    out = writer(tmp_path)
    wandb.fails = True
    with caplog.at_level(logging.WARNING, logger="tonsai_jax"):
        for step in (1, 2):
            out.write(step, {"train/loss": 1.0})
            out.write_samples(step, [("a", "b")])
    out.close()
    [line] = caplog.messages
    assert line == "step 1: Weights & Biases stopped, training continues (the connection is lost)"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_where_it_fails_at_the_end_the_run_still_ends_well(
    tmp_path: Path, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    out = writer(tmp_path)
    out.write(1, {"train/loss": 1.0})
    wandb.fails = True
    with caplog.at_level(logging.WARNING, logger="tonsai_jax"):
        out.close()
    [line] = caplog.messages
    assert line == (
        "Weights & Biases did not finish, what the run wrote is whole; upload the rest with `wandb sync` (the connection is lost)"
    )
