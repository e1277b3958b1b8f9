"""Writes a model in the format that `transformers` loads, completely or not at all, without PyTorch."""

import os
import shutil
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import normalizers, processors

from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_folder, disk_errors, read_json, sha256_file, write_json
from tonsai_jax.huggingface.card import model_card
from tonsai_jax.huggingface.card_details import CardDetails
from tonsai_jax.huggingface.config_json import config_json
from tonsai_jax.huggingface.names import Tensor, check_ids, flat, tensors
from tonsai_jax.huggingface.normalizer import NORMALIZER_FILE, normalizer_file, tokenizer_normalizer
from tonsai_jax.huggingface.sums import SUMS_FILE, write_sums
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer

FORMAT, ADAPTER_FORMAT = "tonsai_jax/export", "tonsai_jax/adapter"
VERSION = 1
CARD, GENERATION_CONFIG = "README.md", "generation_config.json"
# What people edit in an export, and where the new one goes if they did.
EDITABLE = {CARD: "README.generated.md", GENERATION_CONFIG: "generation_config.generated.json"}
DTYPES = ("float32", "bfloat16", "float16")
MAX_SHARD_BYTES = 5_000_000_000
# The files of an export whose export.json does not list them, because it is older than the list.
_UNLISTED = (CARD, "*.json", "*.safetensors", "chat_template.jinja", "spm.model")


def export(
    model_config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    output_dir: str | Path,
    *,
    details: CardDetails | None = None,
    dtype: str = "float32",
    normalize: bool = True,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays.
      tokenizer: the tokenizer that the model was trained with; that of an open model is copied as it is.
      output_dir: the folder to write. An earlier export there is replaced when this one is complete; what a person added to it
        stays, and so do the files of `EDITABLE` that a person edited (the new ones get a second name).
      details: what the model card says about the training.
      dtype: of the weights: "float32", "bfloat16" or "float16".
      normalize: whether our tokenizer normalizes text like the training text, as far as its format allows. Without it, decoding
        gives back any text exactly, and people must normalize what they give to the model.
      max_shard_bytes: a larger model is split into several files; only one of them is in memory at a time.

    Returns the folder.
    Raises `UserError` if no Hugging Face family fits the model, if the tokenizer has more ids than the model, if `output_dir` is
    a folder that is not an export or has a person's file with the name of one of ours, if a weight is too large for float16, and
    if the disk is full.
    """
    output_dir = Path(output_dir).absolute()
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    check_ids(model_config, tokenizer)
    details = details or CardDetails()
    _warn_about_yarn(model_config)
    with atomic_folder(output_dir, manifest="export.json", format=FORMAT) as folder, disk_errors(output_dir):
        config = config_json(
            model_config, end_of_text_id=tokenizer.end_of_text_id, pad_id=tokenizer.pad_id, dtype=dtype
        )
        special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        write_tokenizer(folder, tokenizer, model_config.context_length, normalize)
        if not tokenizer.is_ours:
            ids = tokenizer.special_ids
            special = {"bos_token_id": ids.bos, "eos_token_id": ids.eos, "pad_token_id": ids.pad}
        write_json(folder / "config.json", config | special)
        ends = tokenizer.end_ids
        write_json(folder / GENERATION_CONFIG, special | {"eos_token_id": ends[0] if len(ends) == 1 else list(ends)})
        _write_weights(folder, model_config, params, dtype, max_shard_bytes)
        card = model_card(
            details.name or output_dir.name,
            model_config,
            details,
            normalization=tokenizer.normalization,
            tokenizer_normalizes=normalize and tokenizer.is_ours,
            starts_documents=tokenizer.is_ours or tokenizer.end_of_text_id == tokenizer.special_ids.first,
            chat_template=tokenizer.chat_template is not None,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        seal(folder, output_dir, {"format": FORMAT, "version": VERSION, "step": details.step, "dtype": dtype})
    return output_dir


def seal(folder: Path, output_dir: Path, record: dict[str, Any]) -> None:
    """Ends the writing of an export: takes over what a person added to the earlier one, and writes export.json and SHA256SUMS.

    Args:
      folder: the new export.
      output_dir: where it will be, and an earlier one may be now.
      record: what export.json says besides the files.
    """
    sha256 = {name: sha256_file(folder / name) for name in EDITABLE if (folder / name).is_file()}
    summed = {file.name for file in folder.iterdir()} - EDITABLE.keys() | {"export.json"}
    ours = summed | sha256.keys() | {SUMS_FILE}
    if (output_dir / "export.json").exists():
        ours |= _keep_additions(output_dir, folder)
    write_json(folder / "export.json", record | {"sha256": sha256, "files": sorted(ours)})
    write_sums(folder, summed)


def check_export(folder: Path) -> None:
    """Raises `UserError` if `folder` is not a complete export."""
    record = read_json(folder / "export.json") if (folder / "export.json").is_file() else None
    if not isinstance(record, dict) or record.get("format") not in (FORMAT, ADAPTER_FORMAT):
        raise UserError(f"{folder}: no export here (no export.json); give --workdir to make one")
    for name in record.get("files", ()):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: this file of the export is missing; give --workdir to export again")


def _keep_additions(earlier: Path, folder: Path) -> set[str]:
    """Links into the new export what a person added to the earlier one or edited there.

    Returns the names of our files that this added.
    """
    record = read_json(earlier / "export.json")
    for path in earlier.iterdir():
        if any(fnmatch(path.name, name) for name in record.get("files", _UNLISTED)):
            continue
        if (folder / path.name).exists():
            raise UserError(
                f"{path}: not written by the earlier export, and this one has a file of this name; rename it"
            )
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, folder / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, folder / path.name)
    added = set()
    for name, sha256 in record.get("sha256", {}).items():
        edited = earlier / name
        if not edited.is_file() or sha256_file(edited) == sha256:
            continue
        (folder / name).rename(folder / EDITABLE[name])
        _link(edited, folder / name)
        added.add(EDITABLE[name])
        _warn(f"{edited} was edited, so it stays; the new one is {EDITABLE[name]}")
    return added


def _link(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name, or copies it where the disk cannot do that: the earlier folder stays whole."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _warn_about_yarn(model_config: ModelConfig) -> None:
    stretched = model_config.original_context * model_config.rope_factor
    if model_config.rope_scaling == "yarn" and stretched != model_config.context_length:
        _warn(
            f"model.rope_factor={model_config.rope_factor:g} times the original context of {model_config.original_context} "
            f"tokens is not model.context_length={model_config.context_length}: transformers computes the same as we do, with "
            f"a warning, and other programs may take {stretched:.0f} tokens as the longest context"
        )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int, normalize: bool) -> None:
    """Writes the files of a tokenizer: ours as `transformers` should use it, another one as it is."""
    if tokenizer.is_ours:
        _write_tokenizer(folder, tokenizer, context_length, normalize)
    else:
        _copy_tokenizer(folder, tokenizer)


def _copy_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Copies the tokenizer of an open model as it is: programs that know the model know this tokenizer."""
    for path in tokenizer.files:
        if path.name not in ("config.json", GENERATION_CONFIG, "report.json"):
            shutil.copyfile(path, folder / path.name)
    if tokenizer.normalization is not None:
        (folder / NORMALIZER_FILE).write_text(normalizer_file(tokenizer.normalization), encoding="utf-8")


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int, normalize: bool) -> None:
    """Copies our tokenizer. The copy normalizes text, and adds the end-of-text token before it, as our generation does."""
    for name in ("special_tokens_map.json", "chat_template.jinja", "spm.model"):
        if (tokenizer.folder / name).exists():
            shutil.copyfile(tokenizer.folder / name, folder / name)
    config = read_json(tokenizer.folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"model_max_length": context_length})
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    if tokenizer.normalization is not None:
        if normalize:
            steps = [tokenizer_normalizer(tokenizer.normalization), inner.normalizer]
            inner.normalizer = normalizers.Sequence([step for step in steps if step is not None])
        (folder / NORMALIZER_FILE).write_text(normalizer_file(tokenizer.normalization), encoding="utf-8")
    end_of_text = inner.id_to_token(tokenizer.end_of_text_id)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{end_of_text} $A",
        pair=f"{end_of_text} $A {end_of_text} $B",
        special_tokens=[(end_of_text, tokenizer.end_of_text_id)],
    )
    (folder / "tokenizer.json").write_text(inner.to_str(pretty=True) + "\n", encoding="utf-8")


def _write_weights(
    folder: Path, model_config: ModelConfig, params: Mapping[str, Any], dtype: str, max_shard_bytes: int
) -> None:
    by_path = flat(params)
    wanted = tensors(model_config)
    if unmatched := by_path.keys() ^ {tensor.path for tensor in wanted}:
        raise KeyError(f"only in the parameters, or only in the table of names: {sorted(unmatched)}")
    shards: list[list[Tensor]] = [[]]
    shard_bytes = total_bytes = 0
    for tensor in wanted:
        size = jax.eval_shape(tensor.of, by_path[tensor.path]).size * jnp.dtype(dtype).itemsize
        if shards[-1] and shard_bytes + size > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(tensor)
        shard_bytes += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        arrays = {tensor.name: _array(tensor.of(by_path[tensor.path]), dtype) for tensor in shard}
        try:
            save_file(arrays, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # also a full disk
            raise UserError(
                f"{folder / file}: cannot be written ({error}); free some space or choose another folder"
            ) from None
        shutil.copymode(folder / "config.json", folder / file)  # save_file makes files that only the owner can read
        weight_map |= dict.fromkeys(arrays, file)
        total_bytes += sum(array.nbytes for array in arrays.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _array(value: Any, dtype: str) -> np.ndarray:
    value = np.asarray(value)
    if dtype == "float16" and (largest := np.abs(value).max()) > np.finfo(np.float16).max:
        raise UserError(f"a weight of {largest:.3g} is too large for float16; use --dtype bfloat16 or float32")
    return np.ascontiguousarray(value.astype(jnp.dtype(dtype)))
