"""A trained model, opened for use: its parameters and tokenizer, and what else belongs to it where it is a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.saved import open_checkpoint
from tonsai_jax.checkpoints.store import CheckpointStep
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.pretrained import open_pretrained, params_of
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.saved_config import from_json
from tonsai_jax.tokenizer.loading import Tokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model ready to be used, from wherever it came; `params` are float32 on the default device.

    Attributes:
      name: for reports: how the user named it.
    """

    name: str
    model_config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer

    def for_scoring(self) -> Self:
        """The same model, computed in the same way wherever it came from: float32 on a CPU, bfloat16 elsewhere.

        So a run and its export have the same scores, whatever the run was trained in and on.
        """
        on_cpu = jax.default_backend() == "cpu"
        config = dataclasses.replace(
            self.model_config,
            dtype="float32" if on_cpu else "bfloat16",
            attention="auto",
            remat="none",
            document_mask=False,
        )
        return dataclasses.replace(self, model_config=config)


@dataclasses.dataclass(frozen=True)
class Run(LanguageModel):
    """A checkpoint of a run, and what belongs to it."""

    workdir: Path
    config: ConfigDict
    step: int
    saved: Mapping[str, Any] | None = None  # the resume metadata of the checkpoint, see `training.run.resume_metadata`


def load_run(workdir: str | Path, step: CheckpointStep | None = None) -> Run:
    """Opens the checkpoint of `step`, the best or the newest one, with its parameters; those of LoRA are merged into their base.

    Raises the errors of `open_checkpoint`, and a `UserError` where the base of a LoRA run is gone or has changed.
    """
    checkpoint = open_checkpoint(workdir, step)
    config = read_json(checkpoint.workdir / "config.json")
    if not isinstance(config, dict):
        raise UserError(
            f"{checkpoint.workdir / 'config.json'}: damaged, not the config of a run; `tonsai train` with the same --workdir "
            "writes it again"
        )
    return Run(
        name=str(workdir),
        workdir=checkpoint.workdir,
        config=from_json(config),
        model_config=checkpoint.model_config,
        params=params_of(checkpoint),
        tokenizer=Tokenizer.from_folder(checkpoint.workdir / "tokenizer"),
        step=checkpoint.step,
        saved=checkpoint.saved,
    )


def load_ensemble(workdirs: Sequence[str], step: CheckpointStep | None = None) -> list[Run]:
    """Opens a checkpoint of each of several runs, to score the mean of their log-probabilities (`training.ensemble`).

    Raises the errors of `load_run`, and a `UserError` where two runs do not have the same ids for the same text.
    """
    first, *others = runs = [load_run(workdir, step) for workdir in workdirs]
    for other in others:
        if other.tokenizer.hash != first.tokenizer.hash:
            raise UserError(
                f"{first.name} and {other.name} have different tokenizers, so their predictions have no mean; give "
                "runs that were trained on the same token rows"
            )
        sizes = first.model_config.vocab_size, other.model_config.vocab_size
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{first.name} has model.vocab_size={sizes[0]} and {other.name} has {sizes[1]}, so their "
                "predictions have no mean; give runs of one vocabulary size"
            )
    return runs


def load_model(where: str) -> LanguageModel:
    """Opens a model that is not a run of this package: "hf:ORG/NAME", "hf:ORG/NAME@REVISION", or a folder in that format.

    Raises the errors of `open_pretrained`.
    """
    pretrained = open_pretrained(where, "--model")
    return LanguageModel(where, pretrained.model_config, pretrained.params(None), pretrained.tokenizer())
