"""Opens a model to continue from: one of the Hugging Face Hub, a folder in its format, or the folder of a run."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tonsai_jax.checkpoints.saved import SavedRun, open_checkpoint
from tonsai_jax.checkpoints.store import CheckpointStep
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.config_json import model_config_of
from tonsai_jax.huggingface.download import HUB, download
from tonsai_jax.huggingface.weights import Weights
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.lora import join_adapters, merge_adapters
from tonsai_jax.tokenizer.loading import TOKENIZER_FILES, Tokenizer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model to continue from.

    Attributes:
      where: how it was named.
      folder: the folder that it was read from; for a model of the Hub the folder in the cache.
      tokenizer_folder: the folder of its tokenizer.
      model_config: what the model is, with the defaults for how it is computed.
      dtype: in which its weights are stored: "float32", "bfloat16" or "float16".
      params: called with a tree of what is wanted (shape, dtype and sharding of each parameter; None: float32 on the default
        device) it reads the parameters, a nested dict. Raises `UserError` for weights that do not fit `model_config`.
      identity: computes what changes when the weights change.
      step: the step of the checkpoint of a run, else None.
    """

    where: str
    folder: Path
    tokenizer_folder: Path
    model_config: ModelConfig
    dtype: str
    params: Callable[..., dict[str, Any]]
    identity: Callable[[], str]
    step: int | None = None

    def record(self) -> dict[str, Any]:
        """What `open_base` needs to open this model again, also from another folder, as plain values for JSON."""
        where = str(self.folder)
        if self.where.startswith(HUB):  # the commit, since a branch moves on
            where = f"{self.where.partition('@')[0]}@{self.folder.name}"
        return {"where": where, "step": self.step, "identity": self.identity()}

    def tokenizer(self) -> Tokenizer:
        """Raises `UserError` if the model came without a tokenizer, or with one that cannot be used."""
        return Tokenizer.from_folder(self.tokenizer_folder)

    def check_tokenizer(self, tokenizer: Tokenizer) -> str:
        """Raises `UserError` unless `tokenizer` gives every text, and the place between two, the ids that this model has learned.

        Returns a line to print where the model came without a tokenizer, so that only the number of ids can be compared; else "".
        """
        if not any((self.tokenizer_folder / name).is_file() for name in TOKENIZER_FILES):
            return (
                f"note: {self.tokenizer_folder} has no tokenizer, so it is not known whether the tokenizer of these token rows "
                "is that of the model; if it is another one, the model starts with wrong embeddings"
            )
        own = self.tokenizer()
        again = (
            f"`tonsai tokenize --tokenizer-dir {self.tokenizer_folder}` (rows of conversations: "
            f"`tonsai prepare-sft --tokenizer-dir {self.tokenizer_folder}`)"
        )
        if _what_decides_ids(own) != _what_decides_ids(tokenizer):
            raise UserError(
                f"{tokenizer.folder}: these token rows were made with another tokenizer than that of {self.where}. Make them "
                f"with {again}, or give the model the new vocabulary with `tonsai new-vocabulary`"
            )
        if own.end_of_text_id != tokenizer.end_of_text_id:
            raise UserError(
                f"{tokenizer.folder}: these token rows have the id {tokenizer.end_of_text_id} between documents, but the "
                f"tokenizer of {self.where} has {own.end_of_text_id}; make them again with {again}"
            )
        return ""


def open_pretrained(where: str, named: str = "init_from", step: CheckpointStep | None = None) -> Pretrained:
    """Opens a model, without its weights.

    Args:
      where: "hf:ORG/NAME" or "hf:ORG/NAME@REVISION", which is downloaded into the cache of the Hub if it is not there; the
        folder of a model in Hugging Face format; or the workdir of a run.
      named: the key or flag that says so.
      step: which checkpoint of a run, "best" too; None is the newest.

    Raises `UserError` where there is no such model, or one that is not supported.
    """
    if where.startswith(HUB):
        return _open_folder(where, download(where.removeprefix(HUB)))
    folder = Path(where).expanduser().absolute()
    if folder.is_file():
        raise UserError(f"{named}={where}: is a file; give the folder of the model")
    if not folder.is_dir():
        hint = f"; for a model of the Hub write {HUB}{where}" if re.fullmatch(r"[\w.-]+/[\w.-]+", where) else ""
        if where.startswith("runs/"):
            hint = "; train that run first, or give the folder of another model"
        raise UserError(f"{named}={where}: no such folder{hint}")
    if (folder / "checkpoints").is_dir():
        return _open_run(where, open_checkpoint(folder, step))
    return _open_folder(where, folder)


def pretrained_config(where: str) -> ModelConfig:
    """What the model at `where` is, as `open_pretrained` says it, without a download of its weights."""
    if where.startswith(HUB):
        return _config_of(download(where.removeprefix(HUB), weights=False))
    return open_pretrained(where).model_config


def open_base(record: Mapping[str, Any], workdir: Path) -> Pretrained:
    """Opens the model that the adapters in `workdir` belong to, from its `Pretrained.record`.

    Raises `UserError` where it is gone, or is not what it was.
    """
    try:
        base = open_pretrained(record["where"], "base", record["step"])
    except UserError as error:
        raise UserError(f"{workdir}: the model that its adapters belong to cannot be opened: {error}") from None
    if base.identity() != record["identity"]:
        raise UserError(
            f"{workdir}: its adapters belong to the model that was in {record['where']} when they were trained, and the "
            "weights there are others now; put the earlier ones back, or train again in another folder"
        )
    return base


def params_of(checkpoint: SavedRun, wanted: Any = None) -> dict[str, Any]:
    """All parameters of a run's model; the adapters of LoRA are merged into their base.

    Args:
      wanted: tree like the parameters, the shape, dtype and sharding of each; None is float32 on the default device.
    """
    if (lora := checkpoint.lora) is None:
        return checkpoint.params(wanted)
    base = open_base(checkpoint.saved["base"], checkpoint.workdir)
    if wanted is None:
        return merge_adapters(join_adapters(checkpoint.params(), base.params()), lora)
    # Merged in float32 where they are wanted, and only then rounded.
    whole = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding), wanted)
    everywhere = NamedSharding(jax.tree.leaves(wanted)[0].sharding.mesh, PartitionSpec())
    adapters = jax.device_put(checkpoint.params(), everywhere)
    merged = merge_adapters(join_adapters(adapters, base.params(whole)), lora)
    return jax.tree.map(lambda leaf, like: jax.device_put(leaf.astype(like.dtype), like.sharding), merged, wanted)


def _open_run(where: str, run: SavedRun) -> Pretrained:
    def identity() -> str:
        return hashlib.sha256(json.dumps(run.saved, sort_keys=True).encode()).hexdigest()

    params = partial(params_of, run)
    tokenizer = run.workdir / "tokenizer"
    return Pretrained(where, run.workdir, tokenizer, run.model_config, "float32", params, identity, run.step)


def _open_folder(where: str, folder: Path) -> Pretrained:
    model_config = _config_of(folder)
    weights = Weights(folder)

    params = partial(weights.params, model_config)
    return Pretrained(where, folder, folder, model_config, weights.dtype, params, weights.sha256)


def _config_of(folder: Path) -> ModelConfig:
    """The model that the config.json of a folder describes."""
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: {_what_else(folder)}")
    config = read_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file}: not the config of a model; download it again")
    try:
        return model_config_of(config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def _what_else(folder: Path) -> str:
    """What a folder without config.json is, and what to do."""
    if (folder / "adapter_config.json").is_file():
        return "is an adapter, not a model; merge it into its model first (merge_and_unload of peft)"
    if list(folder.glob("*.gguf")):
        return "holds a model of llama.cpp; give the Hugging Face model that it was made from"
    return "no model here (no config.json, and no checkpoints of a run)"


def _what_decides_ids(tokenizer: Tokenizer) -> Any:
    """What decides the ids of a text. What an export of ours adds, for other programs, is not in it."""
    content = json.loads(tokenizer.to_json())
    added = [(token["id"], token["content"], token["special"]) for token in content["added_tokens"]]
    return content["model"], content["normalizer"], content["pre_tokenizer"], tokenizer.prefix, added
