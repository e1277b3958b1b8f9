"""Where a run's numbers go: metrics.jsonl and TensorBoard always, Weights & Biases when asked."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.files import atomic_write, disk_errors

# tensorboardX imports PyTorch wherever it finds it, which takes two seconds; what is used here does not need it.
without_torch = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]  # None: an import of it fails
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.proto.summary_pb2 import Summary  # noqa: E402
from tensorboardX.summary import text as text_summary  # noqa: E402

if without_torch:
    del sys.modules["torch"]


class MetricsWriter:
    """Writes scalars by step to every place that was asked for; on the first host only.

    What an earlier run wrote past `start_step`, the checkpoint that this one goes on from, is dropped: those steps are
    taken again.

    Attributes:
      last_progress: the last row with `progress/tokens` of those that stay; empty for a run that begins, and on other hosts.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        active: bool,
        wandb_project: str,
        wandb_name: str,
        config: Mapping[str, Any],
    ) -> None:
        self._active = active
        self._wandb: Any = None
        self.last_progress: dict[str, Any] = {}
        if not active:
            return
        self._path = workdir / "metrics.jsonl"
        with disk_errors(self._path):
            workdir.mkdir(parents=True, exist_ok=True)
            # A new run also measures the model that it continues from again.
            kept = _drop_rows_after(self._path, start_step or -1)
            self.last_progress = next((row for row in reversed(kept) if row.get("progress/tokens") is not None), {})
            self._jsonl = self._path.open("a", encoding="utf-8")
            # Not tensorboardX's SummaryWriter: a full disk ends its thread, and then the run waits for it forever.
            (workdir / "tensorboard").mkdir(exist_ok=True)
            self._tensorboard = EventsWriter(str(workdir / "tensorboard" / "events"))
            from_here = SessionLog(status=SessionLog.START)  # hides what an earlier run wrote at this step and after
            self._tensorboard.write_event(Event(step=start_step + 1 if start_step else 0, session_log=from_here))
        if wandb_project:
            self._wandb = _start_wandb(workdir, wandb_project, wandb_name, config)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes `scalars` under `step`; a value that is not finite is null in the JSON."""
        if not self._active:
            return
        row: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        with disk_errors(self._path):
            self._jsonl.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._jsonl.flush()
            values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._write_event(step, Summary(value=values))
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=step)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Writes `text` to TensorBoard."""
        if self._active:
            with disk_errors(self._path):
                self._write_event(step, text_summary(name, text))

    def close(self) -> None:
        if self._active:
            self._jsonl.close()
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write_event(self, step: int, summary: Summary) -> None:
        self._tensorboard.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._tensorboard.flush()


def _drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Returns the rows that stay."""
    if not path.is_file():
        return []
    kept, rows = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if row["step"] <= step:
                kept.append(line)
                rows.append(row)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the last line of a killed run
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return rows


def _start_wandb(workdir: Path, project: str, name: str, config: Mapping[str, Any]) -> Any:
    import wandb

    name = name or workdir.name
    return wandb.init(project=project, name=name, id=name, dir=str(workdir), resume="allow", config=dict(config))
