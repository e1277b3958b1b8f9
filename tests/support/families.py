"""Small models of every family with the switches that it can have: shared by the tests of the model and of its `config.json`."""

from typing import Any

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "context_length": 64,
    "num_layers": 2,
    "num_heads": 4,
    "d_model": 32,
    "d_ff": 48,
    "dtype": "float32",
}
GQA = {"num_kv_heads": 2}
STRETCHED = {"rope_factor": 4.0, "rope_original_context": 16}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, odd sizes": ("gpt2", {"num_heads": 2, "d_model": 24, "d_ff": 70, "num_layers": 3, "scan_layers": False}),
    "llama": ("llama", {}),
    "llama, GQA, tied": ("llama", GQA | {"tie_embeddings": True, "rope_theta": 500.0}),
    "llama, one kv head, own head size": ("llama", {"num_kv_heads": 1, "head_size": 6}),
    "llama, linear": ("llama", STRETCHED | {"rope_scaling": "linear"}),
    "llama, yarn": ("llama", STRETCHED | {"rope_scaling": "yarn", "head_size": 16}),
    "llama, llama3": ("llama", STRETCHED | {"rope_scaling": "llama3", "head_size": 16}),
    "qwen3": ("qwen3", GQA | {"head_size": 12}),
    "qwen3, tied": ("qwen3", {"tie_embeddings": True}),
    "gemma3": (
        "gemma3",
        GQA | {"num_layers": 5, "global_every": 3, "sliding_window": 7, "head_size": 12, "query_scalar": 20},
    ),
    "gemma3, stretched, unrolled": (
        "gemma3",
        STRETCHED
        | {"rope_scaling": "linear", "global_every": 2, "sliding_window": 16, "num_kv_heads": 1, "scan_layers": False},
    ),
    "gemma3, wide window": ("gemma3", {"sliding_window": 64, "global_every": 2, "tie_embeddings": False}),
    "gemma3, no window": ("gemma3", {"sliding_window": 0}),
    "mixtral, top-2": ("mixtral", GQA | {"num_experts": 4, "rope_scaling": "yarn", **STRETCHED}),
    "mixtral, top-1": ("mixtral", {"num_experts": 3, "experts_per_token": 1, "tie_embeddings": True}),
    "mixtral, temperature": ("mixtral", {"num_experts": 4, "experts_per_token": 3, "router_temperature": 1.7}),
}


def config_of(variant: str) -> ModelConfig:
    family, changes = VARIANTS[variant]
    return ModelConfig(**(SIZES | preset(family) | changes))
