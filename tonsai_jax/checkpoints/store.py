"""The checkpoints of a run: what is in one, and how errors of the disk reach the user.

A checkpoint at step n holds three items: `params` (those that are trained: of LoRA only the adapters), `optimizer` (moments
and counts) and `progress`, the resume metadata (JSON: the step, where the data stands, the model's config, the run's config).
Saves run in the background. A folder gets its final name, the number of the step, when all of it is written, so the earlier
checkpoint stays whole until then. Before that the checksums of its files are written into it (`checksums.py`), and what is
read from it later is compared with them first.
"""

import contextlib
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import psutil

from tonsai_jax.checkpoints.checksums import add_late_files, is_fault_of_storage, write_checksums
from tonsai_jax.checkpoints.folder import HAS_CHECKSUMS, IS_TEMPORARY, stored_checkpoint, stored_checkpoints
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.overview import SANE_FILE, SCORES_FILE, read_sane_steps, read_scores
from tonsai_jax.checkpoints.resume import damage_anywhere, move_damaged, newest_whole
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.files import disk_errors, is_disk_full, write_json
from tonsai_jax.hosts.first_process import works_alone
from tonsai_jax.runtime.memory import is_out_of_memory, return_freed_memory
from tonsai_jax.training.loss_scale import placed_scale
from tonsai_jax.training.state import TrainState

CheckpointStep = int | Literal["best"]  # how a user chooses a checkpoint


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    `read_only` leaves the folder as it is, so that a run that goes on there is not disturbed. `every_minutes` is for `is_due`.
    """

    def __init__(
        self, workdir: Path, keep: KeepPolicy | None = None, *, read_only: bool = False, every_minutes: float = 0
    ):
        self._workdir = workdir.absolute()
        self.directory = workdir.absolute() / "checkpoints"
        self._scores_path = workdir.absolute() / SCORES_FILE
        self._keep = keep or KeepPolicy()
        self._sane_path = workdir.absolute() / SANE_FILE
        self._keep.sane.update(read_sane_steps(self._workdir))
        self._keep.scores.update(read_scores(self._workdir))
        self._keep.temporary.update(found.step for found in stored_checkpoints(workdir) if found.is_temporary)
        self._every_seconds = every_minutes * 60
        self._saved_at = time.monotonic()
        self._saving: int | None = None  # the step of the save in the background
        self._verified: set[int] = set()  # the steps found whole just now, whose state is still to be read
        processes = {0} if works_alone() else None  # None: all of them, who wait for each other
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep,
            cleanup_tmp_directories=not read_only,  # of a save that a killed run left half done
            create=False,  # not before the first save: a run that is refused leaves nothing behind
            read_only=read_only,
            lightweight_initialize=True,  # else a damaged file about one checkpoint would hide all of them
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_final_name),
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=processes),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def resume_step(self, say: Callable[[str], None]) -> int | None:
        """The step of the newest whole checkpoint, see `newest_whole`; None where there never was one."""
        found = newest_whole(self._workdir, say)
        if found is None:
            return None
        self._manager.reload()  # damaged ones may have been moved away
        self._verified.add(found.step)
        return found.step

    def save(self, state: TrainState, metadata: Mapping[str, Any], *, is_temporary: bool = False) -> None:
        """Starts to save in the background what `state` is now; waits first for an earlier save to end.

        A temporary one is deleted when the next one is whole, see `KeepPolicy`.

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
        step = int(metadata["step"])
        self._keep.temporary.discard(step)
        if is_temporary:
            self._keep.temporary.add(step)
        self._saving, self._saved_at = step, time.monotonic()
        with self._errors_of_a_save():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    optimizer=ocp.args.StandardSave(opt_state),
                    progress=ocp.args.JsonSave(dict(metadata)),
                ),
                custom_metadata={HAS_CHECKSUMS: True, IS_TEMPORARY: is_temporary},
            )

    def is_due(self) -> bool:
        """Whether `every_minutes` minutes have passed since the last save, or since the start; never where they are 0."""
        return 0 < self._every_seconds <= time.monotonic() - self._saved_at

    def check(self) -> None:
        """Ends a save in the background if it is done; raises `UserError` if it failed. Costs nothing while it goes on."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when the save in the background has its final name; raises `UserError` if it failed."""
        try:
            with self._errors_of_a_save():
                self._manager.wait_until_finished()
                self._manager.check_for_errors()
            if self._saving is not None and jax.process_index() == 0:
                folder = self.directory / str(self._saving)
                with disk_errors(folder):
                    add_late_files(folder)
        finally:
            self._saving = None
        return_freed_memory()

    @property
    def has_scores(self) -> bool:
        """Whether a checkpoint has a score."""
        return bool(self._keep.scores)

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
        self._verified.discard(step)  # a run that goes back to it days later reads it again
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

    def whole_sane_step(self, say: Callable[[str], None]) -> int | None:
        """The newest sane checkpoint that is whole; None where none is. Damaged ones are moved away, but for the last one left.

        All processes of a run must call it together.
        """
        while (step := self.sane_step()) is not None:
            found = stored_checkpoint(self.directory / str(step))
            if (damage := damage_anywhere(found)) is None:
                self._verified.add(step)
                return step
            if len(self._manager.all_steps()) == 1:
                say(f"{found.folder}: this checkpoint is damaged ({damage}), and no other one is left")
                return None
            moved = move_damaged(self._workdir, found)
            say(f"{found.folder}: this checkpoint is damaged ({damage}); it was moved to {moved}")
            self._manager.reload()
        return None

    def mark_sane(self, step: int) -> None:
        """Records that the steps after the checkpoint at `step` were sane, so that a run can go back to it."""
        self._replace_sane(self._keep.sane & set(self._manager.all_steps()) | {step})

    def drop_sane_after(self, step: int) -> None:
        """Forgets the marks of later steps, which a run that goes on from `step` takes again."""
        if any(marked > step for marked in self._keep.sane):
            self._replace_sane({marked for marked in self._keep.sane if marked <= step})

    def marks(self) -> dict[str, Any]:
        """Scores and sane steps as this process has read them, by the names of their files."""
        return {SCORES_FILE: sorted(self._keep.scores.items()), SANE_FILE: sorted(self._keep.sane)}

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first; waits first for a save to end."""
        self.wait()
        for later in sorted(self._manager.all_steps(), reverse=True):
            if later > step:
                self._manager.delete(later)
        self.drop_scores_after(step)
        self.drop_sane_after(step)  # of damaged ones that were moved away

    def _replace_sane(self, steps: set[int]) -> None:
        self._keep.sane.clear()
        self._keep.sane.update(steps)
        if jax.process_index() == 0:
            write_json(self._sane_path, sorted(steps))

    def _restore(self, step: int, **items: Any) -> Any:
        self.wait()
        if step not in (steps := self._manager.all_steps()):
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self.directory}: no checkpoint at step {step}; there are: {there}")
        folder = self.directory / str(step)
        if not folder.is_dir():
            raise UserError(
                f"{folder}: this checkpoint was deleted just now, by the run that goes on here; choose another one"
            )
        if step not in self._verified and (damage := stored_checkpoint(folder).damage(items)) is not None:
            raise UserError(f"{folder}: this checkpoint is damaged ({damage}); {self._way_out(step)}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise errors of many types for what they cannot read
            if is_out_of_memory(error):
                raise
            if is_fault_of_storage(error):
                raise TemporaryError(
                    f"{folder}: cannot be read now ({_first_line(error)}); run the same command again"
                ) from error
            raise UserError(
                f"{folder}: this checkpoint cannot be read ({_first_line(error)}); {self._way_out(step)}"
            ) from error

    def _way_out(self, step: int) -> str:
        """What to do instead of reading the checkpoint at `step`: the newest whole one before it, where there is one."""
        for found in reversed(stored_checkpoints(self._workdir)):
            if found.step < step and found.damage() is None:
                return (
                    f"the newest whole one before it is that of step {found.step}: move this folder away, or give "
                    f"--step={found.step} to a command that has it"
                )
        return "no whole one is left before it"

    def _before_final_name(self) -> None:
        """Orbax calls this on the first process, in the thread of the save, when all but `LATE_FILES` is written."""
        unfinished = f"{self._saving}.orbax-checkpoint-tmp"
        [folder] = [path for path in self.directory.iterdir() if path.name.startswith(unfinished)]
        write_checksums(folder)

    @contextlib.contextmanager
    def _errors_of_a_save(self) -> Iterator[None]:
        """Turns what the disk or the storage refuses into one line about the checkpoint that is being written."""
        try:
            yield
        except Exception as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from error

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, UserError) and isinstance(error.__cause__, OSError):
            error = error.__cause__  # `disk_errors` knew only the file
        text = str(error)
        words = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota", "File too large")  # of TensorStore
        limit = ", or a limit of the size of files is reached (ulimit -f)" if "File too large" in text else ""
        if is_disk_full(error) or any(word in text for word in words):
            free = shutil.disk_usage(self.directory).free / 1e9
            return UserError(
                f"{self.directory}: the disk is full ({free:.1f} GB free){limit}, the new checkpoint was not written; the "
                f"earlier ones are whole. Free some space and run the same command again: it continues from the last one"
            )
        if isinstance(error, UserError):
            return error
        earlier = "the new checkpoint was not written; the earlier ones are whole"
        if "Read-only file system" in text or "Permission denied" in text:
            return UserError(f"{self.directory}: cannot be written ({_first_line(error)}); {earlier}")
        if isinstance(error, OSError) or "Input/output error" in text:  # a time-out of another process is one too
            return TemporaryError(
                f"{self.directory}: cannot be written now ({_first_line(error)}); {earlier}. Run the same command again: it "
                "continues from the last one"
            )
        return error


def _fits_twice(tree: Any) -> bool:
    """Whether the host has free memory for a copy of the arrays and as much again, which writing them takes."""
    return psutil.virtual_memory().available > 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line.partition(" [tensorstore_spec")[0], 300)  # TensorStore adds its whole configuration
