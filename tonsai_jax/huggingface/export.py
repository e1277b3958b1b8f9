"""Writes a model in the format that `transformers` loads, completely or not at all, without PyTorch."""

import shutil
from collections.abc import Mapping
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
from tonsai_jax.files import atomic_folder, disk_errors, read_json, write_json
from tonsai_jax.huggingface.card import CardDetails, model_card
from tonsai_jax.huggingface.names import Tensor, config_json, flat, tensors
from tonsai_jax.huggingface.normalizer import NORMALIZER_FILE, normalizer_file, tokenizer_normalizer
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer

FORMAT = "tonsai_jax/export"
VERSION = 1
DTYPES = ("float32", "bfloat16")
MAX_SHARD_BYTES = 5_000_000_000


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
      tokenizer: the tokenizer that the model was trained with.
      output_dir: the folder to write. An earlier export there is replaced when this one is complete.
      details: what the model card says about the training.
      dtype: of the weights: "float32" or "bfloat16".
      normalize: whether the tokenizer normalizes text like the training text, as far as its format allows. Without it, decoding
        gives back any text exactly, and people must normalize what they give to the model.
      max_shard_bytes: a larger model is split into several files; only one of them is in memory at a time.

    Returns the folder.
    Raises `UserError` if no Hugging Face family fits the model, if the tokenizer has more ids than the model, if `output_dir` is
    a folder that is not an export, and if the disk is full.
    """
    output_dir = Path(output_dir).absolute()
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; use {' or '.join(DTYPES)}")
    if tokenizer.vocab_size > model_config.vocab_size:
        raise UserError(
            f"{tokenizer.folder}: this tokenizer has {tokenizer.vocab_size} ids, but the model has only "
            f"{model_config.vocab_size}; use the tokenizer that the model was trained with"
        )
    details = details or CardDetails()
    end_of_text_id = tokenizer.end_of_text_id
    special = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id, "pad_token_id": tokenizer.pad_id}
    with atomic_folder(output_dir, manifest="export.json", format=FORMAT) as folder, disk_errors(output_dir):
        write_json(
            folder / "config.json",
            config_json(model_config, end_of_text_id=end_of_text_id, pad_id=tokenizer.pad_id, dtype=dtype),
        )
        write_json(folder / "generation_config.json", special)
        _write_tokenizer(folder, tokenizer, model_config.context_length, normalize)
        _write_weights(folder, model_config, params, dtype, max_shard_bytes)
        (folder / "README.md").write_text(
            model_card(details.name or output_dir.name, model_config, details), encoding="utf-8"
        )
        write_json(folder / "export.json", {"format": FORMAT, "version": VERSION, "step": details.step, "dtype": dtype})
    return output_dir


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int, normalize: bool) -> None:
    """Copies the tokenizer. The copy normalizes text, and adds the end-of-text token before it, as our generation does."""
    for name in ("special_tokens_map.json", "chat_template.jinja", "spm.model"):
        if (tokenizer.folder / name).exists():
            shutil.copyfile(tokenizer.folder / name, folder / name)
    config = read_json(tokenizer.folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"model_max_length": context_length})
    inner = tokenizers.Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
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
            raise UserError(f"{file}: cannot be written ({error}); free some space or choose another folder") from None
        shutil.copymode(folder / "config.json", folder / file)  # save_file makes files that only the owner can read
        weight_map |= dict.fromkeys(arrays, file)
        total_bytes += sum(array.nbytes for array in arrays.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _array(value: Any, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(value).astype(jnp.dtype(dtype)))
