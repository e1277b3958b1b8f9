"""A trained run, opened for use: its model, parameters and tokenizer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tonsai_jax.config import from_json
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.checkpoint import Checkpoints
from tonsai_jax.training.state import init_params


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model and what belongs to it; `params` are float32 on the default device."""

    workdir: Path
    config: ConfigDict
    model_config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    step: int
    # The identity of each source's token rows in training (`RowsManifest.identity`).
    rows: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run, without its arrays.

    Attributes:
      saved: its resume metadata, see `training.run.resume_metadata`.
    """

    workdir: Path
    step: int
    saved: Mapping[str, Any]
    model_config: ModelConfig
    checkpoints: Checkpoints

    def params(self, shardings: Any = None) -> dict[str, Any]:
        """The parameters, float32, placed as `shardings` says (a tree like them); None is the default device."""
        shapes = jax.eval_shape(lambda: init_params(self.model_config, 0))
        if shardings is None:
            one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            shardings = jax.tree.map(lambda _: one_device, shapes)
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        return self.checkpoints.restore_params(self.step, abstract)


def open_checkpoint(workdir: str | Path, step: int | None = None) -> Checkpoint:
    """Opens the checkpoint of `step`, or the newest one.

    Raises `UserError` where there is no run (an export is none), no checkpoint, or no checkpoint at that step.
    """
    workdir = Path(workdir).absolute()
    if (workdir / "export.json").is_file():
        raise UserError(
            f"{workdir}: this is an exported model, not a run; give the --workdir that `tonsai train` was given, or load the "
            "export with transformers"
        )
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: no run here (no config.json); give the --workdir that `tonsai train` was given")
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.latest_step() if step is None else step
    if step is None:
        raise UserError(f"{workdir}: this run has no checkpoint yet; wait for the first one, or train some steps")
    saved = checkpoints.resume_metadata(step)
    return Checkpoint(workdir, step, saved, ModelConfig.from_saved(saved["model"]), checkpoints)


def load_run(workdir: str | Path, step: int | None = None) -> Run:
    """Opens the checkpoint of `step`, or the newest one, with its parameters; raises the errors of `open_checkpoint`."""
    checkpoint = open_checkpoint(workdir, step)
    return Run(
        workdir=checkpoint.workdir,
        config=from_json(read_json(checkpoint.workdir / "config.json")),
        model_config=checkpoint.model_config,
        params=checkpoint.params(),
        tokenizer=Tokenizer.from_folder(checkpoint.workdir / "tokenizer"),
        step=checkpoint.step,
        rows=checkpoint.saved["data"]["rows"],
    )
