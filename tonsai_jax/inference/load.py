"""A trained run, opened for use: its model, parameters and tokenizer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.config import from_json
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.pretrained import params_of
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.saved import open_checkpoint


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model and what belongs to it; `params` are float32 on the default device."""

    workdir: Path
    config: ConfigDict
    model_config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    step: int
    saved: Mapping[str, Any] | None = None  # the resume metadata of the checkpoint, see `training.run.resume_metadata`


def load_run(workdir: str | Path, step: int | None = None) -> Run:
    """Opens the checkpoint of `step`, or the newest one, with its parameters; adapters of LoRA are merged into their base.

    Raises the errors of `open_checkpoint`, and a `UserError` where the base of a LoRA run is gone or has changed.
    """
    checkpoint = open_checkpoint(workdir, step)
    return Run(
        workdir=checkpoint.workdir,
        config=from_json(read_json(checkpoint.workdir / "config.json")),
        model_config=checkpoint.model_config,
        params=params_of(checkpoint),
        tokenizer=Tokenizer.from_folder(checkpoint.workdir / "tokenizer"),
        step=checkpoint.step,
        saved=checkpoint.saved,
    )
