"""Writes the adapters of LoRA in the format of Hugging Face's `peft`, without PyTorch; `peft` loads them onto the base model.

A kernel that we store in one array (queries, keys and values; gate and values of a gated MLP) is several layers there. All of
them get our A, and each its own columns of our B: (x A) B cut by columns is x A times the columns of B.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tonsai_jax.files import atomic_folder, disk_errors, write_json
from tonsai_jax.huggingface.card import adapter_card
from tonsai_jax.huggingface.card_details import CardDetails, hub_model
from tonsai_jax.huggingface.export import ADAPTER_FORMAT, CARD, VERSION, seal, write_tokenizer
from tonsai_jax.huggingface.names import check_ids, family_of, tensors
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer


def export_adapter(
    model_config: ModelConfig,
    adapters: Mapping[str, Any],
    lora: Lora,
    tokenizer: Tokenizer,
    output_dir: str | Path,
    *,
    base_model: str,
    base_is_run: bool = False,
    details: CardDetails | None = None,
    normalize: bool = True,
) -> Path:
    """Writes a folder that `PeftModel.from_pretrained` loads onto the base model; float32.

    Args:
      adapters: nested dict, see `model.lora.split_adapters`.
      base_model: the model that the adapters were trained on: hf:ORG/NAME@REVISION, or a folder.
      base_is_run: whether that folder is a run, which `peft` can load only after an export.
      tokenizer, output_dir, details, normalize: see `export`.

    Returns the folder. Raises `UserError` as `export` does.
    """
    output_dir = Path(output_dir).absolute()
    check_ids(model_config, tokenizer)
    details = details or CardDetails()
    arrays = _tensors(model_config, adapters, lora)
    base_name, revision = hub_model(base_model) or (base_model, None)
    # The name of a layer without its number: "self_attn.q_proj".
    modules = sorted({".".join(name.split(".")[-4:-2]) for name in arrays})
    with atomic_folder(output_dir, manifest="export.json", format=ADAPTER_FORMAT) as folder, disk_errors(output_dir):
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "revision": revision,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": modules,
            "fan_in_fan_out": family_of(model_config) == "gpt2",  # its layers store [in, out]
            "bias": "none",
            "inference_mode": True,
        }
        write_json(folder / "adapter_config.json", config)
        save_file(arrays, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_model.safetensors").chmod((folder / "adapter_config.json").stat().st_mode)
        write_tokenizer(folder, tokenizer, model_config.context_length, normalize)
        card = adapter_card(
            details.name or output_dir.name,
            model_config,
            lora,
            base_model,
            details,
            base_is_run=base_is_run,
            chat_template=tokenizer.chat_template is not None,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        seal(folder, output_dir, {"format": ADAPTER_FORMAT, "version": VERSION, "step": details.step})
    return output_dir


def _tensors(model_config: ModelConfig, adapters: Mapping[str, Any], lora: Lora) -> dict[str, np.ndarray]:
    """The tensors of `peft`, [out, in] as those of PyTorch's linear layers, also for GPT-2."""
    arrays = {}
    for tensor in tensors(model_config):
        layer_name = tensor.path.removeprefix("blocks.").removesuffix(".kernel")
        if layer_name not in lora.targets:
            continue
        adapter, (layer,) = adapters["blocks"][layer_name]["adapter"], tensor.index
        a_IxR, b_RxO = (np.asarray(adapter[name][layer], np.float32) for name in ("lora_a", "lora_b"))
        name = f"base_model.model.{tensor.name.removesuffix('.weight')}"
        arrays[f"{name}.lora_A.weight"] = np.ascontiguousarray(a_IxR.T)
        arrays[f"{name}.lora_B.weight"] = np.ascontiguousarray(b_RxO[:, tensor.columns or slice(None)].T)
    return arrays
