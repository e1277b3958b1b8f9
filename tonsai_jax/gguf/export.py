"""Writes a model as one GGUF file, which llama.cpp and the programs built on it run, completely or not at all."""

import errno
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write
from tonsai_jax.gguf.tensors import ARCHITECTURES, ROPE_FACTORS, GGUFTensor, dtype_of, gguf_tensors, rope_factors
from tonsai_jax.gguf.vocabulary import Vocabulary, vocabulary
from tonsai_jax.huggingface.card_details import CardDetails
from tonsai_jax.huggingface.names import check_ids, family_of, flat
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.rope import YARN_FAST, YARN_SLOW
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TURN

DTYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
}
_MAGIC = b"GGUF"


def export_gguf(
    model_config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    details: CardDetails | None = None,
    dtype: str = "float32",
) -> Path:
    """Writes a file that llama.cpp loads. Only one tensor at a time is in memory in addition to `params`.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays.
      tokenizer: the tokenizer that the model was trained with.
      path: the file to write, *.gguf. An earlier GGUF file there is replaced when this one is complete.
      details: the model's name, languages and licenses, from the records of the run.
      dtype: of the matrices: "float32", "bfloat16" or "float16". Vectors are float32 always.

    Returns the file.
    Raises `UserError` if llama.cpp cannot represent the model or the tokenizer, if the tokenizer has more ids than the model, if
    a weight is too large for float16, if `path` is a folder or a file of another kind, and if the disk is full.
    """
    path = Path(path).absolute()
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    check_path(path)
    check_ids(model_config, tokenizer)
    # llama.cpp wants a token for each row of the table; a model may have rows that its tokenizer never uses.
    model_config = replace(model_config, vocab_size=tokenizer.vocab_size)
    family = family_of(model_config)
    if family not in ARCHITECTURES:
        raise UserError(
            f"a {family} model cannot be written as GGUF yet, only {', '.join(ARCHITECTURES)}; tonsai export writes it for "
            f"transformers"
        )
    if family == "qwen3" and model_config.rope_scaling == "llama3":
        raise UserError("llama.cpp's qwen3 has no model.rope_scaling=llama3; it has linear and yarn")
    by_path = flat(params)
    wanted = list(gguf_tensors(model_config))
    if unmatched := by_path.keys() ^ {part.path for tensor in wanted for part in tensor.parts}:
        raise KeyError(f"only in the parameters, or only in the table of names: {sorted(unmatched)}")
    with atomic_write(path) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[family]])
        try:
            _add_details(writer, details or CardDetails(), path.stem, dtype)
            _add_model(writer, model_config)
            _add_tokenizer(writer, tokenizer, vocabulary(tokenizer))
            _write_tensors(writer, wanted, by_path, model_config, dtype)
        finally:
            writer.close()
    return path


def check_path(path: Path) -> None:
    """Raises `UserError` for a name that is not *.gguf, a folder, and a file of another kind."""
    if path.suffix != ".gguf":
        raise UserError(f"{path}: the name of a GGUF file ends with .gguf; write {path.name}.gguf")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    if path.exists():
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise UserError(f"{path}: already exists and is no GGUF file; choose another name, or remove this one")


def _add_details(writer: gguf.GGUFWriter, details: CardDetails, name: str, dtype: str) -> None:
    writer.add_type("model")
    writer.add_name(details.name or name)
    if details.languages:
        writer.add_languages(details.languages)
    licenses = [source.license for source in details.sources]
    if licenses and all(licenses):
        writer.add_license(", ".join(dict.fromkeys(filter(None, licenses))))
    writer.add_file_type(DTYPES[dtype][1])


def _add_model(writer: gguf.GGUFWriter, model_config: ModelConfig) -> None:
    writer.add_vocab_size(model_config.vocab_size)
    writer.add_context_length(model_config.context_length)
    writer.add_embedding_length(model_config.d_model)
    writer.add_block_count(model_config.num_layers)
    writer.add_feed_forward_length(model_config.d_ff)
    writer.add_head_count(model_config.num_heads)
    writer.add_head_count_kv(model_config.kv_heads)
    if model_config.norm == "layernorm":
        writer.add_layer_norm_eps(model_config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(model_config.norm_epsilon)
    if model_config.position == "rope":
        _add_rope(writer, model_config)
    if model_config.num_experts:
        writer.add_expert_count(model_config.num_experts)
        writer.add_expert_used_count(model_config.experts_per_token)


def _add_rope(writer: gguf.GGUFWriter, model_config: ModelConfig) -> None:
    writer.add_key_length(model_config.head_dim)
    writer.add_value_length(model_config.head_dim)
    writer.add_rope_dimension_count(model_config.head_dim)
    writer.add_rope_freq_base(model_config.rope_theta)
    scaling = model_config.rope_scaling
    if scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
        writer.add_rope_scaling_factor(model_config.rope_factor)
    else:  # "llama3" is a tensor of factors; llama.cpp must not scale in addition
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(model_config.original_context)
        writer.add_rope_scaling_yarn_beta_fast(YARN_FAST)
        writer.add_rope_scaling_yarn_beta_slow(YARN_SLOW)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, vocab: Vocabulary) -> None:
    writer.add_tokenizer_model(vocab.model)
    if vocab.pre:
        writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.scores is not None:
        writer.add_token_scores(vocab.scores)
    if vocab.merges:
        writer.add_token_merges(vocab.merges)
    writer.add_bos_token_id(tokenizer.end_of_text_id)
    writer.add_eos_token_id(tokenizer.end_of_text_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    if END_OF_TURN in vocab.tokens:
        writer.add_eot_token_id(vocab.tokens.index(END_OF_TURN))
    # In training every document follows an end-of-text token. A text gets no space in front that it does not have.
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    template = tokenizer.folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def _write_tensors(
    writer: gguf.GGUFWriter,
    wanted: list[GGUFTensor],
    by_path: Mapping[str, Any],
    model_config: ModelConfig,
    dtype: str,
) -> None:
    factors = rope_factors(model_config) if model_config.rope_scaling == "llama3" else None
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    dtypes: dict[str, str] = {}
    for tensor in wanted:
        shape = jax.eval_shape(tensor.of, by_path).shape
        dtypes[tensor.name] = of_tensor = dtype_of(tensor.name, shape, dtype)
        stored = jnp.dtype(of_tensor)
        size = int(np.prod(shape)) * stored.itemsize
        writer.add_tensor_info(tensor.name, shape, stored, size, raw_dtype=DTYPES[of_tensor][0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        _write(writer, factors)
    for tensor in wanted:
        _write(writer, _as_dtype(np.asarray(tensor.of(by_path)), dtypes[tensor.name], tensor.name))


def _write(writer: gguf.GGUFWriter, values: np.ndarray) -> None:
    try:
        writer.write_tensor_data(np.ascontiguousarray(values).view(np.uint8))  # NumPy cannot write bfloat16 itself
    except OSError as error:
        if error.errno is None:  # NumPy gives no number where it can write only a part
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _as_dtype(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    if dtype == "float16" and np.abs(values).max() > np.finfo(np.float16).max:
        raise UserError(
            f"{name} has values above {np.finfo(np.float16).max:.0f}, too large for float16; use --dtype bfloat16 or float32"
        )
    return values.astype(jnp.dtype(dtype))
