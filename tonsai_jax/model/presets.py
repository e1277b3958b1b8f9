"""The Hugging Face families: for each the values of `ModelConfig` that make a model one of them."""

from typing import Any

from tonsai_jax.errors import unknown_name

# Set by every family, so that it replaces the values of another.
_PLAIN = {
    "norm_epsilon": 1e-5,
    "qk_norm": False,
    "num_experts": 0,
    "sandwich_norms": False,
    "scale_embedding": False,
    "query_scalar": 0,
    "sliding_window": 0,
    "global_every": 6,
    "local_rope_theta": 10_000.0,
}
_GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True, "tie_embeddings": True}
_LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "tie_embeddings": False}
_GEMMA3 = {
    "norm": "zero_centered_rmsnorm",
    "norm_epsilon": 1e-6,
    "mlp": "geglu",
    "qk_norm": True,
    "tie_embeddings": True,
    "sandwich_norms": True,
    "scale_embedding": True,
    "sliding_window": 1024,
    "rope_theta": 1_000_000.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": _PLAIN | _GPT2,
    "llama": _PLAIN | _LLAMA,
    "qwen3": _PLAIN | _LLAMA | {"qk_norm": True, "rope_theta": 1_000_000.0, "norm_epsilon": 1e-6},
    "mixtral": _PLAIN | _LLAMA | {"num_experts": 8, "experts_per_token": 2, "rope_theta": 1_000_000.0},
    "gemma3": _PLAIN | _LLAMA | _GEMMA3,
}


def preset(family: str) -> dict[str, Any]:
    """The keys that make a model one of `family`, for `config.model.update(preset("llama"))`. It sets no sizes.

    Raises `UserError` for an unknown family.
    """
    if family not in PRESETS:
        raise unknown_name("preset", family, PRESETS)
    return dict(PRESETS[family])
