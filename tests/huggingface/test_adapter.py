"""The adapters of LoRA as `peft` reads them: on the base model they compute what our model does."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.families import config_of
from tests.support.tiny_model import random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.adapter import export_adapter
from tonsai_jax.huggingface.card import adapter_card
from tonsai_jax.huggingface.card_details import CardDetails
from tonsai_jax.huggingface.export import export
from tonsai_jax.model.config import LORA_TARGETS, Lora
from tonsai_jax.model.lora import merge_adapters, split_adapters
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

LORA = Lora(rank=4, alpha=6.0, dropout=0.0, targets=LORA_TARGETS)
TOKENS = np.random.default_rng(0).integers(0, 280, (2, 23))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture(scope="module")
def peft() -> Any:
    pytest.importorskip("torch", reason="`uv sync --extra hf` brings PyTorch, transformers and peft")
    pytest.importorskip("transformers")
    return pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("variant", "targets"),
    [
        ("gpt2", LORA_TARGETS),
        ("llama, GQA, tied", LORA_TARGETS),
        ("qwen3", LORA_TARGETS),
        ("gemma3", LORA_TARGETS),
        ("mixtral, top-2", LORA_TARGETS[:2]),
        ("gpt2", ("attention_out",)),
    ],
)
def test_peft_computes_what_our_adapters_do(
    variant: str, targets: tuple[str, ...], peft: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import torch
    import transformers

    config, lora = config_of(variant), dataclasses.replace(LORA, targets=targets)
    params = random_params(config, lora=lora)
    adapters, base = split_adapters(params)
    model_folder = export(config, base, tokenizer, tmp_path / "model")
    folder = export_adapter(config, adapters, lora, tokenizer, tmp_path / "adapter", base_model=str(model_folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(theirs, str(folder)).eval()
    loaded = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(loaded) == len(_names(folder))
    with torch.no_grad():
        applied = model(torch.from_numpy(TOKENS)).logits.numpy()
        merged = model.merge_and_unload()(torch.from_numpy(TOKENS)).logits.numpy()

    ours = nnx.merge(model_graph(config, "xla"), merge_adapters(params, lora))
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(lambda tokens: ours.logits(ours(tokens)[0]))(TOKENS))
    for logits in (applied, merged):
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
        return list(file.keys())


def test_the_folder_names_its_base_and_how_to_load_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = config_of("llama, GQA, tied")
    adapters, _ = split_adapters(random_params(config, lora=LORA))
    details = CardDetails(name="khmer-lora", step=20, base_model="org/base")
    base = "hf:org/base@0123abc"
    folder = export_adapter(config, adapters, LORA, tokenizer, tmp_path / "a", base_model=base, details=details)
    saved = read_json(folder / "adapter_config.json")
    assert (saved["base_model_name_or_path"], saved["revision"]) == ("org/base", "0123abc")
    assert (saved["r"], saved["lora_alpha"]) == (4, 6.0)
    assert "self_attn.q_proj" in saved["target_modules"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for line in ("library_name: peft", "base_model: org/base", "base_model_relation: adapter", "trained for 20 steps"):
        assert line in card
    assert 'AutoModelForCausalLM.from_pretrained("org/base", revision="0123abc")' in card
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize(("is_run", "written_by"), [(True, "`tonsai export` writes it"), (False, "on the model `sft`")])
def test_the_card_does_not_name_a_model_of_the_hub_that_the_adapters_were_not_trained_on(
    is_run: bool, written_by: str, tmp_path: Path
) -> None:
    """Here the adapters belong to a model that itself continues from one of the Hub."""
    details = CardDetails(name="khmer-lora", step=20, base_model="org/base")
    base = str(tmp_path / "runs" / "sft")
    card = adapter_card("lora", config_of("gpt2"), LORA, base, details, base_is_run=is_run)
    assert 'AutoModelForCausalLM.from_pretrained("path/to/sft")' in card
    assert written_by in card
    assert "On the weights of org/base the adapters do not give the model" in card
    assert "\nbase_model" not in card
    assert str(tmp_path) not in card


def test_a_merged_export_is_not_replaced_by_adapters(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = config_of("llama, GQA, tied")
    adapters, base = split_adapters(random_params(config, lora=LORA))
    folder = export(config, base, tokenizer, tmp_path / "model")
    with pytest.raises(UserError, match=str(folder)):
        export_adapter(config, adapters, LORA, tokenizer, folder, base_model="org/base")
    assert (folder / "model.safetensors").is_file()
