"""A checkpoint of a run, opened to read it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from tonsai_jax.checkpoints.remote_workdir import is_url, local_copy
from tonsai_jax.checkpoints.store import Checkpoints, CheckpointStep
from tonsai_jax.config import lora_settings
from tonsai_jax.errors import UserError
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.model.lora import split_adapters
from tonsai_jax.saved_config import from_json
from tonsai_jax.training.state import init_params


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A checkpoint of a run, without its arrays.

    Attributes:
      saved: its resume metadata, see `training.run.resume_metadata`.
    """

    workdir: Path
    step: int
    saved: Mapping[str, Any]
    model_config: ModelConfig
    checkpoints: Checkpoints

    @property
    def lora(self) -> Lora | None:
        """The adapters that the run trained; None where it trained all parameters."""
        return lora_settings(from_json(self.saved["config"]))

    def params(self, wanted: Any = None) -> dict[str, Any]:
        """The parameters in the checkpoint, float32: all, or the adapters of LoRA.

        Args:
          wanted: a tree like them with the shape, dtype and sharding of each; None is float32 on the default device.
        """
        if wanted is None:
            params = jax.eval_shape(lambda: init_params(self.model_config, 0, self.lora))
            one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device),
                params if self.lora is None else split_adapters(params)[0],
            )
        return self.checkpoints.restore_params(self.step, wanted)


def open_checkpoint(workdir: str | Path, step: CheckpointStep | None = None) -> SavedRun:
    """Opens the checkpoint of `step`, the one with the best score, or the newest one.

    Raises `UserError` where there is no run (an export is none), no checkpoint, or no checkpoint at that step.
    """
    workdir = local_copy(str(workdir), step) if is_url(workdir) else Path(workdir).absolute()
    if (workdir / "export.json").is_file():
        raise UserError(
            f"{workdir}: this is an exported model, not a run; give the --workdir that `tonsai train` was given, or load the "
            "export with transformers"
        )
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: no run here (no config.json); give the --workdir that `tonsai train` was given")
    checkpoints = Checkpoints(workdir, read_only=True)
    if step == "best":
        step = checkpoints.best_step()
    step = checkpoints.latest_step() if step is None else step
    if step is None:
        raise UserError(f"{workdir}: this run has no checkpoint yet; wait for the first one, or train some steps")
    saved = checkpoints.resume_metadata(step)
    return SavedRun(workdir, step, saved, ModelConfig.from_saved(saved["model"]), checkpoints)
