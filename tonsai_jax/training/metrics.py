"""Where a run's numbers go: metrics.jsonl and TensorBoard always, Weights & Biases when asked."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write, disk_errors
from tonsai_jax.reporting.metrics_file import row_of, warn_of_damage

if TYPE_CHECKING:
    from tonsai_jax.training.terminal import TerminalView

# tensorboardX imports PyTorch wherever it finds it, which takes two seconds; what is used here does not need it.
without_torch = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]  # None: an import of it fails
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.proto.summary_pb2 import Summary  # noqa: E402
from tensorboardX.summary import text as text_summary  # noqa: E402

if without_torch:
    del sys.modules["torch"]

_logger = logging.getLogger("tonsai_jax")


class MetricsWriter:
    """Writes scalars by step to every place that was asked for; on the first host only.

    What an earlier run wrote past `start_step`, the checkpoint that this one goes on from, is dropped: those steps are
    taken again.

    Attributes:
      last_progress: the last row with `progress/tokens` of those that stay; empty for a run that begins, and on other hosts.
      at_start: what was measured at `start_step` before this process began, by name. It is not written a second time.
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
        view: "TerminalView | None" = None,
    ) -> None:
        self._active = active
        self._view = view
        self._wandb: Any = None
        self._start_step = start_step
        self.last_progress: dict[str, Any] = {}
        self.at_start: dict[str, Any] = {}
        if not active:
            return
        self._path = workdir / "metrics.jsonl"
        with disk_errors(self._path):
            workdir.mkdir(parents=True, exist_ok=True)
            # A new run also measures the model that it continues from again.
            self.last_progress, self.at_start = _drop_rows_after(self._path, start_step or -1)
            self._jsonl = self._path.open("a", encoding="utf-8")
            # Not tensorboardX's SummaryWriter: a full disk ends its thread, and then the run waits for it forever.
            (workdir / "tensorboard").mkdir(exist_ok=True)
            self._tensorboard = EventsWriter(str(workdir / "tensorboard" / "events"))
            from_here = SessionLog(status=SessionLog.START)  # hides what an earlier run wrote at this step and after
            self._tensorboard.write_event(Event(step=start_step + 1 if start_step else 0, session_log=from_here))
        if wandb_project:
            self._wandb = _start_wandb(workdir, wandb_project, wandb_name, config)

    def go_back(self, step: int) -> None:
        """Drops what was written past `step`, from which the run goes on; `last_progress` is that of the rows that stay."""
        if not self._active:
            return
        with disk_errors(self._path):
            self._jsonl.close()
            self.last_progress, self.at_start = _drop_rows_after(self._path, step)
            self._start_step = step
            self._jsonl = self._path.open("a", encoding="utf-8")
            from_here = SessionLog(status=SessionLog.START)
            self._tensorboard.write_event(Event(step=step + 1, session_log=from_here))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes `scalars` under `step`; a value that is not finite is null in the JSON."""
        if not self._active:
            return
        if step == self._start_step and self.at_start:
            scalars = {name: value for name, value in scalars.items() if name not in self.at_start}
            if not scalars:
                return
        row: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        with disk_errors(self._path):
            self._jsonl.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._jsonl.flush()
            values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._write_event(step, Summary(value=values))
        if self._view is not None:
            self._view.row(step, scalars)
        self._log(step, dict(scalars))

    def write_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Writes samples, each a prompt and its continuation, under the name `samples`; metrics.jsonl does not have them."""
        if not self._active:
            return
        from tonsai_jax.reporting.samples import sample_text  # imported here: most runs sample only at their end

        with disk_errors(self._path):
            self._write_event(step, text_summary("samples", "\n\n".join(sample_text(*sample) for sample in samples)))
        if self._view is not None:
            self._view.samples(samples)
        if self._wandb is not None:
            import wandb

            self._log(step, {"samples": wandb.Table(columns=["prompt", "continuation"], data=[*map(list, samples)])})

    def close(self) -> None:
        if self._active:
            self._jsonl.close()
            self._tensorboard.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                _logger.warning(
                    "Weights & Biases did not finish, what the run wrote is whole; upload the rest with `wandb sync` (%s)",
                    " ".join(str(error).split()),
                )

    def _log(self, step: int, values: dict[str, Any]) -> None:
        """Sends a row to Weights & Biases. Its step is one of the values: W&B's own step drops what a resumed run does again."""
        if self._wandb is None:
            return
        try:
            self._wandb.log({"step": step, **values})
        except Exception as error:
            _logger.warning("step %d: Weights & Biases stopped, training continues (%s)", step, error)
            self._wandb = None

    def _write_event(self, step: int, summary: Summary) -> None:
        self._tensorboard.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._tensorboard.flush()


def _drop_rows_after(path: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the last row with `progress/tokens` of those that stay, and everything that was measured at `step`.

    Drops damaged lines too. Holds one row at a time: a long run has many.
    """
    last: dict[str, Any] = {}
    at_step: dict[str, Any] = {}
    if not path.is_file():
        return last, at_step
    num_damaged, is_damaged = 0, False
    with path.open("rb") as lines, atomic_write(path) as partial, partial.open("wb") as kept:
        for line in lines:
            num_damaged += int(is_damaged)  # not the last line: a killed run can leave half of it
            row = row_of(line)
            is_damaged = row is None
            if row is None or row["step"] > step:
                continue
            kept.write(line.rstrip(b"\n") + b"\n")
            if row.get("progress/tokens") is not None:
                last = row
            if row["step"] == step:
                at_step |= row
    warn_of_damage(path, num_damaged)
    return last, at_step


def _start_wandb(workdir: Path, project: str, name: str, config: Mapping[str, Any]) -> Any:
    """Raises `UserError` where W&B cannot start: it knows no key, or does not reach its server."""
    import wandb

    name = name or workdir.name
    try:
        run = wandb.init(project=project, name=name, id=name, dir=str(workdir), resume="allow", config=dict(config))
    except Exception as error:
        raise UserError(
            f"wandb.project={project!r}: Weights & Biases does not start ({' '.join(str(error).split())}); run `wandb login`, or "
            "set WANDB_MODE=offline and upload later with `wandb sync`, or leave wandb.project empty"
        ) from error
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run
