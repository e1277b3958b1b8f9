"""The checkpoints of a run: what is in one, and how errors of the disk reach the user.

A checkpoint at step n holds three items: `params` (those that are trained: of LoRA only the adapters), `optimizer` (moments
and counts) and `progress`, the resume metadata (JSON: the step, where the data stands, the model's config, the run's config).
Saves run in the background. A folder gets its final name, the number of the step, when all of it is written, so the earlier
checkpoint stays whole until then.
"""

import math
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import psutil

from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, is_disk_full, read_json, write_json
from tonsai_jax.runtime.memory import return_freed_memory
from tonsai_jax.training.loss_scale import placed_scale
from tonsai_jax.training.state import TrainState

SCORES_FILE = "scores.json"
SANE_FILE = "sane_steps.json"
CheckpointStep = int | Literal["best"]  # how a user chooses a checkpoint


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    `read_only` leaves the folder as it is, so that a run that goes on there is not disturbed.
    """

    def __init__(self, workdir: Path, keep: KeepPolicy | None = None, *, read_only: bool = False):
        self.directory = workdir.absolute() / "checkpoints"
        self._scores_path = workdir.absolute() / SCORES_FILE
        self._keep = keep or KeepPolicy()
        if self._scores_path.is_file():
            self._keep.scores.update(_read_scores(self._scores_path))
        self._sane_path = workdir.absolute() / SANE_FILE
        self._keep.sane.update(_read_sane(self._sane_path))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep,
            cleanup_tmp_directories=not read_only,  # of a save that a killed run left half done
            create=False,  # not before the first save: a run that is refused leaves nothing behind
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, metadata: Mapping[str, Any]) -> None:
        """Starts to save in the background what `state` is now; waits first for an earlier save to end.

        Raises `UserError` where this save or the one before could not be written.
        """
        self.wait()
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        params, opt_state = state.params, state.opt_state
        if jax.default_backend() == "cpu" and _fits_twice((params, opt_state)):
            # There the save would read the state's own memory, and the next step, which reuses it, would wait for the
            # disk. A copy takes a tenth of the time. A GPU's state is copied to the host before `save` returns.
            params, opt_state = jax.tree.map(jnp.copy, (params, opt_state))
        try:
            self._manager.save(
                int(metadata["step"]),
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    optimizer=ocp.args.StandardSave(opt_state),
                    progress=ocp.args.JsonSave(dict(metadata)),
                ),
            )
        except Exception as error:
            raise self._explained(error) from error

    def wait(self) -> None:
        """Returns when the save in the background has its final name; raises `UserError` if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._explained(error) from error
        return_freed_memory()

    def best_step(self) -> int:
        """The step of the checkpoint with the best score; of equal ones the first. Raises `UserError` where none has a score."""
        steps = self._manager.all_steps()
        scored = sorted(step for step in steps if step in self._keep.scores)
        if not scored:
            there = ", ".join(map(str, sorted(steps))) or "none"
            raise UserError(
                f"{self.directory}: no checkpoint here was evaluated, so none is the best; there are: {there}. Evaluate at the "
                "steps that are saved (eval.every, checkpoint.every) and keep the best with checkpoint.keep_best=1"
            )
        return min(scored, key=lambda step: self._keep.scores[step])

    def record_score(self, step: int, score: float) -> None:
        """Records the score of the checkpoint at `step`, by which `keep_best` chooses; lower is better.

        A score that is not finite counts as the worst.
        """
        self.replace_scores({**self._keep.scores, step: score})

    def replace_scores(self, scores: Mapping[int, float]) -> None:
        """Records these scores in place of all earlier ones, which were of another metric."""
        worst = sys.float_info.max
        finite = {step: score if math.isfinite(score) else worst for step, score in scores.items()}
        self._keep.scores.clear()
        self._keep.scores.update(finite)
        if jax.process_index() == 0:
            write_json(self._scores_path, self._keep.scores)

    def drop_scores_after(self, step: int) -> None:
        """Forgets the scores of later steps, which a run that goes on from `step` takes again."""
        kept = {scored: score for scored, score in self._keep.scores.items() if scored <= step}
        if len(kept) < len(self._keep.scores):
            self.replace_scores(kept)

    def resume_metadata(self, step: int) -> dict[str, Any]:
        """The JSON part of the checkpoint at `step`; see `training.run.resume_metadata`."""
        return self._restore(step, progress=ocp.args.JsonRestore()).progress

    def restore_state(self, step: int, abstract: TrainState) -> TrainState:
        """The state at `step` without `frozen`, placed as `abstract` says, however it was placed when saved.

        Its loss scale is the first one; that of the run is in the metadata.
        """
        items = {"params": abstract.params, "optimizer": abstract.opt_state}
        restored = self._restore(step, **{name: ocp.args.StandardRestore(item) for name, item in items.items()})
        placed_step = jax.device_put(jnp.int32(step), abstract.step.sharding)
        scale = placed_scale(abstract.loss_scale)
        return TrainState(step=placed_step, params=restored.params, opt_state=restored.optimizer, loss_scale=scale)

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone."""
        return self._restore(step, params=ocp.args.StandardRestore(abstract_params)).params

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def sane_step(self) -> int | None:
        """The newest checkpoint that is marked as sane; None where none is."""
        return max(self._keep.sane & set(self._manager.all_steps()), default=None)

    def mark_sane(self, step: int) -> None:
        """Records that the steps after the checkpoint at `step` were sane, so that a run can go back to it."""
        self._replace_sane(self._keep.sane & set(self._manager.all_steps()) | {step})

    def drop_sane_after(self, step: int) -> None:
        """Forgets the marks of later steps, which a run that goes on from `step` takes again."""
        if any(marked > step for marked in self._keep.sane):
            self._replace_sane({marked for marked in self._keep.sane if marked <= step})

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first; waits first for a save to end."""
        self.wait()
        for later in sorted(self._manager.all_steps(), reverse=True):
            if later > step:
                self._manager.delete(later)
        self.drop_scores_after(step)

    def _replace_sane(self, steps: set[int]) -> None:
        self._keep.sane.clear()
        self._keep.sane.update(steps)
        if jax.process_index() == 0:
            write_json(self._sane_path, sorted(steps))

    def _restore(self, step: int, **items: Any) -> Any:
        if step not in (steps := self._manager.all_steps()):
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self.directory}: no checkpoint at step {step}; there are: {there}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{self.directory / str(step)}: this checkpoint cannot be read ({_first_line(error)}); "
                f"delete this folder to continue from the checkpoint before it"
            ) from error

    def _explained(self, error: Exception) -> Exception:
        text = str(error)
        words = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota", "File too large")  # of TensorStore
        if is_disk_full(error) or any(word in text for word in words):
            free = shutil.disk_usage(self.directory).free / 1e9
            return UserError(
                f"{self.directory}: the disk is full ({free:.1f} GB free), the new checkpoint was not written; the earlier "
                f"ones are whole. Free some space and run the same command again: it continues from the last one"
            )
        return error


def _read_scores(path: Path) -> dict[int, float]:
    try:
        return {int(step): float(score) for step, score in read_json(path).items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{path}: does not hold the scores of checkpoints; delete it, and only the order of the best checkpoints is lost"
        ) from None


def _read_sane(path: Path) -> set[int]:
    if not path.is_file():
        return set()
    try:
        return {int(step) for step in read_json(path)}
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: does not hold the steps of checkpoints; delete it, and the next checkpoints are marked again"
        ) from None


def _fits_twice(tree: Any) -> bool:
    """Whether the host has free memory for a copy of the arrays and as much again, which writing them takes."""
    return psutil.virtual_memory().available > 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line.partition(" [tensorstore_spec")[0], 300)  # TensorStore adds its whole configuration
