"""A run on disk: opened to train on, with what changed since; or opened for use, with its model and tokenizer."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tonsai_jax.config import differences, from_json, to_json
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors, read_json, write_json
from tonsai_jax.model.config import ModelConfig, keys_that_change_arrays
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


def changes_since(
    saved: Mapping[str, Any], workdir: Path, config: ConfigDict, model_config: ModelConfig, manifest: RowsManifest
) -> list[str]:
    """Lines 'key: old -> new' for what changed in the config since the checkpoint that a run resumes from.

    Args:
      saved: the resume metadata of that checkpoint.

    Raises `UserError` where the checkpoint has a model of another shape, another tokenizer or another optimizer.
    """
    saved_model = ModelConfig.from_saved(saved["model"])
    if keys := keys_that_change_arrays(saved_model, model_config):
        changes = [
            f"model.{key} is {getattr(saved_model, key)} in the checkpoint, {getattr(model_config, key)} in the config"
            for key in keys
        ]
        raise UserError(
            f"{workdir}: its checkpoint has another model ({'; '.join(changes)}); "
            f"use another --workdir, or the config that started this run"
        )
    if saved["tokenizer_hash"] != manifest.tokenizer_hash:
        raise UserError(
            f"{workdir}: was trained with another tokenizer than that of {manifest.directory}; "
            f"give another --workdir, or the token rows of this run"
        )
    check_optimizer(saved["config"], config, workdir)
    return differences(to_json(from_json(saved["config"])), to_json(config))


def check_optimizer(saved_config: Mapping[str, Any], config: ConfigDict, workdir: Path) -> None:
    """Raises `UserError` where a checkpoint has the state of another optimizer than the config asks for."""
    saved, wanted = from_json(saved_config).optimizer, config.optimizer
    keys = ["name"]
    if wanted.name == "adafactor" and 0 in (saved.beta1, wanted.beta1):
        keys.append("beta1")  # at 0 it keeps no first moment
    for key in keys:
        if saved[key] != wanted[key]:
            raise UserError(
                f"{workdir}: its checkpoint holds the state of another optimizer (optimizer.{key} is {saved[key]} in the "
                f"checkpoint, {wanted[key]} in the config); add --config.optimizer.{key}={saved[key]}, or give another --workdir"
            )


def open_workdir(workdir: Path, config: ConfigDict, manifest: RowsManifest) -> None:
    """Writes the config and the tokenizer of a run that begins or resumes; on the first host only."""
    if jax.process_index() == 0:
        write_json(workdir / "config.json", to_json(config))
        with disk_errors(workdir):
            shutil.copytree(manifest.directory / "tokenizer", workdir / "tokenizer", dirs_exist_ok=True)


def resume_metadata(
    step: int, order: DataOrder, config: ConfigDict, model_config: ModelConfig, manifest: RowsManifest
) -> dict[str, Any]:
    """The JSON part of a checkpoint: what a run needs besides its arrays to resume after `step` steps."""
    return {
        "step": step,
        "data": order.state(step),
        "model": dataclasses.asdict(model_config),
        "tokenizer_hash": manifest.tokenizer_hash,
        "config": to_json(config),
    }


def load_run(workdir: str | Path, step: int | None = None) -> Run:
    """Opens the checkpoint of `step`, or the newest one.

    Raises `UserError` where there is no run, no checkpoint, or no checkpoint at that step.
    """
    workdir = Path(workdir).absolute()
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: no run here (no config.json); give the --workdir that tonsai_jax.train was given")
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.latest_step() if step is None else step
    if step is None:
        raise UserError(f"{workdir}: this run has no checkpoint yet; wait for the first one, or train some steps")
    model_config = ModelConfig.from_saved(checkpoints.resume_metadata(step)["model"])
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda: init_params(model_config, 0)),
    )
    return Run(
        workdir=workdir,
        config=from_json(read_json(workdir / "config.json")),
        model_config=model_config,
        params=checkpoints.restore_params(step, abstract),
        tokenizer=Tokenizer.from_folder(workdir / "tokenizer"),
        step=step,
    )
