"""A run on disk, opened to train on: what changed since its checkpoint, and what its next checkpoint keeps."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tonsai_jax.config import LENGTH_KEYS, default_config
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, remove_left_behind, replace_folder, sha256_file, write_json
from tonsai_jax.model.config import ModelConfig, keys_that_change_arrays
from tonsai_jax.saved_config import EARLIER, differences, from_json, to_json
from tonsai_jax.stages import Stage

# Sections and keys of the config that say what a run writes, and not what it learns.
_COMPUTED = ("model.remat", "model.scan_layers", "model.attention")  # keys that change nothing but the order of sums
_WRITTEN = (
    "checkpoint",
    "eval",
    "export",
    "hosts",
    "layer_norms_every",
    "log_every",
    "profile",
    "sample",
    "terminal_view",
    "wandb",
)


def changes_since(
    saved: Mapping[str, Any], workdir: Path, config: ConfigDict, model_config: ModelConfig, manifest: RowsManifest
) -> list[str]:
    """Lines 'key: old -> new' for what changed in the config, and in the sources, since the checkpoint that a run resumes from.

    Args:
      saved: the resume metadata of that checkpoint.

    Raises `UserError` where the checkpoint has another model, another tokenizer or another optimizer.
    """
    if saved["tokenizer_hash"] != manifest.tokenizer_hash:
        raise UserError(
            f"{workdir}: was trained with another tokenizer than that of {manifest.directory}; "
            f"give another --workdir, or the token rows of this run"
        )
    saved_model = ModelConfig.from_saved(saved["model"])
    if keys := keys_that_change_arrays(saved_model, model_config):
        changes = [
            f"model.{key} is {getattr(saved_model, key)} in the checkpoint, {getattr(model_config, key)} in the config"
            for key in keys
        ]
        raise UserError(
            f"{workdir}: its checkpoint has another model ({'; '.join(changes)}); "
            f"use another --workdir, or the config that started this run: {workdir / 'config.json'} has its values"
        )
    check_optimizer(saved["config"], config, workdir)
    check_adapters(saved["config"], config, workdir)
    before, now = (", ".join(sorted(sources)) for sources in (saved["data"]["rows"], manifest.sources))
    sources = [f"sources: {before} -> {now}"] if before != now else []
    return sources + differences(to_json(from_json(saved["config"])), to_json(config))


def keep_earlier_defaults(saved_config: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """Gives a run that began with the defaults of `EARLIER` what it had, where its config file says nothing else.

    A value that is the default of today counts as not said. Returns a line 'key=value' for each key that it changes.
    """
    if "embedding_rate" in saved_config["optimizer"]:
        return []
    saved, today = from_json(saved_config), default_config()
    kept = []
    for section, earlier in EARLIER.items():
        for key, value in earlier.items():
            if saved[section][key] == value != config[section][key] == today[section][key]:
                config[section][key] = value
                kept.append(f"{section}.{key}={value}")
    return kept


def changes_training(change: str) -> bool:
    """Whether a line of `changes_since` is about what the model learns, not about how it is computed or what is written."""
    key = change.partition(":")[0]
    return key.partition(".")[0] not in _WRITTEN and key not in _COMPUTED


def changes_length(change: str) -> bool:
    """Whether a line of `changes_since` is about a key that gives the length of the run."""
    return change.partition(":")[0] in (*LENGTH_KEYS, "epochs_of", "stages")


def check_kinds(config: ConfigDict, stages: Sequence[Stage], manifest: RowsManifest) -> set[str]:
    """The sources that a run reads; raises `UserError` where `loss.objective` does not learn from one of them."""
    objective, read = config.loss.objective, manifest.read_by(stages)
    for name in sorted(read):
        kind = manifest.sources[name].kind
        if (kind == "pairs") == (objective != "next_token"):
            continue
        where = f"{manifest.directory}: source {name!r} holds"
        if kind == "pairs":
            raise UserError(
                f"{where} pairs of a chosen and a rejected answer, from which loss.objective={objective} does not learn; train "
                "with configs/sft/dpo.py, or give the source weight 0 in data.weights"
            )
        raise UserError(
            f"{where} {kind}, but loss.objective={objective} learns from pairs of a chosen and a rejected answer; "
            "`tonsai prepare-sft --pairs` makes rows of them"
        )
    return read


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


def check_adapters(saved_config: Mapping[str, Any], config: ConfigDict, workdir: Path) -> None:
    """Raises `UserError` where a checkpoint has other adapters than the config asks for."""
    saved, wanted = from_json(saved_config).lora, config.lora
    for key in ("rank", "targets"):
        if saved[key] != wanted[key] and (saved.rank or wanted.rank):
            flag = shlex.quote(f"--config.lora.{key}={saved[key]!r}".replace("'", '"'))
            raise UserError(
                f"{workdir}: its checkpoint does not fit lora.{key}={wanted[key]!r}: it was trained with {saved[key]!r} "
                f"(rank 0 trains all parameters); add {flag}, or give another --workdir"
            )


def open_workdir(workdir: Path, config: ConfigDict, manifest: RowsManifest, start_step: int) -> None:
    """Writes what a run that begins or resumes is made of: config, tokenizer, manifest of its rows, environment.

    Removes what a killed process left half written there, and replaces a damaged tokenizer by that of the rows. On the first
    host only.
    """
    if jax.process_index() == 0:
        from tonsai_jax.runtime.environment import record_start

        for folder in (workdir, workdir / "samples", workdir / "prompt_suite"):
            remove_left_behind(folder)
        write_json(workdir / "config.json", to_json(config))
        write_json(workdir / "data.json", read_json(manifest.directory / "manifest.json"))
        record_start(workdir / "environment.json", start_step)
        if not _same_files(manifest.directory / "tokenizer", workdir / "tokenizer"):
            replace_folder(manifest.directory / "tokenizer", workdir / "tokenizer")


def _same_files(source: Path, target: Path) -> bool:
    """Whether all files of a folder lie in another one too, with the same bytes."""
    pairs = [(file, target / file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    return all(copy.is_file() and sha256_file(copy) == sha256_file(file) for file, copy in pairs)


def resume_metadata(
    step: int,
    order: DataOrder,
    config: ConfigDict,
    model_config: ModelConfig,
    manifest: RowsManifest,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON part of a checkpoint: what a run needs besides its arrays to resume after `step` steps.

    Args:
      base: of LoRA, the model that the adapters belong to (`huggingface.pretrained.Pretrained.record`).
    """
    return ({} if base is None else {"base": dict(base)}) | {
        "step": step,
        "data": order.state(step),
        "model": dataclasses.asdict(model_config),
        "tokenizer_hash": manifest.tokenizer_hash,
        "config": to_json(config),
    }
