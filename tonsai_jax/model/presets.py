"""The Hugging Face families: for each the values of `ModelConfig` that make a model one of them."""

from typing import Any

from tonsai_jax.errors import unknown_name

_PLAIN = {"qk_norm": False, "num_experts": 0}  # set by every family, so that it replaces the values of another
_GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True, "tie_embeddings": True}
_LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "tie_embeddings": False}
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": _PLAIN | _GPT2,
    "llama": _PLAIN | _LLAMA,
    "qwen3": _PLAIN | _LLAMA | {"qk_norm": True, "rope_theta": 1_000_000.0, "norm_epsilon": 1e-6},
    "mixtral": _PLAIN | _LLAMA | {"num_experts": 8, "experts_per_token": 2, "rope_theta": 1_000_000.0},
}


def preset(family: str) -> dict[str, Any]:
    """The keys that make a model one of `family`, for `config.model.update(preset("llama"))`. It sets no sizes.

    Raises `UserError` for an unknown family.
    """
    if family not in PRESETS:
        raise unknown_name("preset", family, PRESETS)
    return dict(PRESETS[family])
